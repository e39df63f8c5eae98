"""Queries that are functions: q(x) = x + f(x) in the place of x W_Q, and the freedom of basis that is left to them.

The basis of the stream can take over a linear query (``gauge.reparametrize``); then q(x) = x. It cannot take over one
that is not linear: such a query is new. ``ResidualQuery`` keeps the identity beside a bottleneck f, as M. Karbevski
proposes (arXiv 2603.13381); ``QueryAttention`` is a sublayer that asks with it, and ``rebase_query`` carries it into
another basis, where one is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from qkvtheory import gauge
from qkvtheory.checks import fits, of, past_norm, sound
from qkvtheory.errors import HypothesisError
from qkvtheory.linalg import identity, inverse
from qkvtheory.network import Attention, affine, check_read, normed
from qkvtheory.norms import LayerNorm, RMSNorm, gainless, stretched


@dataclass(frozen=True, eq=False)
class ResidualQuery:
    """q(x) = x + outer_norm(act(inner_norm(x) W_1) W_2): the identity, and beside it a bottleneck without biases.

    Shapes: x is n x d, W_1 d x r, W_2 r x d; q(x) is n x d again, so the heads take d/H columns each. ``inner_norm``
    stands before W_1, ``outer_norm`` behind W_2; None for none. Runs on arrays, exact numbers and words.
    A call raises HypothesisError unless x is a matrix as wide as W_1 is tall.

    Source: M. Karbevski (arXiv 2603.13381), Q(X) = X + f(X); see ``published_query`` for the norms of the public code.

    >>> import numpy as np
    >>> query = ResidualQuery(np.tanh, np.array([[1.0], [0.0]]), np.array([[0.0, 2.0]]))
    >>> query(np.array([[0.0, 5.0]])).tolist()
    [[0.0, 5.0]]
    """

    act: Callable[[Any], Any]
    W_1: Any
    W_2: Any
    inner_norm: Callable[[Any], Any] | None = None
    outer_norm: Callable[[Any], Any] | None = None

    def __call__(self, x: Any) -> Any:
        check_read("x", x, W_1=self.W_1)
        return x + self.added(x)

    def added(self, x: Any) -> Any:
        """f(x): what the query has beside the identity, n x d."""
        return normed(self.outer_norm, self.act(normed(self.inner_norm, x) @ self.W_1) @ self.W_2)


@dataclass(frozen=True, eq=False)
class QueryAttention:
    """An attention sublayer without W_Q: core(query(x), m W_K, m W_V) W_O, with m = memory, or x itself.

    ``query``: any function of the stream, such as a ``ResidualQuery``; x is n x d, query(x) n x p. The other fields as
    in ``Attention``. It may stand in a ``Block`` where an Attention stands; the constructions that eliminate or
    rebase a W_Q refuse it, because there is none. Raises HypothesisError as ``Attention`` does.

    >>> import numpy as np
    >>> a = QueryAttention(lambda q, k, v: q + k - v, np.square, *np.eye(2)[None].repeat(3, 0))
    >>> a(np.array([[3.0, 4.0]])).tolist()
    [[9.0, 16.0]]
    """

    core: Callable[[Any, Any, Any], Any]
    query: Callable[[Any], Any]
    W_K: Any
    W_V: Any
    W_O: Any
    b_K: Any = None
    b_V: Any = None
    b_O: Any = None

    def __call__(self, x: Any, memory: Any = None) -> Any:
        m, source = (x, "x") if memory is None else (memory, "memory")
        check_read(source, m, W_K=self.W_K, W_V=self.W_V)
        k, v = affine(m, self.W_K, self.b_K), affine(m, self.W_V, self.b_V)
        return affine(self.core(self.query(x), k, v), self.W_O, self.b_O)


def published_query(
    act: Callable[[Any], Any], W_1: Any, W_2: Any, inner_gain: Any = None, outer_gain: Any = None, eps: float = 1e-5
) -> ResidualQuery:
    """x + LayerNorm(act(RMSNorm(x) W_1) W_2), as in Karbevski's public code: there act is GELU and r = d/2.

    The gains are rows of d numbers, or None; there is no bias. The scores of that code have half the usual scale:
    ``Heads(H, scale=0.5 * d_h**-0.5)``.

    >>> import numpy as np
    >>> query = published_query(np.tanh, np.ones((2, 1)), np.array([[1.0, 3.0]]), eps=0)
    >>> query(np.array([[1.0, 1.0]])).tolist()
    [[0.0, 2.0]]
    """
    return ResidualQuery(act, W_1, W_2, RMSNorm(inner_gain, eps=eps), LayerNorm(outer_gain, eps=eps))


def query_parameters(d: int, width: int | None = None, gains: bool = True) -> int:
    """Parameters of one published query: 2 d r, and a gain of d numbers for each of its two norms. r = d/2 by default.

    Raises ValueError unless d and r are at least 1, and d is even where r is left out.

    >>> query_parameters(768), 768**2
    (591360, 589824)
    """
    if width is None and d % 2:
        raise ValueError(f"the default bottleneck is d/2, but d = {d} is odd; pass width")
    width = d // 2 if width is None else width
    if min(d, width) < 1:
        raise ValueError(f"d and width must be at least 1, not {d} and {width}")
    return 2 * d * width + (2 * d if gains else 0)


def fold_query_gain(query: ResidualQuery) -> ResidualQuery:
    """The same query with the gain of its inner norm inside W_1: diag(gain) W_1. What other norms hold stays.

    The gain of the outer norm cannot go: the identity beside it has none.

    >>> import numpy as np
    >>> query = published_query(np.tanh, np.ones((2, 1)), np.ones((1, 2)), inner_gain=np.array([2.0, 3.0]))
    >>> fold_query_gain(query).W_1.tolist()
    [[2.0], [3.0]]
    """
    of(ResidualQuery, query, "the query")
    norm = query.inner_norm
    if not isinstance(norm, RMSNorm) or norm.gain is None:
        return query
    return replace(query, inner_norm=gainless(norm), W_1=stretched(norm.gain, query.W_1))


def rebase_query(attention: QueryAttention, theta: Any) -> QueryAttention:
    """The sublayer that reads x @ theta where ``attention`` reads x, with the same W_O: claim nonlinear-query-gauge.

    The identity in the query stays, so what leaves it is in the basis theta too, q(x) @ theta, and the keys must undo
    that inside the heads:

        theta^-1 W_1, W_2 theta, theta^-1 W_K theta^-T, theta^-1 W_V        (b_K theta^-T)

    It is a change of basis followed by a turn of the heads with the same matrix, and both their hypotheses are needed.
    ``theta``: d x d, invertible, one square block for each head on the diagonal; orthogonal beside an inner RMSNorm
    without gain (see ``fold_query_gain``); beside an outer LayerNorm it must fix the all-ones direction as well.

    Raises HypothesisError naming what fails ("invertible", "same head spaces", "no norm", "bare scores" under QK-norm,
    and under RoPE for a block that does not commute with it; "multi-head attention" where query heads share keys,
    "shapes agree"), TypeError for another query.

    >>> import numpy as np
    >>> from qkvtheory.attention import Heads
    >>> rng = np.random.default_rng(0)
    >>> query = ResidualQuery(np.tanh, rng.normal(size=(4, 2)), rng.normal(size=(2, 4)))
    >>> attention = QueryAttention(Heads(2), query, *rng.normal(size=(3, 4, 4)))
    >>> theta = np.kron(np.eye(2), np.array([[1.0, 2.0], [0.0, 1.0]]))       # one block for each head
    >>> x = rng.normal(size=(5, 4))
    >>> bool(np.allclose(rebase_query(attention, theta)(x @ theta), attention(x)))
    True
    """
    of(QueryAttention, attention, "the sublayer")
    query: Any = attention.query
    of(ResidualQuery, query, "the query")
    sound({"W_1": query.W_1, "W_2": query.W_2, "theta": theta}, {})
    fits("W_1", query.W_1, "W_2", query.W_2)
    fits("W_2", query.W_2, "theta", theta)
    moved = gauge.change_basis(with_matrix(attention, identity(query.W_1.shape[0], query.W_1)), theta)
    try:
        moved = gauge.turn_heads(moved, keys=theta)
    except HypothesisError as refusal:
        refusal.args = (f"{refusal} (here keys is theta: the identity beside the query carries it into the heads)",)
        raise
    past_norm("the bottleneck of the query", query.inner_norm, theta)
    past_norm("the sum of the query", query.outer_norm, theta)
    new = moved_query(query, inverse(theta, "theta"), theta)
    return replace(attention, query=new, W_K=moved.W_K, W_V=moved.W_V, b_K=moved.b_K)


def with_matrix(attention: QueryAttention, W_Q: Any) -> Attention:
    """The sublayer with a matrix for its query; for the identity, f = 0."""
    a = attention
    return Attention(a.core, W_Q, a.W_K, a.W_V, a.W_O, None, a.b_K, a.b_V, a.b_O)


def moved_query(query: ResidualQuery, back: Any, theta: Any) -> ResidualQuery:
    """The query that gives q(x) @ theta on x @ theta, when theta @ back = I and no norm is in the way."""
    (W_1,) = gauge.reads(back, query.W_1)
    return replace(query, W_1=W_1, W_2=gauge.carried(query.W_2, theta))
