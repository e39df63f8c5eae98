"""The still of the telescope widget: a stack of three layers in which every layer's basis slides into the next.

The numbers come from the package's own ``stacks.carry``. Where a hypothesis is off, the rewritten weights are those of
somebody who overlooked it: the network without the skip, the norm or the tie is rewritten, then they are put back.
``telescope.mjs`` moves the picture written here; it finds its parts by their data-part names and computes the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np

from qkvtheory.attention import Heads, rms_norm
from qkvtheory.network import MLP, Attention, Block, Network, normed, past
from qkvtheory.stacks import carry, exactly
from qkvtheory.widgets.state import State, check_choice, check_flag, complete
from qkvtheory.widgets.text import listed, num, sci

Weights = dict[str, Any]

DEFAULT: State = {
    "attention_skip": True,
    "mlp_skip": False,
    "norm": False,
    "tied": False,
    "shared": False,
    "singular": False,
    "mlp_repair": "none",
    "norm_repair": False,
    "tied_repair": False,
    "singular_repair": False,
}
LAYERS, SIZE = 3, 4  # three layers; every basis is 2 x 2, so d^2 = 4 numbers
MLP_REPAIRS = ("none", "linear", "layer 1", "layer 2", "layer 3")
TOLERANCE = 1e-9  # a broken equality is off by a hundredth or more, rounding by 1e-13 at most
PLACES = ("X₁", "Y₁", "X₂", "Y₂", "X₃", "Y₃", "X₄", "logits")

# Rows of d = 2 numbers, hidden width 4; no bias. A second W_Q for layer 2 has no inverse: its rows are multiples.
WEIGHTS: Weights = {
    "E": [[0.9, 0.4], [-0.6, 1.0], [-0.5, -1.1]],
    "D": [[1.0, -0.4, 0.7], [0.3, 1.1, -0.8]],
    "singular": [[1.0, 0.5], [-0.5, -0.25]],
    "layers": [
        {
            "W_Q": [[1.8, 0.6], [0.3, 0.9]],
            "W_K": [[0.9, 0.6], [-0.7, 1.0]],
            "W_V": [[0.8, -0.3], [0.5, 1.0]],
            "W_O": [[0.7, 0.4], [-0.3, 0.9]],
            "W_up": [[0.9, -0.6, 0.4, 0.7], [0.2, 0.8, -1.0, 0.5]],
            "W_down": [[0.6, -0.3], [0.5, 0.8], [-0.7, 0.4], [0.3, 0.6]],
        },
        {
            "W_Q": [[0.6, 1.5], [-0.9, 0.2]],
            "W_K": [[1.1, -0.2], [0.5, 0.8]],
            "W_V": [[0.7, 0.6], [-0.4, 0.9]],
            "W_O": [[0.9, -0.2], [0.4, 0.6]],
            "W_up": [[0.5, 0.9, -0.7, 0.3], [-0.8, 0.4, 0.6, 1.0]],
            "W_down": [[0.7, 0.2], [-0.4, 0.6], [0.5, -0.8], [0.3, 0.5]],
        },
        {
            "W_Q": [[1.2, -0.7], [0.5, 0.6]],
            "W_K": [[0.6, 0.9], [-1.0, 0.4]],
            "W_V": [[0.9, 0.2], [-0.5, 0.8]],
            "W_O": [[0.6, 0.5], [-0.6, 0.8]],
            "W_up": [[-0.6, 0.8, 0.9, 0.4], [0.7, 0.5, -0.3, 0.9]],
            "W_down": [[0.4, 0.7], [0.8, -0.5], [-0.3, 0.6], [0.6, 0.4]],
        },
    ],
}


def check_state(**given: Any) -> State:
    """The full state, with defaults for what was not given, as JSON values.

    ``attention_skip``, ``mlp_skip``, ``norm`` (RMSNorm before each sublayer), ``tied`` (readout), ``shared`` (one W_Q
    in all layers), ``singular`` (W_Q of layer 2): booleans. ``mlp_repair``: "none", "linear" (a linear skip), or
    "layer 1", "layer 2", "layer 3" (one basis, that of this layer). ``norm_repair`` (rotations only), ``tied_repair``
    (Theta_1 = I), ``singular_repair`` (W_K instead): booleans. A repair of what is not broken changes nothing. Raises
    ValueError naming what is wrong.

    >>> check_state(mlp_skip=True)["mlp_skip"]
    True
    """
    state = complete(DEFAULT, given)
    for name in DEFAULT:
        if name == "mlp_repair":
            check_choice(name, state[name], MLP_REPAIRS)
        else:
            check_flag(name, state[name])
    return state


# --- which basis goes where ---


@dataclass(frozen=True)
class Plan:
    """A basis for every state, and what follows from that without computing.

    ``keys``: for X_1, Y_1, ..., X_4 the matrix that is the basis, such as "Q2" (W_Q of layer 2), "K2", "Q2r" (only its
    rotation), "" (I). ``refused``: the layer whose missing inverse stops everything, or 0. ``causes``: (what, place)
    for all that breaks, first things first; place 7 is the logits. ``W_Q``, ``W_K``: what those of each layer become:
    "I", "T" (triangular) or another matrix. ``before``, ``left``: counts of query matrices; ``saved``: of parameters.
    """

    keys: tuple[str, ...]
    refused: int
    causes: tuple[tuple[str, int], ...]
    W_Q: tuple[str, ...]
    W_K: tuple[str, ...]
    skips: tuple[bool | str, ...]
    before: int
    left: int
    saved: int


def plan(state: State) -> Plan:
    mended = {name: state[name] and state[f"{name}_repair"] for name in ("norm", "tied", "singular")}
    bad = () if not state["singular"] else (1, 2, 3) if state["shared"] else (2,)
    joined = state["attention_skip"] and state["mlp_skip"]
    own = [f"Q{1 if state['shared'] else layer}" for layer in (1, 2, 3)]
    x = [f"K{layer}" if layer in bad and mended["singular"] else own[layer - 1] for layer in (1, 2, 3)]
    if joined and state["mlp_repair"].startswith("layer"):
        x = [x[int(state["mlp_repair"][-1]) - 1]] * 3
    one = len(set(x)) == 1
    # With one basis for all, the tie asks of it what a norm does: to be a rotation. Else it asks for I at both ends.
    if mended["norm"] or (mended["tied"] and joined and one):
        x = [key + "r" for key in x]
    x = [*x, x[0] if one else ""]
    if mended["tied"] and not (joined and one):
        x[0] = x[3] = ""
    refused = next((int(key[1]) for key in x if key in {f"Q{layer}" for layer in bad}), 0)
    if refused:
        x = [""] * 4
    y = [x[i] if state["attention_skip"] else x[i + 1] if state["mlp_skip"] else "" for i in range(3)]
    keys = (x[0], y[0], x[1], y[1], x[2], y[2], x[3])

    linear = joined and state["mlp_repair"] == "linear"
    skips = tuple("linear" if linear and y[i] != x[i + 1] else state["mlp_skip"] for i in range(3))
    w_q = tuple(form(key, name) for key, name in zip(x, own, strict=False))
    w_k = tuple(form(x[i], f"K{i + 1}") for i in range(3))
    kept, before = (set(w_q), 1) if state["shared"] else (w_q, 3)
    saved = SIZE * (before + 3 - skips.count("linear")) - sum(map(stored, (*kept, *w_k)))
    left = sum(what != "I" for what in kept)
    return Plan(keys, refused, causes(state, keys, skips), w_q, w_k, skips, before, left, saved)


def form(key: str, name: str) -> str:
    """What the matrix ``name`` becomes when it is read in the basis ``key``."""
    return "I" if key == name else "T" if key == name + "r" else key + name


def stored(what: str) -> int:
    """How many numbers are stored: none for I, three for a triangular matrix, four for any other."""
    return {"I": 0, "T": 3}.get(what, SIZE)


def causes(state: State, keys: tuple[str, ...], skips: tuple[bool | str, ...]) -> tuple[tuple[str, int], ...]:
    found = []
    for place in range(1, 7):
        read, write = keys[place - 1], keys[place]
        if state["norm"] and read and read[-1] != "r":
            found.append(("norm", place))
        if place % 2 == 0 and skips[place // 2 - 1] is True and read != write:
            found.append(("mlp_skip", place))
    if state["tied"] and (keys[0] != keys[6] or (keys[0] and keys[0][-1] != "r")):
        found.append(("tied", 7))
    return tuple(found)


# --- the mathematics ---


def original(state: State, weights: Weights) -> Network:
    """The network as it is, without norm and skips around the MLP: they are put on by ``put_back``."""
    layers = [{name: np.array(a) for name, a in layer.items()} for layer in weights["layers"]]
    for i, layer in enumerate(layers):
        layer["W_Q"] = layers[0]["W_Q"] if state["shared"] else layer["W_Q"]
        if state["singular"] and (state["shared"] or i == 1):
            layer["W_Q"] = np.array(weights["singular"])
    blocks = [
        Block(
            Attention(Heads(1), *(layer[f"W_{name}"] for name in "QKVO")),
            MLP(np.tanh, layer["W_up"], layer["W_down"]),
            state["attention_skip"],
        )
        for layer in layers
    ]
    e = np.array(weights["E"])
    return Network(e, blocks, e.mT if state["tied"] else np.array(weights["D"]))


def put_back(network: Network, state: State) -> Network:
    """What a construction without skip, norm and tie overlooks: the learned skips that it made stay."""
    norm = rms_norm() if state["norm"] else None
    blocks = []
    for block in network.blocks:
        skip = block.mlp_skip if not isinstance(block.mlp_skip, bool) else state["mlp_skip"]
        blocks.append(replace(block, mlp_skip=skip, attention_norm=norm, mlp_norm=norm))
    return replace(network, blocks=blocks, readout=None if state["tied"] else network.readout)


def rotation(a: np.ndarray) -> np.ndarray:
    """The rotation O in a = O T, with T upper triangular and its first entry positive; ``a`` may be singular."""
    o, t = np.linalg.qr(a)
    o = o * np.sign(t[0, 0])
    return o @ np.diag([1.0, np.sign(np.linalg.det(o))])


def matrices(network: Network, keys: tuple[str, ...]) -> list[np.ndarray | None]:
    """The bases themselves; None for I."""

    def matrix(key: str) -> np.ndarray | None:
        if not key:
            return None
        weight = getattr(network.blocks[int(key[1]) - 1].attention, f"W_{key[0]}")
        return rotation(weight) if key[-1] == "r" else weight

    made = {key: matrix(key) for key in keys}
    return [made[key] for key in keys]


def rewritten(old: Network, state: State, chosen: Plan) -> Network:
    """All weights in the bases of the plan, by ``carry``; a skip that needs it becomes linear."""
    plain = [
        replace(block, mlp_skip=np.eye(2) if skip == "linear" else skip and a == b)
        for block, skip, a, b in zip(old.blocks, chosen.skips, chosen.keys[1::2], chosen.keys[2::2], strict=True)
    ]
    new = carry(replace(old, blocks=plain), matrices(old, chosen.keys))
    gone = {i: name for name in ("W_Q", "W_K") for i, what in enumerate(getattr(chosen, name)) if what == "I"}
    return put_back(replace(new, blocks=exactly(new.blocks, gone)), state)


def run(network: Network, tokens: np.ndarray) -> list[np.ndarray]:
    """The hidden states X_1, Y_1, ..., X_4 and the logits."""
    states = [tokens @ network.embedding]
    for block in network.blocks:
        x = states[-1]
        y = past(block.attention_skip, x, block.attention(normed(block.attention_norm, x)))
        states += [y, past(block.mlp_skip, y, block.mlp(normed(block.mlp_norm, y)))]
    return [*states, states[-1] @ (network.embedding.mT if network.readout is None else network.readout)]


@dataclass(frozen=True)
class View:
    """The plan; what every place should hold and what it does (None if refused); how far off that is, relatively."""

    plan: Plan
    wanted: list[np.ndarray]
    got: list[np.ndarray | None]
    errors: list[float | None]

    @property
    def first(self) -> int:
        """The first place that breaks, or 8."""
        return next((i for i, e in enumerate(self.errors) if e is not None and not e <= TOLERANCE), 8)


def view(state: State, weights: Weights = WEIGHTS) -> View:
    chosen, old, tokens = plan(state), original(state, weights), np.eye(3)
    reference = run(put_back(old, state), tokens)
    if chosen.refused:
        return View(chosen, reference, [None] * 8, [None] * 8)
    bases = [*matrices(old, chosen.keys), None]
    wanted = [a if basis is None else a @ basis for a, basis in zip(reference, bases, strict=True)]
    got = run(rewritten(old, state, chosen), tokens)
    off = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(got, wanted, strict=True)]
    return View(chosen, wanted, list(got), list(off))


# --- the same text as telescope.mjs ---


def basis(key: str, chosen: Plan) -> str:
    """The name of a basis; where there is only one, it needs no number."""
    if not key:
        return ""
    return "Θ" if len(set(chosen.keys) - {""}) == 1 else "Θ" + "₁₂₃"[int(key[1]) - 1]


def layers(numbers: list[int]) -> str:
    if len(numbers) == LAYERS:
        return "every layer"
    return f"layer{'s' if numbers[1:] else ''} {listed([str(i) for i in numbers])}"


def sentence(state: State, seen: View) -> str:
    """What a glance at the picture should say, as HTML."""
    if seen.plan.refused:
        which = "the shared W<sub>Q</sub>" if state["shared"] else f"W<sub>Q</sub> of layer {seen.plan.refused}"
        return f"Refused: {which} is singular, it has no inverse, so nothing is rewritten."
    return broken(seen) if seen.plan.causes else whole(state, seen.plan)


def broken(seen: View) -> str:
    chosen = seen.plan
    (kind, place), keys = chosen.causes[0], chosen.keys
    at, before = PLACES[place], PLACES[place - 1]
    read = basis(keys[place - 1], chosen)
    write = basis(keys[place], chosen) or "I" if place < 7 else ""
    why = {
        "norm": f"{at} breaks first: lengths change with {read}, so N({before}{read}) ≠ N({before}){read}.",
        "mlp_skip": f"{at} breaks first: the MLP skip brings {before}{read} where {before}{write} belongs. "
        f"The error is {before}({read or 'I'} − {write}).",
        "tied": "Every equality of the states holds, but the tied readout breaks: "
        f"{before}{read}(E{basis(keys[0], chosen)})ᵀ ≠ {before}Eᵀ.",
    }[kind]
    names = {"norm": "the norm", "mlp_skip": "the MLP skip", "tied": "the tie"}
    others = [names[other] for other in names if other != kind and other in dict(chosen.causes)]
    also = f"T{listed(others)[1:]} would break it too." if others else ""
    return f"{why} The logits are off by {num(100 * (seen.errors[7] or 0.0))}%. {also}".rstrip()


def whole(state: State, chosen: Plan) -> str:
    said = ["Every equality holds, and the logits are the same."]
    for what, text in (("I", "= I"), ("T", "is triangular (◥)")):
        for name in ("W_Q", "W_K"):
            where = [i + 1 for i, made in enumerate(getattr(chosen, name)) if made == what]
            said += [f"W<sub>{name[2]}</sub> {text} in {layers(where)}."] * bool(where)
    if "linear" in chosen.skips:
        said.append(f"The linear skips cost {SIZE * chosen.skips.count('linear')} parameters.")
    elif state["attention_skip"] and state["mlp_skip"]:
        said.append("One basis passes every skip.")
    elif state["mlp_skip"]:
        said.append("The MLP skip is harmless: attention already writes in the next basis.")
    if state["norm"]:
        said.append("Rotations keep lengths, so the norms do not notice.")
    if state["tied"]:
        said.append("A rotation keeps the tie." if chosen.keys[0] else "E stays, and so does its tie.")
    return " ".join(said)


# --- the picture ---

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
        made[f"W_up {i}"] = word(y, "W_up", "", chosen)
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
    blamed = dict(chosen.causes)
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
    return "; ".join(said + [f'<i class="st">{name}</i> = I' for name, key in ends.items() if not key]) + "."


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
            made = [
                (c, "repair: linear skip" if c == "linear" else "Θ" + "₁₂₃"[int(c[-1]) - 1]) for c in MLP_REPAIRS[1:]
            ]
            buttons = [repair(choice, text, state["mlp_repair"] == choice, both) for choice, text in made]
            rows += (
                '<div class="qkv-repairs" role="group" aria-label="repair the MLP skip">'
                f"{buttons[0]}<span>one basis:</span>{''.join(buttons[1:])}</div>"
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
    bad = skip is True and chosen.keys[place] != chosen.keys[place + 1]
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
