"""The telescope widget: a stack of three layers in which every layer's basis slides into the next.

The numbers come from the package's own ``stacks.carry``. Where a hypothesis is off, the rewritten weights are those of
somebody who overlooked it: the network without the skip, the norm or the tie is rewritten, then they are put back.
``telescope.mjs`` computes the same on the page; the picture that it moves is drawn in ``telescope_picture.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qkvtheory.absorption import spare_units
from qkvtheory.activations import gelu_tanh
from qkvtheory.attention import Heads, rms_norm
from qkvtheory.network import MLP, Attention, Block, Network, normed, past
from qkvtheory.stacks import carry, exactly
from qkvtheory.widgets.state import State, check_choice, check_flag, complete
from qkvtheory.widgets.text import listed, num

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
SPARE = 4 * SIZE  # 2d more hidden units of an MLP, each with d weights in and d out
MLP_REPAIRS = ("none", "linear", "spare units", "layer 1", "layer 2", "layer 3")
TOLERANCE = 1e-9  # a broken equality is off by a hundredth or more, rounding by 1e-13 at most
CLAIMS = {  # what each repair rests on; a page links it below the picture
    "a linear skip": "basis-skip-repair",
    "spare units": "spare-units",
    "only rotate": "rms-triangular",
    "Θ₁ = I": "tied-readout-orthogonal",
    "take the keys": "eliminate-k-or-v",
    "refused": "singular-wq-counterexample",
}
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
    in all layers), ``singular`` (W_Q of layer 2): booleans. ``mlp_repair``: "none", "linear" (a linear skip),
    "spare units" (2d more in the MLP), or "layer 1", "layer 2", "layer 3" (one basis, that of this layer).
    ``norm_repair`` (rotations only), ``tied_repair`` (Theta_1 = I), ``singular_repair`` (W_K instead): booleans. A
    repair of what is not broken changes nothing. Raises ValueError naming what is wrong.

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
    "I", "T" (triangular) or another matrix. ``skips``: around each MLP, True, False or "linear"; ``spare``: has the
    MLP units that carry its skip into the next basis? ``before``, ``left``: counts of query matrices; ``saved``: of
    parameters.
    """

    keys: tuple[str, ...]
    refused: int
    causes: tuple[tuple[str, int], ...]
    W_Q: tuple[str, ...]
    W_K: tuple[str, ...]
    skips: tuple[bool | str, ...]
    spare: tuple[bool, ...]
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

    repair = tuple(state["mlp_repair"] if joined and y[i] != x[i + 1] else "none" for i in range(3))
    skips = tuple("linear" if mend == "linear" else state["mlp_skip"] for mend in repair)
    spare = tuple(mend == "spare units" for mend in repair)
    w_q = tuple(form(key, name) for key, name in zip(x, own, strict=False))
    w_k = tuple(form(x[i], f"K{i + 1}") for i in range(3))
    kept, before = (set(w_q), 1) if state["shared"] else (w_q, 3)
    price = SIZE * skips.count("linear") + SPARE * sum(spare)
    saved = SIZE * (before + 3) - price - sum(map(stored, (*kept, *w_k)))
    left = sum(what != "I" for what in kept)
    return Plan(keys, refused, causes(state, keys, skips, spare), w_q, w_k, skips, spare, before, left, saved)


def form(key: str, name: str) -> str:
    """What the matrix ``name`` becomes when it is read in the basis ``key``."""
    return "I" if key == name else "T" if key == name + "r" else key + name


def stored(what: str) -> int:
    """How many numbers are stored: none for I, three for a triangular matrix, four for any other."""
    return {"I": 0, "T": 3}.get(what, SIZE)


def causes(
    state: State, keys: tuple[str, ...], skips: tuple[bool | str, ...], spare: tuple[bool, ...]
) -> tuple[tuple[str, int], ...]:
    found = []
    for place in range(1, 7):
        read, write = keys[place - 1], keys[place]
        if state["norm"] and read and read[-1] != "r":
            found.append(("norm", place))
        if place % 2 == 0 and spare[place // 2 - 1]:
            found += [("spare", place)] * state["norm"]  # spare units stand behind the norm, the skip does not
        elif place % 2 == 0 and skips[place // 2 - 1] is True and read != write:
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
            MLP(gelu_tanh, layer["W_up"], layer["W_down"]),
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
    """All weights in the bases of the plan, by ``carry``; a skip that needs it becomes linear, or gets spare units."""
    plain = [
        replace(block, mlp_skip=np.eye(2) if skip == "linear" else skip and a == b)
        for block, skip, a, b in zip(old.blocks, chosen.skips, chosen.keys[1::2], chosen.keys[2::2], strict=True)
    ]
    bases = matrices(old, chosen.keys)
    new = carry(replace(old, blocks=plain), bases)
    mlps = [
        spare_units(block.mlp, turn(a, b) - np.eye(2)) if spare else block.mlp
        for block, spare, a, b in zip(new.blocks, chosen.spare, bases[1::2], bases[2::2], strict=True)
    ]
    new = replace(new, blocks=[replace(block, mlp=mlp) for block, mlp in zip(new.blocks, mlps, strict=True)])
    gone = {i: name for name in ("W_Q", "W_K") for i, what in enumerate(getattr(chosen, name)) if what == "I"}
    return put_back(replace(new, blocks=exactly(new.blocks, gone)), state)


def turn(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray:
    """What leads from the basis ``a`` to the basis ``b``; None is I."""
    return np.linalg.solve(np.eye(2) if a is None else a, np.eye(2) if b is None else b)


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
        "spare": f"{at} breaks first: the spare units read N({before}), which does not give back {before}.",
        "tied": "Every equality of the states holds, but the tied readout breaks: "
        f"{before}{read}(E{basis(keys[0], chosen)})ᵀ ≠ {before}Eᵀ.",
    }[kind]
    names = {"norm": "the norm", "mlp_skip": "the MLP skip", "spare": "the spare units", "tied": "the tie"}
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
    elif any(chosen.spare):
        said.append(f"The spare units cost {SPARE * sum(chosen.spare)} parameters.")
    elif state["attention_skip"] and state["mlp_skip"]:
        said.append("One basis passes every skip.")
    elif state["mlp_skip"]:
        said.append("The MLP skip is harmless: attention already writes in the next basis.")
    if state["norm"]:
        said.append("Rotations keep lengths, so the norms do not notice.")
    if state["tied"]:
        said.append("A rotation keeps the tie." if chosen.keys[0] else "E stays, and so does its tie.")
    return " ".join(said)


def still(state: State) -> str:
    """The inside of the widget for a state of ``check_state``, as HTML."""
    from qkvtheory.widgets import telescope_picture  # it needs the mathematics above

    return telescope_picture.still(state)
