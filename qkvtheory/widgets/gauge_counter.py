"""The gauge counter: which parameters of a small network matter, and which a change of basis can turn into 0 or 1.

The numbers are those of ``freedom``. The cells are a normal form: as many entries as there are redundant parameters,
fixed one after the other, so that what stays has no freedom left (the tests measure that by ranks). It is one choice of
many; their number is none. ``gauge_counter.mjs`` computes the same; ``gauge_counter_picture.py`` draws it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from qkvtheory import freedom
from qkvtheory.errors import HypothesisError
from qkvtheory.freedom import PARTS, Architecture
from qkvtheory.widgets.state import State, check_choice, check_flag, complete

DEFAULT: State = {
    "topology": "T2",
    "norm": "none",
    "gains": False,
    "positions": "additive",
    "groups": "own",
    "activation": "GELU",
    "biases": False,
    "tied": False,
    "queries": "own",
    "layers": 2,
    "show": "all",
}
CHOICES = {
    "topology": ("T0", "TA", "TM", "T2"),
    "norm": ("none", "RMSNorm", "LayerNorm"),
    "positions": ("additive", "RoPE"),
    "groups": ("own", "one"),
    "activation": ("GELU", "ReLU", "SwiGLU"),
    "queries": ("own", "shared", "identity"),
    "show": ("all", *PARTS),
}
FLAGS = ("gains", "biases", "tied")
LAYERS = (1, 2, 3)
LETTERS = dict(zip(PARTS, "sphgiab", strict=True))
CLAIMS = {  # a page links them below the picture
    "the sum of all parts": "dim-network",
    "one block for each free basis": "one-block-per-hidden-state",
    "the stream": "stream-gauge",
    "the heads": "head-gauge",
    "the heads under RoPE": "rope-commutant",
    "hidden units": "activation-gauge",
    "biases": "bias-gauge",
    "what identity queries cost": "wq-identity-cost",
}


def check_state(**given: object) -> State:
    """The full state, with defaults for what was not given, as JSON values.

    ``topology`` "T0", "TA", "TM", "T2" (skips around neither sublayer, attention, the MLP, both); ``norm`` "none",
    "RMSNorm", "LayerNorm", with or without ``gains``; ``positions`` "additive", "RoPE"; ``groups`` "own" or "one"
    key/value head; ``activation`` "GELU", "ReLU", "SwiGLU"; ``biases``, ``tied``: booleans; ``queries`` "own",
    "shared", "identity"; ``layers`` 1 to 3; ``show`` "all" or the part whose cells stand out. Raises ValueError naming
    what is wrong.

    >>> check_state(topology="TA")["layers"]
    2
    """
    state = complete(DEFAULT, given)
    for name, choices in CHOICES.items():
        check_choice(name, state[name], choices)
    for name in FLAGS:
        check_flag(name, state[name])
    if isinstance(state["layers"], bool) or state["layers"] not in LAYERS:
        raise ValueError(f"layers must be one of 1, 2, 3, not {state['layers']!r}")
    return state


def architecture(state: State) -> Architecture:
    """The network of a state: d = 4, two heads of width 2, 5 hidden units, 5 tokens, 4 positions."""
    given = {name: state[name] for name in ("topology", "norm", "positions", "activation", "biases", "tied", "queries")}
    gains = state["gains"] and state["norm"] != "none"  # gains belong to a norm
    return Architecture(**given, gains=gains, groups=1 if state["groups"] == "one" else None, layers=state["layers"])


# --- the normal form ---


@dataclass
class Sheet:
    """One matrix: its place (0 is the embedding, then the layers, then the readout) and its cells, row by row.

    A cell is "." if it matters; otherwise the letter of the part that fixes it, small for 0 and large for 1. A matrix
    that is none of the parameters has no cells, and a ``note`` that says what it is.
    """

    name: str
    place: int
    rows: int
    columns: int
    note: str = ""
    cells: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cells = [] if self.note else ["."] * (self.rows * self.columns)

    def fix(self, part: str, i: int, j: int, one: bool = False) -> None:
        """Turn a cell into 0 or 1. Raises ValueError for a cell that is fixed already."""
        at = i * self.columns + j
        if self.cells[at] != ".":
            raise ValueError(f"{self.name} {i}, {j} is fixed by {self.cells[at]} already")
        self.cells[at] = LETTERS[part].upper() if one else LETTERS[part]

    def unit(self, part: str, left: int, size: int) -> None:
        """The block in the first rows becomes I."""
        for i in range(size):
            for j in range(size):
                self.fix(part, i, left + j, i == j)

    def row(self, part: str, i: int, columns: int, one: bool = False) -> None:
        for j in range(columns):
            self.fix(part, i, j, one)

    def last_column(self, part: str) -> None:
        for i in range(self.rows):
            self.fix(part, i, self.columns - 1)

    def lower(self, part: str, size: int) -> None:
        """The triangle below the diagonal of the first ``size`` rows and columns becomes 0."""
        for i in range(size):
            self.row(part, i, i)

    def upper(self, part: str, size: int) -> None:
        for i in range(size):
            for j in range(i + 1, size):
                self.fix(part, i, j)

    @property
    def fixed(self) -> int:
        return len(self.cells) - self.cells.count(".")


def blank(a: Architecture) -> Iterator[Sheet]:
    """All matrices in the order in which they are read."""
    d, p, k = a.d, a.width, a.kv_width
    yield Sheet("E", 0, a.vocab, d)
    if a.positions == "additive":
        yield Sheet("P", 0, a.context, d)
    for layer in range(1, a.layers + 1):
        queries = {"own": "", "shared": "as in layer 1" if layer > 1 else "", "identity": "= I"}[a.queries]
        matrices = [("W_Q", d, p, queries), ("W_K", d, k, ""), ("W_V", d, k, ""), ("W_O", p, d, "")]
        neurons = a.inputs_of_a_neuron * a.hidden
        matrices += [("W_up", d, neurons, ""), ("W_down", a.hidden, d, "")]
        for name, rows, columns, note in matrices:
            if a.gains and name in ("W_Q", "W_up"):
                yield Sheet("γ", layer, 1, d)
            yield Sheet(name, layer, rows, columns, note)
            if a.biases:
                yield Sheet(name.replace("W", "b"), layer, 1, columns)
    if a.gains:
        yield Sheet("γ", a.layers + 1, 1, d)
    yield Sheet("D", a.layers + 1, d, a.outputs, "= Eᵀ" if a.tied else "")
    if a.biases:
        yield Sheet("b_D", a.layers + 1, 1, a.outputs)


def normal_form(a: Architecture) -> list[Sheet]:
    """Every matrix, with as many cells fixed as ``freedom.redundancy`` counts, part by part.

    The basis of a state is spent on the W_Q that reads it, otherwise on W_O or the readout; the basis of the queries
    of a head on W_K, or where W_Q is fixed, on what writes the state; that of the values on W_V.
    """
    sheets = list(blank(a))
    at = {(sheet.name, sheet.place): sheet for sheet in sheets}
    seen = a.d - (a.norm == "LayerNorm")  # LayerNorm does not see the last direction
    for layer in range(1, a.layers + 1):
        w = {name: at[name, layer] for name in ("W_Q", "W_K", "W_V", "W_O", "W_up", "W_down")}
        for head in range(a.kv_heads):
            w["W_V"].unit("heads", head * a.head_width, a.head_width)
        if layer == 1 or a.topology != "T2":
            # With a skip around the MLP alone, W_down and W_up are in one basis: their own scales are fixed there.
            write = "W_O" if a.topology == "TM" else "W_down"
            fix_queries(a, w["W_Q"], at[write, layer - 1] if layer > 1 else at["E", 0])
        elif a.queries == "own":
            fix_heads(a, w["W_K"], "heads", a.head_width)
        if a.topology == "T0":
            fix_stream(a, w["W_O"], seen, read=False)
        if a.activation != "GELU":
            for j in range(w["W_up"].columns - a.hidden, w["W_up"].columns):
                w["W_up"].fix("activation", 0, j, True)
    if a.topology != "T2":
        fix_stream(a, at["D", a.layers + 1], seen, read=True)
    if a.positions == "additive" and not a.tied:
        at["P", 0].row("positions", 0, seen)
    for sheet in sheets:
        fix_vectors(a, sheet)
    return sheets


def fix_stream(a: Architecture, sheet: Sheet, seen: int, read: bool) -> None:
    """A basis of its own turns the first block into I; a rotation can only clear a triangle."""
    if a.norm == "none":
        sheet.unit("stream", 0, a.d)
    else:
        (sheet.lower if read else sheet.upper)("stream", seen)


def fix_heads(a: Architecture, sheet: Sheet, part: str, step: int, first: int = 0) -> None:
    """The first rows: I for each key/value head, or 1, 0 if RoPE leaves a turn and a scale. ``step`` columns each."""
    for head in range(first, a.kv_heads):
        if a.planes:
            sheet.fix(part, 0, head * step, True)
            sheet.fix(part, 0, head * step + 1)
        else:
            sheet.unit(part, head * step, a.head_width)


def fix_queries(a: Architecture, sheet: Sheet, write: Sheet) -> None:
    """The basis of a state and those of the heads that read it, on W_Q and on the matrix ``write`` of this state."""
    step = a.width // a.kv_heads
    part = "stream" if a.queries == "identity" else "heads"
    if a.norm == "none" and not a.tied:
        if a.queries != "identity":
            sheet.unit("stream", 0, a.d)
        fix_heads(a, write, part, step)
        return
    if a.queries == "own":
        sheet.lower("stream", a.d - (a.norm == "LayerNorm"))
        fix_diagonal(a, sheet, step)
    if a.norm != "LayerNorm" and not (a.planes and a.queries == "own"):
        for head in range(a.kv_heads):  # turns that W_Q does not notice
            write.fix(part, 0, head * step + 1)


def fix_diagonal(a: Architecture, sheet: Sheet, step: int) -> None:
    """Beside the triangle of W_Q what the heads can do: I on the diagonal; with RoPE diagonal, and begun with 1."""
    narrow = a.norm == "LayerNorm"  # three rows: the second head does not meet the diagonal
    for head in range(1 if narrow else a.kv_heads):
        i = head * step
        sheet.fix("heads", i, i, True)
        sheet.fix("heads", i, i + 1)
        if not a.planes:
            sheet.fix("heads", i + 1, i + 1, True)
    if narrow and not a.planes:
        sheet.fix("heads", 2, 2)
    if narrow:
        fix_heads(a, sheet, "heads", step, first=1)


READS, WRITES = ("W_Q", "W_K", "W_V", "W_up", "D"), ("E", "P", "W_O", "W_down")


def fix_vectors(a: Architecture, sheet: Sheet) -> None:
    """Gains, biases, and what LayerNorm does not see: in a basis whose last direction is that of all ones."""
    if sheet.name == "γ":
        sheet.row("gains", 0, a.d, True)
    if sheet.name in ("b_V", "b_O", "b_down") or (sheet.name == "b_K" and not a.planes):
        sheet.row("biases", 0, sheet.columns)
    if sheet.name == "E" and a.biases:
        sheet.row("biases", a.vocab - 1, a.d)
    if a.norm == "LayerNorm" and sheet.name in READS and sheet.cells:
        sheet.row("invisible to LayerNorm", a.d - 1, sheet.columns)
    if a.norm == "LayerNorm" and sheet.name in WRITES:
        sheet.last_column("invisible to LayerNorm")


# --- the account ---


@dataclass(frozen=True)
class Account:
    """What is counted. ``refused``: the combination that no formula covers, or ""; then there are no parts."""

    a: Architecture
    sheets: list[Sheet]
    parts: dict[str, int]
    refused: str = ""

    @property
    def parameters(self) -> int:
        return freedom.parameters(self.a)

    @property
    def redundant(self) -> int:
        return sum(self.parts.values())

    @property
    def dimension(self) -> int:
        return self.parameters - self.redundant


def account(state: State) -> Account:
    a = architecture(state)
    refused = uncovered(a)
    if refused:
        return Account(a, list(blank(a)), dict.fromkeys(PARTS, 0), refused)
    return Account(a, normal_form(a), freedom.redundancy(a))


def uncovered(a: Architecture) -> str:
    """What about this network no formula covers; "" if they do."""
    try:
        freedom.redundancy(a)
    except HypothesisError as error:
        said = str(error).split("fails: ")[1].split(": nothing")[0]
        return SHORT.get(error.hypothesis, said)
    return ""


# --- what is said ---

SHORT = {  # two hypotheses of ``freedom.redundancy``, as far as they can fail here
    "as wide as the stream": "one key/value head without a skip past attention",
    "tokens seen past the norm": "a norm that reads rows of E alone, without a skip past attention",
}
WORDS: dict[str, Any] = {  # gauge_counter.mjs reads them from the page
    "covered": "{parameters} parameters, {redundant} of them redundant: the functions of this network fill {dimension} "
    "dimensions. {queries}",
    "refused": "{parameters} parameters. No formula here says how many of them matter; what they do not cover: {what}. "
    "So no cell is marked, and the number has to be measured.",
    "queries": {
        "own": "W<sub>Q</sub> can be {form} {where}.",
        "shared": "The one W<sub>Q</sub> of all layers can be I.",
        "identity": "Every W<sub>Q</sub> is I; with W<sub>Q</sub> of their own they would fill {own}.",
    },
    "where": ["in every layer", "in its one layer", "in layer 1 only"],
    "nothing": "There are no parts to show.",
    "all": "Press a part to see its cells.",
    "empty": "Nothing here is redundant by this part: {part}.",
    "stream": {
        "T0": "Each of the {states} hidden states has a basis of its own.",
        "TA": "The skips leave {free} bases for {states} hidden states.",
        "TM": "The skips leave {free} bases for {states} hidden states.",
        "T2": "The skips give all {states} hidden states one basis.",
    },
    "basis": {
        "none": "Any invertible matrix: 16 numbers for a basis.",
        "RMSNorm": "Rotations only: 6 numbers for a basis.",
        "LayerNorm": "Only rotations that keep the direction of all ones: 3 numbers for a basis.",
    },
    "kept": " Where W<sub>Q</sub> has to stay I, only what the heads can undo.",
    "notes": {
        "positions": "A row added to all of E and taken from all of P: the states stay.",
        "heads": "For each key/value head a basis between queries and keys, and one between values and W<sub>O</sub>.",
        "heads RoPE": "For each key/value head a basis between values and W<sub>O</sub>; between queries and keys RoPE "
        "leaves a turn and a scale.",
        "heads identity": "For each key/value head a basis between values and W<sub>O</sub>.",
        "gains": "Gains can be multiplied into the matrices that read them.",
        "invisible to LayerNorm": "LayerNorm takes one direction out of every state. It is drawn as the last: the last "
        "row of what reads, the last column of what writes.",
        "ReLU": "A hidden unit can be scaled before ReLU and back behind it. Only its sign stays: a 1 may be a −1.",
        "SwiGLU": "A hidden unit can be scaled in W<sub>up</sub> and back in W<sub>down</sub>.",
        "biases": "b<sub>K</sub>, b<sub>V</sub>, b<sub>O</sub>, b<sub>down</sub> and a row of E can be 0: other biases "
        "take them over.",
        "biases RoPE": "b<sub>V</sub>, b<sub>O</sub>, b<sub>down</sub> and a row of E can be 0: other biases take them "
        "over. Behind b<sub>K</sub> the keys are turned, so it matters.",
    },
    "uncovered": [
        *SHORT.values(),
        "biases with a norm",
        "biases with shared or removed queries",
        "biases with a tied readout",
        "a tied readout without both skips",
        "a tied readout with LayerNorm",
        "a tied readout with gains, or with shared or removed queries",
        "shared queries but for T2 without norm",
        "W_Q = I with gains",
    ],
}


def sentence(found: Account) -> str:
    """What a glance at the picture should say, as HTML."""
    if found.refused:
        what = found.refused.replace("W_Q", "W<sub>Q</sub>")
        return str(WORDS["refused"]).format(parameters=found.parameters, what=what)
    sizes = {name: getattr(found, name) for name in ("parameters", "redundant", "dimension")}
    return str(WORDS["covered"]).format(**sizes, queries=about_queries(found))


def about_queries(found: Account) -> str:
    a = found.a
    own = freedom.dimension(replace(a, queries="own")) if a.queries == "identity" else 0
    where = WORDS["where"][0 if a.topology != "T2" else 2 if a.layers > 1 else 1]
    form = "triangular" if a.tied or a.norm != "none" else "I"
    return str(WORDS["queries"][a.queries]).format(form=form, where=where, own=own)


def about(found: Account, part: str) -> str:
    """What a part of the account is, as HTML."""
    a = found.a
    if found.refused or part == "all":
        return str(WORDS["nothing" if found.refused else "all"])
    if not found.parts[part]:
        return str(WORDS["empty"]).format(part=part)
    if part == "stream":
        who = WORDS["stream"][a.topology].format(states=a.states, free=freedom.free_bases(a))
        how = WORDS["basis"]["RMSNorm" if a.tied else a.norm]
        return f"{who} {how}{WORDS['kept'] if a.queries == 'identity' else ''}"
    if part == "activation":
        return str(WORDS["notes"][a.activation])
    if part == "heads" and a.queries == "identity":
        return str(WORDS["notes"]["heads identity"])
    return str(WORDS["notes"].get(f"{part} RoPE" if a.planes else part, WORDS["notes"].get(part)))


def still(state: State) -> str:
    """The inside of the widget for a state of ``check_state``, as HTML."""
    from qkvtheory.widgets import gauge_counter_picture  # it needs the mathematics above

    return gauge_counter_picture.still(state)
