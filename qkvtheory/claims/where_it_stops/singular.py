"""A singular W_Q that no basis removes: two heads that ask for the same coordinate."""

from __future__ import annotations

from typing import Any

import numpy as np

from qkvtheory import gauge
from qkvtheory.attention import Heads, base_two, softmax
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.claims.queries_equal_keys.common import normalized, number
from qkvtheory.claims.reparametrization.conditions import merged_although_singular
from qkvtheory.claims.reparametrization.lemma import eliminated, refused_projection, singular_projection
from qkvtheory.claims.reparametrization.streams import merged_two_heads
from qkvtheory.claims.where_it_stops import three_elements
from qkvtheory.claims.where_it_stops.skips import CHAPTER
from qkvtheory.lanes.settings import plain_scores
from qkvtheory.network import Attention

PARALLEL = (3**2 - 1) * (3 - 1)  # over three elements: a column that is not zero, and a multiple of it
SMALL = (1e-1, 1e-2, 1e-3)
OFF = (0.05, 1.0)  # between these multiples of delta lies what moving W_Q by delta changes


# -- the steps of the proof --------------------------------------------------------------------------------------------


def steps(w: Any) -> Pairs:
    """Equal tokens: every map returns their value, so Theta W_V must be I. A token whose query is zero: the kernel is the
    same whatever the keys are. A map tells two tokens apart just as the kernel does. So the columns of Theta are
    multiples of one column a; but then every state Z with Z a = 0 is lost, and Theta W_V is not I.
    """
    value, X, u = w.ones("n") @ w.matrix("x", "1", "d"), w.matrix("X", "n", "d"), w.matrix("u", "n", "1")
    a, k, other = (w.matrix(name, "d", "1") for name in ("a", "k", "l"))
    theta, W_V, Z = w.matrix("Theta", "d", "d"), w.matrix("W_V", "d", "d"), w.annihilator("Z", "n", a)
    E = w.kernel(w.integers("S", "n", "n"))
    D, A = normalized(w, E, "H3")
    return [
        (A @ (value @ theta @ W_V), value @ theta @ W_V),
        (w.kernel((Z @ a) @ (X @ k).mT), w.kernel((Z @ a) @ (X @ other).mT)),
        (D @ (A @ u), E @ u),
        (Z - Z @ (a @ w.matrix("c", "1", "d")) @ W_V, Z),
    ]


# -- the example in numbers --------------------------------------------------------------------------------------------


def example(w: Any, delta: float = 0) -> Attention:
    """d = 2, two heads of width one, W_K = W_V = I, and the queries (1 1) over (delta -delta)."""
    exact = w.lane == "exact"
    core = Heads(2, scale=1, pattern=base_two if exact else softmax)
    one = w.identity("1") * np.eye(2, dtype=int if exact else float)
    W_Q = one * 0 + np.array([[1, 1], [delta, -delta]])
    return Attention(core, W_Q, one, one, one)


def tokens(w: Any) -> Any:
    return w.integers("X", "n", "1") @ w.identity("1") @ np.array([[1, 0]]) + w.integers("Y", "n", "1") @ np.array(
        [[0, 1]]
    )


def head_by_head(w: Any) -> Pairs:
    """Each head alone could be served, by a multiple of its column: together these make a Theta of rank one."""
    a, x = example(w), tokens(w)
    turn = np.array([[1, 0], [0, -1]])
    return [(a.core(x @ (a.W_Q @ turn), x @ turn, x), a(x))]


def price(w: Any) -> Pairs:
    """A W_Q moved by delta can go, with cond(Theta) = 1 / delta; and what it computes is off by about delta."""
    x, old, pairs = tokens(w), example(w), []
    for delta in SMALL:
        w.cond = max(w.cond, 1 / delta)
        near = example(w, delta)
        theta, new = gauge.reparametrize(near, "Q")
        off = number(w, float(np.abs(near(x) - old(x)).max()) / delta)
        pairs += [
            (call(new, x @ theta), call(near, x)),
            (number(w, float(np.linalg.cond(theta)) * delta), number(w, 1.0)),
        ]
        pairs += [AtMost(number(w, OFF[0]), off), AtMost(off, number(w, OFF[1]))]
    return pairs


def moved_a_little(w: Any) -> Pairs:
    return price(w)[-4:-3]


def over_three_elements(_: Any) -> Pairs:
    """Of all 81 matrices W_Q exactly those with two parallel columns have no rewriting."""
    return [(PARALLEL, three_elements.impossible()), (0, three_elements.disagreements())]


SINGULAR_WQ = Claim(
    id="singular-wq-counterexample",
    rank="remark",
    chapter=CHAPTER,
    title="A singular $W_Q$ that no basis removes",
    statement=(
        "Let $d=2$, with two heads of width one, $W_K=W_V=I$ and $W_Q=\\begin{pmatrix}1&1\\\\0&0\\end{pmatrix}$: both heads ask for the first "
        "coordinate. There are no $\\Theta$, $\\tilde W_K$, $\\tilde W_V$ with which identity queries give this attention for every pair of "
        "tokens, with any injective positive kernel in place of the exponential. The steps: equal tokens demand $\\Theta\\tilde W_V=I$; a "
        "token whose query is zero must stay without preference, which makes both columns of $\\Theta$ multiples of $(1\\;0)^{\\top}$. Over the "
        f"field of three elements all rewritings are tried: of the {3**4} matrices $W_Q$ exactly the {PARALLEL} with two parallel columns have none. "
        "With the second row $(\\delta\\;-\\delta)$ $W_Q$ can go, with $\\operatorname{cond}(\\Theta)=1/\\delta$; so the example is a limit of networks in which it works."
    ),
    hypotheses=(
        Hypothesis("H1", "two heads", "there are two heads, each with a query of its own"),
        Hypothesis("H2", "parallel queries", "both columns of $W_Q$ are multiples of one column, and neither is zero"),
        Hypothesis("H3", "injective positive kernel", "different scores have different weights, and all are positive"),
        Hypothesis("H4", "two tokens, every input", "the rewriting must hold for all inputs of two tokens"),
    ),
    sources=(Source("derived"),),
    uses=("row-constants-invisible", "single-head-merge"),
    kind="counterexample",
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=steps,
    special={
        "exact": lambda w: [*steps(w), *head_by_head(w)],
        "numeric": lambda w: [*steps(w), *head_by_head(w), *price(w)],
        "count": over_three_elements,
    },
    settings=plain_scores,
    controls=(
        Control(
            "H1", "one head: identity queries are possible with a singular $W_Q$", witness=merged_although_singular
        ),
        Control("H2", "an invertible $W_Q$", witness=lambda w: eliminated(w, "Q")),
        Control("H2", f"$W_Q$ moved by $\\delta={SMALL[-1]}$", witness=moved_a_little, lanes=("numeric",)),
        Control(
            "H3",
            "a constant kernel: every $W_Q$ can go",
            lambda _: [(PARALLEL, three_elements.impossible(three_elements.CONSTANT))],
            lanes=("count",),
        ),
        Control(
            "H4",
            "one token: every $W_Q$ can go",
            lambda _: [(PARALLEL, three_elements.impossible(tokens=1))],
            lanes=("count",),
        ),
        Control("construction", "a generalized inverse of a singular $W_Q$", lambda w: singular_projection(w, "Q")),
        Control("construction", "both heads merged as if they were one", merged_two_heads),
        Control(
            "construction",
            "asking for it with a singular $W_Q$",
            lambda w: refused_projection(w, "Q"),
            refused="invertible",
        ),
    ),
)
