"""The picture of claim nonlinear-query-beyond-orbit: a query of the plane, and the basis that takes over what it can.

The grid of the tokens and its image under q(x) = x + t act(x W_1) W_2, for each strength t, with an activation and
without one, as it is and in the basis in which q has slope one at the origin. A ring and a disc show what makes a map
linear: q(x) + q(y) and q(x + y) are one point. Everything is computed when the picture is made; which of the drawings
is seen is chosen by three rows of radio buttons and the style sheet, without a script.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from itertools import product
from typing import NamedTuple

import numpy as np

from qkvtheory.linalg import inverse
from qkvtheory.queries import ResidualQuery

Map = Callable[[np.ndarray], np.ndarray]

W_1 = np.array([[1.2, 0.4], [-0.4, 1.2]])
W_2 = np.array([[0.4, 0.6], [-0.8, 0.3]])
ACTIVATIONS: dict[str, Map] = {"none": lambda z: z, "tanh": np.tanh}
STRENGTHS = {"0": 0.0, "½": 0.5, "1": 1.0}
BASES = ("as given", "takes q over")
TOKENS = np.array([[0.1, -2.0], [1.9, 1.5]])  # x and y
REACH, STEP, VIEW = 2, 0.5, 3.6  # of the grid, in each direction; of what is seen


class State(NamedTuple):
    """What the buttons choose: keys of STRENGTHS and ACTIVATIONS, and one of BASES."""

    strength: str
    activation: str
    basis: str


FIRST = State("1", "tanh", "as given")
QUESTIONS = {  # field -> the legend of its buttons
    "strength": "How strong is f?",
    "activation": "Its activation",
    "basis": "Basis of the stream",
}
CHOICES = {"strength": tuple(STRENGTHS), "activation": tuple(ACTIVATIONS), "basis": BASES}


# -- the maps ----------------------------------------------------------------------------------------------------------


def query(state: State) -> Map:
    """The query of a state, from n x 2 to n x 2."""
    strength = STRENGTHS[state.strength]
    q = ResidualQuery(ACTIVATIONS[state.activation], W_1, strength * W_2)
    if state.basis == "as given":
        return q
    back = inverse(np.eye(2) + strength * W_1 @ W_2)
    return lambda x: q(x @ back)


def apart(q: Map, x: np.ndarray = TOKENS[:1], y: np.ndarray = TOKENS[1:]) -> float:
    """How far q(x + y) is from q(x) + q(y).

    >>> apart(lambda x: 2 * x), round(apart(np.square), 2)
    (0.0, 6.01)
    """
    return float(np.linalg.norm(q(x + y) - q(x) - q(y)))


def said(state: State) -> str:
    """What a drawing shows, in a sentence."""
    gap = apart(query(state))
    if state.strength == "0":
        return "f = 0: the query is the identity."
    if state.activation == "none":
        if state.basis == "as given":
            return "Another grid, and straight: q(x) = xM. The ring lies around the disc."
        return "In the basis that takes M over, the query is the identity. It was only a basis."
    if state.basis == "as given":
        return f"The lines bend. Ring and disc are {gap:.2f} apart."
    return (
        f"The basis has taken over the slope at the origin, and nothing else: ring and disc are still {gap:.2f} apart."
    )


# -- the drawing -------------------------------------------------------------------------------------------------------


def html() -> str:
    """The picture: three rows of buttons, and one drawing for each choice, of which the style sheet shows one."""
    rows = "".join(f"<fieldset><legend>{QUESTIONS[name]}</legend>{buttons(name)}</fieldset>" for name in CHOICES)
    drawings = "".join(one(State(*choice)) for choice in product(*CHOICES.values()))
    return f'<div class="picture query-plane"><div class="query-plane-buttons">{rows}</div>{drawings}</div>'


def buttons(name: str) -> str:
    """A row of radio buttons."""
    made = ""
    for number, choice in enumerate(CHOICES[name]):
        checked = " checked" if choice == getattr(FIRST, name) else ""
        made += f'<label><input type="radio" name="query-plane-{name}" value="{number}"{checked}> {choice}</label> '
    return made


def one(state: State) -> str:
    """The drawing of a state and its sentence; its class names the three numbers that the buttons must have."""
    at = [f"{name}-{CHOICES[name].index(choice)}" for name, choice in state._asdict().items()]
    picture = drawing(query(state), description(state), curved=state.activation != "none")
    return f'<div class="query-plane-state {" ".join(at)}">{picture}<p>{escape(said(state))}</p></div>'


def description(state: State) -> str:
    kind = "linear" if state.activation == "none" else "not linear"
    where = (
        "in the basis as given" if state.basis == "as given" else "in the basis that takes over its slope at the origin"
    )
    return f"The plane under x + f(x), f {kind}, strength {state.strength}, {where}."


def drawing(q: Map, label: str = "The grid of the tokens, and its image under the query", curved: bool = True) -> str:
    """Any map of the plane, from n x 2 to n x 2, as SVG: the grid, its image, and q(x) + q(y) beside q(x + y).

    ``label``: what it shows, for those who do not see it; ``curved``: False to draw straight lines by their ends.

    Raises ValueError if q does not give two numbers for each row.

    >>> drawing(lambda x: 2 * x).count("<path")
    2
    """
    sums = np.vstack([q(TOKENS).sum(axis=0, keepdims=True), q(TOKENS.sum(axis=0, keepdims=True))])
    if sums.shape != (2, 2):
        raise ValueError(f"a query of the plane gives n x 2 for n x 2, not {q(TOKENS).shape} for {TOKENS.shape}")
    frame = f'viewBox="{-VIEW} {-VIEW} {2 * VIEW} {2 * VIEW}" role="img" aria-label="{escape(label)}"'
    plain, image = (path(list(grid(f, bent))) for f, bent in ((lambda x: x, False), (q, curved)))
    dots = "".join(dot(at, ring) for at, ring in zip(sums, (True, False), strict=True))
    lines = f'<path d="{plain}" stroke="var(--qkv-line, #bbb)"/><path d="{image}" stroke="var(--qkv-q, #3f83d6)"/>'
    return f'<svg {frame} fill="none" stroke-width="0.03">{lines}{dots}</svg>'


def grid(q: Map, curved: bool = True) -> Iterator[np.ndarray]:
    """The images of the lines of the grid, each m x 2."""
    along = np.linspace(-REACH, REACH, 25 if curved else 2)
    for at in np.arange(-REACH, REACH + STEP, STEP):
        beside = np.full_like(along, at)
        yield q(np.stack([along, beside], axis=1))
        yield q(np.stack([beside, along], axis=1))


def path(lines: list[np.ndarray]) -> str:
    """As SVG; the second coordinate points up."""
    return "".join("M" + " ".join(f"{x:.2f},{-y:.2f}" for x, y in line) for line in lines)


def dot(at: np.ndarray, ring: bool) -> str:
    look = 'r="0.2" stroke-width="0.06" stroke' if ring else 'r="0.1" fill'
    return f'<circle cx="{at[0]:.2f}" cy="{-at[1]:.2f}" {look}="var(--qkv-k, #c96a28)"/>'
