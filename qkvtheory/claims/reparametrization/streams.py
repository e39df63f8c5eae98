"""Two bases, one head, and where the basis goes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qkvtheory import gauge
from qkvtheory.attention import Heads, causal, rational
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call, matrices
from qkvtheory.claims.reparametrization.lemma import (
    CHAPTER,
    OURS,
)
from qkvtheory.lanes import slow
from qkvtheory.lanes.settings import FLOAT, Setting, plain_scores, square_keys
from qkvtheory.network import Attention

# -- two bases, one head, where theta goes -----------------------------------------------------------------------------


def two_streams(w: Any, **options: Any) -> tuple[Any, Any, Attention]:
    return w.matrix("X", "n", "d"), w.matrix("Z", "m", "z"), w.attention(memory=True, **options)


def cross(w: Any, **options: Any) -> Pairs:
    x, memory, a = two_streams(w, **options)
    theta, phi = w.invertible("Theta", "d", "H2"), w.invertible("Phi", "z", "H2")
    return [(call(gauge.change_basis(a, theta, phi), x @ theta, memory @ phi), call(a, x, memory))]


def cross_both(w: Any, which: str = "K", **options: Any) -> Pairs:
    """W_Q and W_K (or W_V) at once: the memory as wide as the keys."""
    x, memory = w.matrix("X", "n", "d"), w.matrix("Z", "m", "d")
    other = {f"W_{which}": w.invertible(f"W_{which}", "d", "H2")}
    a = w.attention(square=True, W_Q=w.invertible("W_Q", "d", "H2"), **other, **options)
    theta, phi, new = gauge.reparametrize_cross(a, which)
    one = w.identity("d")
    pairs = [(new.W_Q, one), (getattr(new, f"W_{which}"), one)]
    return [(call(new, x @ theta, memory @ phi), call(a, x, memory)), *pairs]


def cross_further(w: Any) -> Pairs:
    """The same with values in place of keys, with biases, and with a mask on the memory where there are heads."""
    masked = {}
    if hasattr(w.core(), "mask"):
        masked = {"core": replace(w.core(), mask=np.tri(w.sizes["n"], w.sizes["m"], 1, dtype=bool))}
    options = {"biases": True, **masked}
    return [*cross(w, **options), *cross_both(w, "V"), *cross_both(w, "K", **options), *cross_both(w, "V", **options)]


def one_stream_two_bases(w: Any) -> Pairs:
    """Self-attention pretending to have two bases."""
    x = w.matrix("X", "n", "d")
    a = w.attention(square=True, W_Q=w.invertible("W_Q", "d", "H2"), W_K=w.invertible("W_K", "d", "H2"))
    theta, _, new = gauge.reparametrize_cross(a, "K")
    return [(new(x @ theta), a(x))]


def unmasked(s: Setting) -> bool:
    return not s.biases and square_keys(s) and not set(s.features(s)) - {"pattern", "scale", "softcap"}


def singular_memory_basis(w: Any) -> Pairs:
    x, memory, a = two_streams(w)
    phi, back = w.singular("Phi", "z")
    new = replace(a, W_K=back @ a.W_K, W_V=back @ a.W_V)
    return [(new(x, memory @ phi), a(x, memory))]


CROSS = Claim(
    id="cross-attention-two-gauges",
    rank="remark",
    chapter=CHAPTER,
    title="Cross-attention has two bases",
    statement=(
        "If queries read $X$ and keys and values read a memory $Z$, then $\\Theta$ and $\\Phi$ may be chosen separately. So $W_Q$ **and** one "
        "of $W_K$, $W_V$ become identities at once, if they are square and invertible: two of three. In an encoder-decoder model all "
        "cross-attention layers read one memory and share one $\\Phi$."
    ),
    hypotheses=(
        Hypothesis("H1", "a memory of its own", "keys and values do not read the stream that the queries read"),
        Hypothesis("H2", "invertible bases", "$\\Theta$ and $\\Phi$ are invertible"),
    ),
    sources=(OURS,),
    uses=("r-products",),
    sides=lambda w: [*cross(w), *cross_both(w)],
    also=cross_further,
    settings=unmasked,
    constructions=("change_basis", "moved", "reparametrize_cross"),
    controls=(
        Control("H1", "self-attention with two different bases", one_stream_two_bases),
        Control("H2", "a generalized inverse of a singular $\\Phi$", singular_memory_basis),
    ),
)


def single_head(w: Any, **given: Any) -> Attention:
    """One head of width d_h: in words a softmax head, in numbers ``Heads`` with the old scale, a mask and a score bias."""
    sizes = {"W_Q": ("d", "h"), "W_K": ("d", "h"), "W_V": ("d", "h"), "W_O": ("h", "d")}
    weights = {name: given.get(name) for name in sizes}
    weights = {name: w.matrix(name, *sizes[name]) if value is None else value for name, value in weights.items()}
    return Attention(given.get("core") or single_core(w), **weights, b_O=given.get("b_O"))


def single_core(w: Any) -> Any:
    if w.lane == "numeric":
        n = w.sizes["n"]
        return Heads(1, mask=causal(n), bias=np.linspace(-1, 1, n * n).reshape(n, n) ** 3, softcap=2.0)
    return Heads(1, scale=1, pattern=rational) if w.lane == "exact" else w.head


def merged(w: Any) -> Pairs:
    x, a = w.matrix("X", "n", "d"), single_head(w)
    new = gauge.merge_single_head(a)
    return [(call(new, x), call(a, x)), (new.W_Q, w.identity("d")), (new.W_V, w.identity("d"))]


def merged_with_output_bias(w: Any) -> Pairs:
    x, a = w.matrix("X", "n", "d"), single_head(w, b_O=w.matrix("b_O", "1", "d"))
    return [(call(gauge.merge_single_head(a), x), call(a, x))]


def merged_two_heads(w: Any) -> Pairs:
    """One merged matrix W_K W_Q^T for two heads, without asking."""
    if w.lane == "symbolic" or w.lane == "re-evaluation":
        x, heads = w.matrix("X", "n", "d"), [[w.matrix(f"W_{c}^{i}", "d", "h") for c in "QK"] for i in (1, 2)]
        sum_of_products = heads[0][1] @ heads[0][0].mT + heads[1][1] @ heads[1][0].mT
        separate = [w.softmax((x @ q) @ (x @ k).mT) @ x for q, k in heads]
        return [(w.softmax(x @ (x @ sum_of_products).mT) @ x + separate[1], separate[0] + separate[1])]
    x, a = w.matrix("X", "n", "d"), w.attention(square=True)
    a = replace(a, core=replace(a.core, heads=2, groups=None))
    one = w.identity("d")
    return [(replace(a, W_Q=one, W_K=a.W_K @ a.W_Q.mT)(x), a(x))]


def merged_with_rotation(w: Any) -> Pairs:
    """With fractions in the scores, as rotations make them, powers of two would not be rational: another pattern is."""
    x, Q, K, V = matrices(w, {"X": "nd", "W_Q": "dh", "W_K": "dh", "W_V": "dh"})
    head = Heads(1, scale=1, pattern=rational) if w.lane == "exact" else w.head
    rotated = head(w.rotate(x @ Q), w.rotate(x @ K), x @ V)
    return [(head(w.rotate(x), w.rotate(x @ (K @ Q.mT)), x @ V), rotated)]


def merge_refused(w: Any) -> Pairs:
    a = w.attention(core=Heads(2))
    return [(gauge.merge_single_head(a).W_K, a.W_K)]


def merge_counted(_: Any) -> Pairs:
    """d^2 numbers for a merged head, against 2 d d_h for its two factors."""
    pairs = []
    for d, width in ((8, 8), (8, 4), (16, 4)):
        a = Attention(Heads(1), np.eye(d)[:, :width], np.eye(d)[:, :width], np.eye(d)[:, :width], np.eye(d)[:width])
        pairs += [(d * d, gauge.merge_single_head(a).W_K.size), (2 * d * width, a.W_Q.size + a.W_K.size)]
    return pairs


SINGLE_HEAD = Claim(
    id="single-head-merge",
    rank="remark",
    chapter=CHAPTER,
    title="One head needs no change of basis",
    statement=(
        "With one head, $\\tilde W_Q=I_d$ and $\\tilde W_K=W_KW_Q^{\\top}$ give the same scores from the *same* stream, and no matrix need be "
        "invertible; $W_V$ and $W_O$ merge likewise. With $H$ heads this would need $H$ matrices of $d^2$ numbers: the lemma is a "
        "different construction."
    ),
    hypotheses=(
        Hypothesis("H1", "one head", "$H=1$"),
        Hypothesis("H2", "bare scores", "no RoPE, no QK-norm, no bias on queries, keys or values"),
    ),
    sources=(OURS,),
    uses=("scores-bilinear",),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=merged,
    also=merged_with_output_bias,
    special={"count": merge_counted},
    settings=lambda s: plain_scores(s) and s.heads > 1,
    constructions=("merge_single_head",),
    controls=(
        Control("H1", "one merged matrix for two heads", merged_two_heads),
        Control("H1", "asking to merge two heads", merge_refused, lanes=("exact", "numeric"), refused="one head"),
        Control("H2", "rotary positions between the two factors", merged_with_rotation),
    ),
)


def rebased(w: Any, biases: bool = False) -> Pairs:
    """A block carries one basis in and another out: its last write absorbs the change."""
    x, enter, leave = w.matrix("X", "n", "d"), w.invertible("Theta", "d", "H2"), w.matrix("Phi", "d", "d")
    b = w.block(biases=biases)
    return [(call(gauge.rebase(b, enter, leave), x @ enter, name="block"), b(x) @ leave)]


def writes(w: Any) -> Pairs:
    """The stream as a sum of writes, X = U_1 W_1 + U_2 W_2."""
    theta = w.invertible("Theta", "d", "H2")
    U, V = w.matrix("U_1", "n", "s"), w.matrix("U_2", "n", "s")
    A, B = w.matrix("W_1", "s", "d"), w.matrix("W_2", "s", "d")
    return [*rebased(w), (U @ (A @ theta) + V @ (B @ theta), (U @ A + V @ B) @ theta)]


def further_blocks(w: Any) -> Pairs:
    """With biases, and in numbers against the blocks written out: all four topologies, learned skips, parallel."""
    pairs = [*rebased(w, biases=True)]
    if w.lane in ("exact", "numeric"):
        x = w.matrix("X", "n", "d")
        learned = (w.matrix("A", "d", "d"), w.matrix("B", "d", "d"))
        topologies = [learned, *((a, m) for a in (True, False) for m in (True, False))]
        cases = [w.block(biases=True, topology=topology) for topology in topologies]
        cases += [w.block(biases=True, topology=(a, False), parallel=True) for a in (True, False, learned[0])]
        pairs += [(slow.block(b, x), b(x)) for b in cases]
    return pairs


def a_write_forgotten(w: Any) -> Pairs:
    x, enter, leave = w.matrix("X", "n", "d"), w.invertible("Theta", "d", "H2"), w.matrix("Phi", "d", "d")
    b = w.block()
    new = gauge.rebase(b, enter, leave)
    return [(replace(new, attention=replace(new.attention, W_O=b.attention.W_O))(x @ enter), b(x) @ leave)]


def a_skip_in_the_way(w: Any) -> Pairs:
    x, enter, leave = w.matrix("X", "n", "d"), w.invertible("Theta", "d", "H2"), w.matrix("Phi", "d", "d")
    b = w.block()
    new = gauge.rebase(b, enter, leave)
    return [(replace(new, mlp_skip=True)(x @ enter), replace(b, mlp_skip=True)(x) @ leave)]


def theta_counted(_: Any) -> Pairs:
    """Parameters before and after: the block keeps its count, and one projection of d^2 numbers becomes the identity."""
    rng, s = np.random.default_rng(0), FLOAT[0]
    weights = [rng.normal(size=(s.sizes[a], s.sizes[b])) for a, b in ("dp", "dk", "dv", "od")]
    a = Attention(s.core(), *weights)
    theta, new = gauge.reparametrize(a, "Q")
    before, after = (sum(getattr(layer, f"W_{c}").size for c in "QKVO") for layer in (a, new))
    learned = after - int((np.eye(s.d) == new.W_Q).all()) * s.d**2
    return [(before, after), (before - s.d**2, learned), (before, learned + theta.size)]


WHERE_THETA_GOES = Claim(
    id="where-theta-goes",
    rank="remark",
    chapter=CHAPTER,
    title="The saving needs a free place for the basis",
    statement=(
        "If the input is a sum of writes, $X=\\sum_kU_kW_k$, that may all be changed, and every other read of that state is changed too, "
        "then $\\Theta$ costs nothing: $W_k\\mapsto W_k\\Theta$. A block with a skip around attention only can take one basis in and hand "
        "another out. If $X$ is raw data read by nothing else, $\\Theta$ is an extra $d\\times d$ matrix and nothing is saved."
    ),
    hypotheses=(
        Hypothesis("H1", "all writes and reads", "every write into the state and every read of it is changed"),
        Hypothesis("H2", "invertible basis", "the basis in which the state is read is invertible"),
    ),
    sources=(
        Source("paper", "karbevski2026wkwv", note="absorption by the preceding MLP, or by the embedding in layer 1"),
        Source("derived", note="the form with writes and reads"),
    ),
    uses=("reparam-lemma",),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=writes,
    also=further_blocks,
    special={"count": theta_counted},
    settings=lambda s: not s.biases,
    deep=True,
    constructions=("rebase", "reads", "carried"),
    controls=(
        Control("H1", "one write ($W_O$) forgotten", a_write_forgotten),
        Control("H1", "a skip around the MLP, so the old basis gets through", a_skip_in_the_way),
        Control(
            "H2",
            "asking for a singular basis",
            lambda w: [(gauge.rebase(w.block(), w.singular("Theta", "d")[0], w.identity("d")), None)],
            refused="invertible",
        ),
    ),
)


def linear_in_keys(w: Any) -> Pairs:
    """After eliminating W_Q: scores of a sum of two key matrices are the sum of the scores, from the same stream."""
    x, W_Q = w.matrix("X", "n", "d"), w.invertible("W_Q", "d", "H1")
    K, L, J = w.matrix("W_K", "d", "h"), w.matrix("L", "d", "h"), w.matrix("J", "d", "h")
    one, key, other = gauge.reads(gauge.inverse(W_Q), W_Q, K, L)
    tokens = x @ W_Q

    def scores(k: Any) -> Any:
        return (tokens @ one @ J) @ (tokens @ k).mT

    return [(scores(key), (x @ W_Q @ J) @ (x @ K).mT), (scores(key + other), scores(key) + scores(other))]


def bilinear_before(w: Any) -> Pairs:
    x, Q, K = matrices(w, {"X": "nd", "W_Q": "dh", "W_K": "dh"})
    R, L = w.matrix("R", "d", "h"), w.matrix("L", "d", "h")
    return [((x @ (Q + R)) @ (x @ (K + L)).mT, (x @ Q) @ (x @ K).mT + (x @ R) @ (x @ L).mT)]


def stream_moves_too(w: Any) -> Pairs:
    """Doubling every weight, embedding included, does not double the scores."""
    tokens, E, K = w.matrix("T", "n", "vocab"), w.matrix("E", "vocab", "d"), w.matrix("W_K", "d", "d")

    def scores(embedding: Any, key: Any) -> Any:
        return (tokens @ embedding) @ (tokens @ embedding @ key).mT

    return [(scores(E + E, K + K), scores(E, K) + scores(E, K))]


def normed_keys(w: Any) -> Pairs:
    x, K, L = w.matrix("X", "n", "d"), w.matrix("W_K", "d", "d"), w.matrix("L", "d", "d")
    norm = w.function("N")
    return [(x @ norm(x @ (K + L)).mT, x @ norm(x @ K).mT + x @ norm(x @ L).mT)]


ONE_MATRIX = Claim(
    id="logits-one-matrix",
    rank="remark",
    chapter=CHAPTER,
    title="Scores depend on one learned matrix",
    statement=(
        "After eliminating $W_Q$ the scores of head $h$ are $\\alpha\\tilde X_h(\\tilde X\\tilde W_K^h)^{\\top}$, with $\\tilde X_h$ the $h$-th block of "
        "coordinates of the stream: linear in $\\tilde W_K$ for a given stream, where before they were bilinear in $(W_Q,W_K)$."
    ),
    hypotheses=(
        Hypothesis("H1", "the query projection is eliminated", "$W_Q$ is invertible and the stream is $XW_Q$"),
        Hypothesis("H2", "a given stream", "the stream is held fixed; it depends on the weights of earlier layers"),
        Hypothesis("H3", "bare scores", "no RoPE, no QK-norm, no soft-capping, no bias on queries or keys"),
    ),
    sources=(
        Source(
            "paper", "karbevski2025kv", "v3, v7", note="v3 speaks of linear against quadratic, v7 of one learned matrix"
        ),
    ),
    uses=("eliminate-q",),
    lanes=("symbolic", "exact", "numeric"),
    sides=linear_in_keys,
    settings=plain_scores,
    controls=(
        Control("H1", "before the elimination: scores are not linear in $(W_Q,W_K)$", bilinear_before),
        Control("H2", "linearity claimed in all weights, the embedding included", stream_moves_too),
        Control("H3", "a norm on the keys", normed_keys),
    ),
)
