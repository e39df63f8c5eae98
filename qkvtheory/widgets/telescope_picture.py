"""The picture of the telescope widget, as HTML: the switches, the pipe of three layers, the table of all numbers.

``telescope.py`` says what is true in a state; here it is drawn. ``telescope.mjs`` finds the parts by their data-part
names and moves them.
"""

from __future__ import annotations

import json
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np

from qkvtheory.widgets.state import State
from qkvtheory.widgets.telescope import (
    LAYERS,
    MLP_REPAIRS,
    PLACES,
    TOLERANCE,
    WEIGHTS,
    Plan,
    View,
    basis,
    sentence,
    view,
)
from qkvtheory.widgets.text import num, sci

KINDS = {"Q": "sq", "K": "sk", "V": "sv"}
SWITCHES = {
    "attention_skip": "skip around attention",
    "mlp_skip": "skip around the MLP",
    "norm": "RMSNorm",
    "tied": "tied readout",
    "shared": "all layers share W<sub>Q</sub>",
    "singular": "W<sub>Q</sub> of layer 2 singular",
}
REPAIRS = {"norm": "only rotate", "tied": "Θ₁ = I", "singular": "take W<sub>K</sub>"}


def theta(key: str, chosen: Plan, inverse: bool = False) -> str:
    name = basis(key, chosen)
    return f'<i class="st">{name}{"⁻¹" * inverse}</i>' if name else ""


def word(left: str, name: str, right: str, chosen: Plan) -> str:
    """A weight and what it was multiplied by."""
    weight = f"{name[0]}<sub>{name[2:]}</sub>" if name[1:] else name
    return f'{theta(left, chosen, True)}<i class="{KINDS.get(name[2:], "")}">{weight}</i>{theta(right, chosen)}'


def tiles(state: State, chosen: Plan) -> dict[str, str]:
    """What stands in every tile."""
    keys = chosen.keys
    made = {"E": word("", "E", keys[0], chosen)}
    for i in range(LAYERS):
        x, y, after = keys[2 * i : 2 * i + 3]
        for name in ("W_Q", "W_K", "W_V"):
            what = "" if name == "W_V" else getattr(chosen, name)[i]
            made[f"{name} {i}"] = word("" if what == "I" else x, name, "", chosen) + {"I": " = I", "T": " ◥"}.get(
                what, ""
            )
        made[f"W_O {i}"] = word("", "W_O", y, chosen)
        spare = f" | {theta(y, chosen, True)}{theta(after, chosen)} − I" if chosen.spare[i] else ""
        made[f"W_up {i}"] = word(y, "W_up", "", chosen) + spare
        made[f"W_down {i}"] = word("", "W_down", after, chosen)
    tied = f"({made['E']})ᵀ" if keys[0] else f"{made['E']}ᵀ"
    made["D"] = tied if state["tied"] else word(keys[6], "D", "", chosen)
    return made


def gone(html: str) -> str:
    return "gone" if html.endswith("= I") else ""


def depth(keys: tuple[str, ...]) -> list[int]:
    """How many tubes have been entered: a new one starts where the basis changes."""
    found = [0]
    for before, after in pairwise(keys):
        found.append(found[-1] + (before != after))
    return found


def kind(seen: View, place: int) -> str:
    return "refused" if seen.plan.refused else "broken" if place >= seen.first else "holds"


def mark(seen: View, place: int) -> str:
    error = seen.errors[place]
    if error is None:
        return "– not rewritten"
    if error <= TOLERANCE:
        return f"✓ holds to {sci(error)}" if error else "✓ holds exactly"
    return f"✗ {'breaks here:' if place == seen.first else 'off by'} {num(100 * error)}%"


def happens(state: State, chosen: Plan) -> dict[str, str]:
    """What every switch that is on does to the equality."""
    blamed = {"mlp_skip" if what == "spare" else what for what, _ in chosen.causes}
    repaired = {
        "mlp_skip": state["attention_skip"] and state["mlp_repair"] != "none",
        **{name: state[f"{name}_repair"] for name in REPAIRS},
    }
    said = dict.fromkeys(SWITCHES, "")
    for name, mended in repaired.items():
        if chosen.refused:
            said[name] = "refused" if name == "singular" else ""
        elif state[name]:
            said[name] = "breaks" if name in blamed else "repaired" if mended else "harmless"
    return said


def legend(state: State, chosen: Plan) -> str:
    """What the bases are."""
    if chosen.refused:
        return "Nothing is rewritten."
    ends = {"Θ₁": chosen.keys[0], "Θ₄": chosen.keys[6]}
    keys = [key for key in dict.fromkeys(chosen.keys[::2]) if key]
    said = [source(state, chosen, group) for c in "QK" if (group := [key for key in keys if key[0] == c])]
    said += [f'<i class="st">{name}</i> = I' for name, key in ends.items() if not key]
    return "; ".join(said + ["after |: what the spare units add"] * any(chosen.spare)) + "."


def source(state: State, chosen: Plan, keys: list[str]) -> str:
    """Where the bases come from that are the W_Q, or the W_K, of these layers."""
    names, numbers = ", ".join(theta(key, chosen) for key in keys), ", ".join(key[1] for key in keys)
    turned = "the rotation in " if keys[0][-1] == "r" else ""
    where = "all layers" if state["shared"] and keys[0][0] == "Q" else f"layer{'s' if keys[1:] else ''} {numbers}"
    return f"{names} = {turned}{word('', f'W_{keys[0][0]}', '', chosen)} of {where}"


def still(state: State) -> str:
    """The inside of the widget for a state of ``check_state``, as HTML."""
    seen = view(state)
    return (
        '<p class="qkv-lead"><b>Break an assumption, and see which equality fails.</b> Every state of the new network '
        'is the old one times a basis <i class="st">Θ</i>: what writes to it is multiplied by <i class="st">Θ</i>, '
        'what reads it by <i class="st">Θ⁻¹</i>. Flip a switch, then try its repair.</p>'
        f'<div class="qkv-pair"><div class="qkv-column">{controls(state, seen.plan)}'
        f'<p class="qkv-live" aria-live="polite" data-part="live">{sentence(state, seen)}</p>{counts(seen)}</div>'
        f'<div class="qkv-column">{pipe(state, seen)}</div></div>{table(seen)}'
    )


def controls(state: State, chosen: Plan) -> str:
    said, rows = happens(state, chosen), ""
    for name, text in SWITCHES.items():
        on = " checked" if state[name] else ""
        row = (
            f'<label class="qkv-switch"><input type="checkbox" role="switch" data-part="{name}"{on}>'
            f'<span>{text} <b data-part="happens {name}">{said[name]}</b></span></label>'
        )
        if name in REPAIRS:
            row += repair(f"{name}_repair", f"repair: {REPAIRS[name]}", state[f"{name}_repair"], state[name])
        rows += f'<div class="qkv-hypothesis" data-part="row {name}" data-happens="{said[name]}">{row}</div>'
        if name == "mlp_skip":
            both = state["mlp_skip"] and state["attention_skip"]
            named = ("repair: linear skip", "spare units", "Θ₁", "Θ₂", "Θ₃")
            buttons = [
                repair(choice, text, state["mlp_repair"] == choice, both)
                for choice, text in zip(MLP_REPAIRS[1:], named, strict=True)
            ]
            rows += (
                '<div class="qkv-repairs" role="group" aria-label="repair the MLP skip">'
                f"{''.join(buttons[:2])}<div><span>one basis:</span>{''.join(buttons[2:])}</div></div>"
            )
    return (
        '<fieldset class="qkv-controls" data-part="controls" disabled><legend>Try to break it</legend>'
        f'{rows}<button type="button" data-part="reset">Start again <kbd>Esc</kbd></button></fieldset>'
    )


def repair(name: str, text: str, pressed: bool, possible: bool) -> str:
    state = f'aria-pressed="{str(pressed).lower()}" title="{hint(pressed, possible)}"{"" if possible else " disabled"}'
    return (
        '<button type="button" class="qkv-repair" style="border-color:var(--soft)" '
        f'data-part="repair {name}" {state}>{text}</button>'
    )


def hint(pressed: bool, possible: bool) -> str:
    """What a repair waits for."""
    if not possible:
        return "waits until there is something to repair"
    return "press again to undo" if pressed else "press to repair"


def void(seen: View) -> str:
    """What a strike-through says to those who do not see it."""
    return " does not count: the function has changed" if kind(seen, 7) == "broken" else ""


def zeros(chosen: Plan) -> str:
    """Where the saved parameters come from, if no matrix became I."""
    return " (zeros of triangular matrices)" if chosen.saved > 0 and "T" in (*chosen.W_Q, *chosen.W_K) else ""


HEARD = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap"


def counts(seen: View) -> str:
    saved = str(seen.plan.saved).replace("-", "−")

    def count(title: str, name: str, shown: str) -> str:
        heard = f'<span style="{HEARD}" data-part="void {name}">{void(seen)}</span>'
        return f"<div><dt>{title}</dt><dd>{shown}{heard}</dd></div>"

    return (
        f'<dl class="qkv-counts" aria-live="polite" data-part="counts" data-state="{kind(seen, 7)}">'
        + count("query matrices left", "left", f'<span data-part="left">{seen.plan.left} of {seen.plan.before}</span>')
        + count(
            "parameters saved",
            "saved",
            f'<span data-part="saved">{saved}</span>'
            f'<small style="font-size:12px;font-weight:400" data-part="zeros">{zeros(seen.plan)}</small>',
        )
        + "</dl>"
    )


def pipe(state: State, seen: View) -> str:
    chosen = seen.plan
    tile, deep = tiles(state, chosen), depth(chosen.keys)
    data = escape(json.dumps(WEIGHTS, separators=(",", ":")), quote=True)

    def shown(name: str) -> str:
        return f'<span class="{gone(tile[name])}" data-part="tile {name}">{tile[name]}</span>'

    def item(kinds: str, part: str, place: int, inside: str, more: str = "") -> str:
        return (
            f'<li class="{kinds}" data-part="{part}" style="--g:{deep[place]}" data-state="{kind(seen, place)}" '
            f'data-basis="{"Θ" if chosen.keys[place] else "I"}"{more}>{inside}</li>'
        )

    items = f'<li class="qkv-end"><small>embedding</small><div class="qkv-write">{shown("E")}</div></li>'
    for place in range(7):
        starts = str(place == 0 or deep[place] != deep[place - 1]).lower()
        stands = f'<b data-part="name {place}">{name(place, chosen)}</b>'
        noise = " data-noise" if kind(seen, place) == "holds" else ""
        stands += f'<span class="qkv-mark" data-part="mark {place}"{noise}>{mark(seen, place)}</span>'
        items += item("qkv-state", f"state {place}", place, stands, f' data-starts="{starts}"')
        if place < 6:
            items += item("qkv-sub", f"sub {place}", place, sublayer(state, seen, place, shown))
    noise = " data-noise" if kind(seen, 7) == "holds" else ""
    items += (
        f'<li class="qkv-end"><small>readout</small><div class="qkv-reads">{shown("D")}</div></li>'
        f'<li class="qkv-state qkv-logits" data-part="state 7" data-state="{kind(seen, 7)}"><b>logits</b>'
        f'<span class="qkv-mark" data-part="mark 7"{noise}>{mark(seen, 7)}</span></li>'
    )
    return (
        f'<p class="qkv-legend" data-part="legend">{legend(state, chosen)}</p>'
        f'<ol class="qkv-pipe" data-part="pipe" data-weights="{data}">{items}</ol>'
    )


def name(place: int, chosen: Plan) -> str:
    return f'<i class="sx">{PLACES[place]}</i>{theta(chosen.keys[place], chosen)}'


def sublayer(state: State, seen: View, place: int, shown: Any) -> str:
    chosen, layer = seen.plan, place // 2
    title, weights = ("MLP", ("W_up", "W_down")) if place % 2 else ("attention", ("W_Q", "W_K", "W_V", "W_O"))
    *reads, write = [shown(f"{weight} {layer}") for weight in weights]
    arc, bad = arcs(state, chosen, place)
    return (
        f'<span class="qkv-arc" data-part="arc {place}" data-skip="{arc}" data-bad="{bad}">'
        f"<b>A{'₁₂₃'[layer]}</b></span>"
        f'<small><span class="qkv-norm" data-part="norm {place}" data-bad="{broken_norm(chosen, place)}"'
        f"{'' if state['norm'] else ' hidden'}>RMSNorm</span> {title} {layer + 1}</small>"
        f'<div class="qkv-reads">{"".join(reads)}</div><div class="qkv-write">{write}</div>'
    )


def arcs(state: State, chosen: Plan, place: int) -> tuple[str, str]:
    """The skip around a sublayer: "none", "identity" or "linear"; and whether it is what breaks."""
    skip = chosen.skips[place // 2] if place % 2 else state["attention_skip"]
    bad = bool({("mlp_skip", place + 1), ("spare", place + 1)} & set(chosen.causes))
    return ("linear" if skip == "linear" else "identity" if skip else "none"), str(bad).lower()


def broken_norm(chosen: Plan, place: int) -> str:
    return str(("norm", place + 1) in chosen.causes).lower()


def table(seen: View) -> str:
    rows = ""
    for place, wanted in zip(range(8), seen.wanted, strict=True):
        got = seen.got[place]
        noise = " data-noise" if kind(seen, place) == "holds" else ""
        for at, old in np.ndenumerate(wanted):
            new = None if got is None else float(got[at])
            rows += (
                f'<tr><th scope="row">{PLACES[place]} {at[0] + 1}, {at[1] + 1}</th><td>{num(float(old))}</td>'
                f"<td>{'' if new is None else num(new)}</td>"
                f"<td{noise}>{'' if new is None else sci(abs(new - float(old)))}</td></tr>"
            )
    return (
        '<details class="qkv-twin" data-part="details"><summary>All numbers as a table</summary>'
        "<p>Each state in its basis, as it should be and as it is; an error in the picture is the largest difference, "
        "relative to the largest number. Rows and columns are counted from 1.</p>"
        '<table><thead><tr><th scope="col">entry</th><th scope="col">should be</th><th scope="col">is</th>'
        f'<th scope="col">difference</th></tr></thead><tbody data-part="twin">{rows}</tbody></table></details>'
    )
