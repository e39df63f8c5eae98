"""The picture of the gauge counter, as HTML: every weight matrix as a grid of cells, below it the account.

``gauge_counter.py`` says what is true in a state; here it is drawn. ``gauge_counter.mjs`` finds the parts by their
data-part names and moves them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from html import escape

from qkvtheory.widgets.gauge_counter import (
    LAYERS,
    LETTERS,
    PARTS,
    WORDS,
    Account,
    Sheet,
    about,
    account,
    sentence,
)
from qkvtheory.widgets.state import State
from qkvtheory.widgets.text import fixed

NAMES = {
    "topology": ("skips", {"T0": "none", "TA": "attention", "TM": "MLP", "T2": "both"}),
    "norm": ("norm before each sublayer", {"none": "none", "RMSNorm": "RMSNorm", "LayerNorm": "LayerNorm"}),
    "queries": ("query matrices", {"own": "own", "shared": "one for all", "identity": "W<sub>Q</sub> = I"}),
    "layers": ("layers", {str(n): str(n) for n in LAYERS}),
    "groups": ("key/value heads for two query heads", {"own": "two", "one": "one"}),
    "positions": ("positions", {"additive": "added", "RoPE": "RoPE"}),
    "activation": ("activation of the MLP", {name: name for name in ("GELU", "ReLU", "SwiGLU")}),
}
SWITCHES = {"gains": "gains", "biases": "biases", "tied": "tied readout"}
SYMBOLS = {"Q": "sq", "K": "sk", "V": "sv"}
NOBODY = "a norm is needed first"


def still(state: State) -> str:
    """The inside of the widget for a state of ``check_state``, as HTML."""
    found = account(state)
    return (
        '<p class="qkv-lead"><b>Which parameters matter?</b> Each square is one parameter of a small network. A change '
        "of basis can turn the pale ones into the 0 or 1 they show, and the function stays. Which ones is our choice; "
        "how many is not.</p>"
        f"{controls(state)}"
        f'<p class="qkv-live qkv-counted" aria-live="polite" data-part="live">{sentence(found)}</p>'
        f'<div class="qkv-net" data-part="net" data-words="{escape(json.dumps(WORDS, ensure_ascii=False))}">'
        f"{net(found, state['show'])}</div>"
        f"{bars(found, state['show'])}{twin(found)}"
    )


# --- the controls ---


def pressed(on: bool) -> str:
    return str(on).lower()


def controls(state: State) -> str:
    return (
        '<fieldset class="qkv-controls qkv-asked" data-part="controls" disabled><legend>The network</legend>'
        + "".join(choice(key, state) for key in NAMES)
        + "".join(switch(name, text, state) for name, text in SWITCHES.items())
        + '<div class="qkv-last"><button type="button" data-part="reset">Start again <kbd>Esc</kbd></button></div>'
        + "</fieldset>"
    )


def choice(key: str, state: State) -> str:
    title, names = NAMES[key]
    buttons = "".join(
        f'<button type="button" data-part="{key} {value}" aria-pressed="{pressed(value == str(state[key]))}">'
        f"{text}</button>"
        for value, text in names.items()
    )
    return f'<div class="qkv-choice" role="group" aria-label="{title}"><span>{title}</span>{buttons}</div>'


def switch(name: str, text: str, state: State) -> str:
    off = name == "gains" and state["norm"] == "none"
    return (
        f'<label class="qkv-switch" title="{NOBODY if off else ""}" data-part="label {name}">'
        f'<input type="checkbox" role="switch" data-part="{name}"'
        f"{' checked' if state[name] else ''}{' disabled' if off else ''}><span>{text}</span></label>"
    )


# --- the matrices; gauge_counter.mjs writes the same ---


def symbol(sheet: Sheet) -> str:
    """The name of a matrix, in its color."""
    if sheet.name == "W_up" and sheet.columns > sheet.rows + 1:
        return f"<i>W<sub>gate</sub></i>, {symbol(replace(sheet, columns=sheet.rows))}"
    name, _, index = sheet.name.partition("_")
    lower = f"<sub>{index}</sub>" if index else ""
    note = f" {sheet.note}" if sheet.note else ""
    return f'<i class="{SYMBOLS.get(index, "")}">{name}{lower}</i>{note}'


def place(sheet: Sheet, layers: int) -> str:
    return "embedding" if sheet.place == 0 else "readout" if sheet.place > layers else f"layer {sheet.place}"


def net(found: Account, show: str) -> str:
    html = ""
    for at in range(found.a.layers + 2):
        here = [sheet for sheet in found.sheets if sheet.place == at]
        boxes = "".join(
            box(sheet, below[0] if below and below[0].name.startswith("b_") else None, found, show)
            for i, sheet in enumerate(here)
            if not sheet.name.startswith("b_")
            for below in [here[i + 1 : i + 2]]
        )
        html += f'<div class="qkv-layer"><p>{place(here[0], found.a.layers)}</p><div>{boxes}</div></div>'
    return html


def box(sheet: Sheet, bias: Sheet | None, found: Account, show: str) -> str:
    """A matrix, and below it the bias that belongs to it."""
    drawn = squares(sheet, found, show) + (squares(bias, found, show, 10 * sheet.rows + 5) if bias else "")
    title = symbol(sheet) + (f", {symbol(bias)}" if bias else "")
    height = 10 * sheet.rows + (15 if bias else 0)
    return (
        f'<div class="qkv-sheet {SYMBOLS.get(sheet.name[2:], "")}" style="--n:{sheet.columns}"><p>{title}</p>'
        f'<svg viewBox="0 0 {10 * sheet.columns} {height}" aria-hidden="true">{drawn}</svg></div>'
    )


def squares(sheet: Sheet, found: Account, show: str, top: int = 0) -> str:
    """Paths: cells that matter (or of which nothing is known), pale ones, those of the part shown, their digits."""
    if not sheet.cells:
        return f'<path class="ghost" d="M1 1H{10 * sheet.columns - 1}V{10 * sheet.rows - 1}H1Z"></path>'
    chosen = LETTERS.get(show, "-")
    drawn = {"open" if found.refused else "full": "", "pale": "", "lit": "", "digit": ""}
    full = next(iter(drawn))
    for at, cell in enumerate(sheet.cells):
        x, y = 10 * (at % sheet.columns), 10 * (at // sheet.columns) + top
        drawn[full if cell == "." else "lit" if cell.lower() == chosen else "pale"] += f"M{x + 1} {y + 1}h8v8h-8z"
        if cell != ".":
            drawn["digit"] += (
                f"M{x + 5} {y + 3}v4" if cell.isupper() else f"M{x + 4} {y + 5}a1 2 0 1 0 2 0a1 2 0 1 0 -2 0"
            )
    return "".join(f'<path class="{name}" d="{d}"></path>' for name, d in drawn.items() if d)


# --- the account ---


def bars(found: Account, show: str) -> str:
    """From all parameters, part by part, down to what is left."""
    whole, end, rows = found.parameters, found.parameters, ""
    for part in PARTS:
        size = found.parts[part]
        end -= size
        name = f'<button type="button" data-variant="{part}" aria-pressed="{pressed(part == show)}">{part}</button>'
        rows += bar(part, name, end, size, whole, not size)
    left = 0 if found.refused else found.dimension
    return (
        '<p class="qkv-title qkv-head">The account</p>'
        f'<fieldset class="qkv-account" aria-label="Parts of the account" data-part="account" disabled>'
        f"{bar('parameters', 'parameters', 0, whole, whole)}{rows}"
        f"{bar('dimension', 'functional dimension', 0, left, whole, bool(found.refused))}</fieldset>"
        f'<p class="qkv-note" data-part="about">{about(found, show)}</p>'
    )


def bar(key: str, name: str, start: int, size: int, whole: int, hidden: bool = False) -> str:
    shown = f' style="{lengths(start, size, whole)}"{" hidden" if hidden else ""}'
    return (
        f'<div class="qkv-count" data-part="row {key}"{shown}>'
        f'<span>{name}</span><div class="qkv-track"><span></span></div><b>{size}</b></div>'
    )


def lengths(start: int, size: int, whole: int) -> str:
    return f"--from:{fixed(100 * start / whole, 2)}%;--w:{fixed(100 * size / whole, 2)}%"


# --- the table twin; gauge_counter.mjs writes the same rows ---


def twin(found: Account) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in ("matrix", "size", "redundant", "matter"))
    return (
        '<details class="qkv-twin" data-part="details"><summary>All numbers as a table</summary>'
        "<p>A stream of width 4, two heads of width 2, 5 hidden units, 5 tokens, 4 positions.</p>"
        f'<table><thead><tr>{head}</tr></thead><tbody data-part="twin">{rows(found)}</tbody></table></details>'
    )


def rows(found: Account) -> str:
    """A row for each matrix, then the sum."""
    stored = [sheet for sheet in found.sheets if sheet.cells]
    made = "".join(
        row(
            f"{symbol(s)}, {place(s, found.a.layers)}",
            (f"{s.rows} × {s.columns}", *split(len(s.cells), s.fixed, found)),
        )
        for s in stored
    )
    return made + row("all", (str(found.parameters), *split(found.parameters, found.redundant, found)))


def split(size: int, fixed_cells: int, found: Account) -> Sequence[str]:
    return ("unknown", "unknown") if found.refused else (str(fixed_cells), str(size - fixed_cells))


def row(name: str, cells: Sequence[str]) -> str:
    return f'<tr><th scope="row">{name}</th>{"".join(f"<td>{text}</td>" for text in cells)}</tr>'
