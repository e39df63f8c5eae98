"""Which changes of basis a norm lets through, and what becomes of its gain and its bias."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from functools import cache, partial
from itertools import count, product
from typing import Any

import numpy as np

from qkvtheory import norms, rotations, stacks, words
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.lanes.settings import EXACT, Setting
from qkvtheory.linalg import identity, inverse, symbolic
from qkvtheory.network import Block, Network, normed
from qkvtheory.norms import LayerNorm, RMSNorm

CHAPTER = "where-it-stops"
T2 = (True, True)
NUMBERS = ("exact", "numeric")
OURS = Source("derived")
NOTE = Source("paper", "karbevski2026skips")
SLICE = Source("paper", "ashkboos2024slicegpt")
MODELS = ("multi-head attention", "one head", "biases", "causal mask", "GQA, causal, RoPE, biases")


# -- the pieces --------------------------------------------------------------------------------------------------------


def a_few(s: Setting) -> bool:
    """Enough kinds of attention: what norms let through does not depend on the core. In exact numbers width two."""
    return s.name in MODELS and (s not in EXACT or s.d == 2)


def a_few_wide(s: Setting) -> bool:
    """The same with several heads in exact numbers, for what is empty in two dimensions."""
    return s.name in MODELS and (s not in EXACT or s.name == MODELS[0])


def whole_networks(w: Any) -> bool:
    """Where networks are run, and not only their blocks and ends: in floats, and in small exact numbers."""
    return w.lane == "numeric" or (w.lane == "exact" and w.sizes["d"] == 2)


def scale(w: Any) -> Any:
    """What stands in place of the inverse root: nothing for floats, elsewhere some function of the Gram matrix."""
    if w.lane == "numeric":
        return None
    return norms.rational_scale if w.lane == "exact" else w.function("rho")


def rms(w: Any, **given: Any) -> RMSNorm:
    return RMSNorm(**given, scale=scale(w))


def layer_norm(w: Any, **given: Any) -> LayerNorm:
    return LayerNorm(**given, scale=scale(w))


def gain(w: Any, name: str = "gamma") -> Any:
    """A gain of which nothing is known: a diagonal matrix in words, a row in numbers."""
    if w.lane == "numeric":
        return w.rng(name).uniform(0.5, 2, (1, w.sizes["d"]))
    column = w.matrix(name, "d", "1")
    if isinstance(column, words.Word):
        return words.diagonal(column)
    return w.diagonal(column) if symbolic(column) else column.T


def with_norms(network: Network, make: Callable[[int], Any]) -> Network:
    """A norm before every sublayer and before the readout: make(1), make(2), ..."""
    numbers = count(1)

    def with_two(block: Block) -> Block:
        return replace(block, attention_norm=make(next(numbers)), mlp_norm=make(next(numbers)))

    blocks = [with_two(block) for block in network.blocks]
    return replace(network, blocks=blocks, norm=make(next(numbers)))


def same(w: Any, new: Network, old: Network) -> tuple[Any, Any]:
    return call(new, w.tokens(), name="network"), call(old, w.tokens(), name="network")


def differ(w: Any, new: Network, old: Network) -> Pairs:
    """For wrong variants: the two outputs."""
    return [(new(w.tokens()), old(w.tokens()))]


def forced(network: Network, basis: Any, make: Callable[[int], Any] = lambda _: None) -> Network:
    """The network in another basis as if it had no norms; then the norms ``make`` says."""
    bare = with_norms(network, lambda _: None)
    back = basis.mT if symbolic(basis) else inverse(basis)
    count_of_states = 2 * len(network.blocks) + 1
    return with_norms(stacks.carry(bare, [basis] * count_of_states, invert=lambda *_: back), make)


# -- rmsnorm-orthogonal-only -------------------------------------------------------------------------------------------


def rotations_pass(w: Any) -> Pairs:
    """N(X O) = N(X) O; and lengths tell inner products, so what keeps all lengths keeps all inner products."""
    x, turn, N = w.matrix("X", "n", "d"), w.orthogonal("O", "d", "H1"), rms(w)
    a, b, G = w.matrix("a", "1", "d"), w.matrix("b", "1", "d"), w.matrix("G", "d", "d")
    both = a + b
    lengths = (both @ G) @ (both @ G).mT - (a @ G) @ (a @ G).mT - (b @ G) @ (b @ G).mT
    return [(N(x @ turn), N(x) @ turn), (lengths, a @ (G @ G.mT) @ b.mT + b @ (G @ G.mT) @ a.mT)]


def a_network(w: Any) -> Pairs:
    """The consequence for networks with a norm before everything that reads."""
    old = with_norms(w.network(1, T2, biases=w.lane == "numeric"), lambda _: rms(w))
    return [same(w, rotations.rotate(old, w.orthogonal("O", "d", "H1")), old)]


def probes(one: Any) -> Any:
    """The rows e_i, 2 e_i and e_i + 2 e_j, which tell everything."""
    d = len(one)
    mixed = [one[i] + 2 * one[j] for i in range(d) for j in range(d) if i != j]
    return np.concatenate([one, 2 * one, np.array(mixed).reshape(-1, d)])


def only_matrix(norm: Any, G: Any) -> Any:
    """The one matrix M that can have N(e_i G) = N(e_i) M for all rows e_i of the identity."""
    return norm(G) / np.diag(norm(identity(len(G), G)))[:, None]


def passes(norm: Any, G: Any, rows: Callable[[Any], Any] = probes) -> bool:
    """Is N(h G) = N(h) M for some matrix M and all h among these rows? For floats, up to rounding."""
    h = rows(identity(len(G), G))
    left, right = norm(h @ G), norm(h) @ only_matrix(norm, G)
    return bool((left == right).all()) if G.dtype == object else bool(np.abs(left - right).max() < 1e-9)


def rotation(G: Any, multiple: bool = False) -> bool:
    """Is G G^T = I, or, for ``multiple``, c I with some c > 0?"""
    gram = G @ G.T
    gap = gram - (gram[0, 0] if multiple else 1) * identity(len(G), G)
    small = (gap == 0).all() if G.dtype == object else np.abs(gap).max() < 1e-9
    return bool(small and gram[0, 0] > 0)


def verdicts(w: Any, found: Iterable[bool]) -> Any:
    """Answers as a column of ones and zeros."""
    return np.array([[w.identity("1")[0, 0] * int(answer)] for answer in found])


def small_matrices(d: int = 2, largest: int = 1) -> list[Any]:
    """Every d x d matrix of whole numbers up to ``largest``, but the zero matrix."""
    entries = product(range(-largest, largest + 1), repeat=d * d)
    return [np.array([Fraction(x) for x in e], dtype=object).reshape(d, d) for e in entries if any(e)]


def scales_agree(G: Any) -> bool:
    """With eps = 0: is |h G|^2 / |h|^2 one number for all probes h with h G != 0?"""
    h = probes(identity(len(G), G))
    before, after = (h * h).sum(axis=1), ((h @ G) * (h @ G)).sum(axis=1)
    return len({b / a for a, b in zip(before, after, strict=True) if b}) == 1


@cache
def answers(question: str) -> tuple[bool, ...]:
    """Asked of every small whole matrix, once: the numbers do not depend on the world."""
    stand_in = RMSNorm(scale=norms.rational_scale)
    ask: dict[str, Callable[[Any], bool]] = {
        "passes": partial(passes, stand_in),
        "passes few rows": partial(passes, stand_in, rows=lambda one: np.concatenate([one, 2 * one])),
        "passes, eps = 0": scales_agree,
        "is orthogonal": rotation,
        "is a multiple of one": partial(rotation, multiple=True),
    }
    return tuple(ask[question](G) for G in small_matrices())


def agree(w: Any, *questions: str) -> tuple[Any, Any]:
    left, right = (verdicts(w, answers(question)) for question in questions)
    return left, right


def exactly_the_rotations(w: Any) -> Pairs:
    """All small whole matrices: those that the probes let through are the orthogonal ones, or their multiples."""
    exact = [("passes", "is orthogonal"), ("passes, eps = 0", "is a multiple of one")]
    return [*rotations_pass(w), *(agree(w, *questions) for questions in exact)]


def family(w: Any) -> list[Any]:
    """Rotations, their multiples, and matrices that are neither, some of them nearly."""
    turn, generic, one = w.orthogonal("O", "d", "H1"), w.matrix("W_Q", "d", "d"), w.identity("d")
    nearly = turn + 1e-4 * generic
    stretched = one + np.diag([0.0] * (len(one) - 1) + [1.0])
    return [
        turn,
        -turn,
        one[::-1],
        2 * turn,
        0.1 * one,
        generic,
        nearly,
        stretched,
        stretched @ turn,
        np.ones_like(one) / len(one),
    ]


def measured(w: Any) -> Pairs:
    """The same with real roots: for two values of eps, and for eps = 0, where multiples pass too; and for d = 1."""
    x, turn, cases = w.matrix("X", "n", "d"), w.orthogonal("O", "d", "H1"), family(w)
    pairs, free = [*rotations_pass(w)], RMSNorm(eps=0)
    for eps in (0.1, 1.0):
        norm = RMSNorm(eps=eps)
        seen = verdicts(w, (passes(norm, G) for G in cases))
        pairs += [(norm(x @ turn), norm(x) @ turn), (seen, verdicts(w, map(rotation, cases)))]
    ones = [np.array([[value]]) for value in (1.0, -1.0, 2.0)]
    seen, d_one = verdicts(w, (passes(free, G) for G in cases)), [passes(RMSNorm(eps=0.1), G) for G in ones]
    pairs += [(free(x @ (3 * turn)), free(x) @ turn), (seen, verdicts(w, (rotation(G, True) for G in cases)))]
    return [*pairs, (verdicts(w, d_one), verdicts(w, map(rotation, ones)))]


def any_basis(w: Any) -> Pairs:
    x, theta, N = w.matrix("X", "n", "d"), w.matrix("W_Q", "d", "d"), rms(w)
    return [(N(x @ theta), N(x) @ theta)]


def doubled(w: Any) -> Pairs:
    """G = 2 I with eps > 0, beside the only matrix M that the rows of I allow."""
    x, G = w.matrix("X", "n", "d"), 2 * w.identity("d")
    N = RMSNorm(eps=0.1) if w.lane == "numeric" else rms(w)
    M = only_matrix(N, G) if w.lane in NUMBERS else G
    return [(N(x @ G), N(x) @ M)]


def zero_passes(w: Any) -> Pairs:
    x, zero, N = w.matrix("X", "n", "d"), 0 * w.identity("d"), rms(w)
    return [(N(x @ zero), N(x) @ zero)]


def zero_is_no_rotation(w: Any) -> Pairs:
    zero = 0 * w.identity("d")
    return [(zero @ zero.mT, w.identity("d"))]


def too_few_rows(w: Any) -> Pairs:
    """The rows e_i and 2 e_i alone let every matrix with rows of length 1 through."""
    return [agree(w, "passes few rows", "is orthogonal")]


def no_multiples(w: Any) -> Pairs:
    """The verdict "rotations only" for eps = 0 as well."""
    return [agree(w, "passes, eps = 0", "is orthogonal")]


def rotate_by_query(w: Any) -> Pairs:
    old = with_norms(w.network(1, T2), lambda _: rms(w))
    return differ(w, rotations.rotate(old, old.blocks[0].attention.W_Q), old)


RMSNORM_ORTHOGONAL_ONLY = Claim(
    id="rmsnorm-orthogonal-only",
    rank="theorem",
    chapter=CHAPTER,
    title="RMSNorm lets rotations through, and nothing else",
    statement=(
        "Let $N(h)=h\\,/\\sqrt{\\|h\\|^2/d+\\varepsilon}$ be RMSNorm without gain. If $G$ is orthogonal, then $N(hG)=N(h)G$ for every row $h$. "
        "Conversely, let $G\\ne0$ be $d\\times d$ and let some matrix $M$ have $N(hG)=N(h)M$ for all $h$. If $\\varepsilon>0$, then $G$ is "
        "orthogonal and $M=G$; if $\\varepsilon=0$, then $G$ is a positive multiple $cO$ of an orthogonal matrix and $M=O$, and all these "
        "pass. The rows $h=e_i$, $2e_i$ and $e_i+2e_j$ are enough to tell."
    ),
    hypotheses=(
        Hypothesis(
            "H1", "an orthogonal matrix", "$GG^{\\top}=I$ ($\\varepsilon=0$: a positive multiple of such a matrix)"
        ),
        Hypothesis("H2", "not the zero matrix", "$G\\ne0$, as every change of basis is; the converse needs it"),
    ),
    sources=(
        NOTE,
        Source("paper", "ashkboos2024slicegpt", note="that rotations pass, put to use in trained models"),
        Source("derived", note="the proof by finitely many rows; that G = 0 must be excluded"),
    ),
    sides=rotations_pass,
    special={"exact": exactly_the_rotations, "numeric": measured},
    also=a_network,
    settings=a_few_wide,
    deep=True,
    constructions=("rotate", "transposed"),
    controls=(
        Control("H1", "the basis $W_Q$ of an elimination", any_basis),
        Control("H1", "$G=2I$ with $\\varepsilon>0$", doubled),
        Control("H1", "asking for a rotation by $W_Q$", rotate_by_query, refused="orthogonal"),
        Control("H2", "$G=0$ passes, with $M=0$, and is not orthogonal", zero_is_no_rotation, witness=zero_passes),
        Control("construction", "the rows $e_i$ and $2e_i$ alone", too_few_rows, lanes=NUMBERS),
        Control("construction", "rotations only, said of $\\varepsilon=0$ too", no_multiples, lanes=NUMBERS),
    ),
)


# -- gain-folding ------------------------------------------------------------------------------------------------------


def one_read(w: Any) -> Pairs:
    """One weight that reads a norm with gain and bias."""
    x, W, c, b = w.matrix("X", "n", "d"), w.matrix("W", "d", "p"), w.matrix("c", "1", "d"), w.matrix("b", "1", "p")
    norm = layer_norm(w, gain=gain(w), bias=c)
    weight, bias = norms.into(norm, W, b, "W")
    return [(norms.gainless(norm)(x) @ weight + bias, norm(x) @ W + b)]


def gained_network(w: Any, kind: str, layers: int = 1) -> Network:
    """A network whose norms all have gains of their own, and biases if they are LayerNorms."""

    def make(number: int) -> Any:
        given = {"gain": gain(w, f"gamma_{number}")}
        if kind == "RMSNorm":
            return rms(w, **given)
        return layer_norm(w, **given, bias=w.matrix(f"c_{number}", "1", "d"))

    return with_norms(w.network(layers, T2, biases=True), make)


def one_block(w: Any) -> Pairs:
    """A block, from any state; and its norms afterwards."""
    x, first, second = w.matrix("X", "n", "d"), gain(w, "gamma_1"), gain(w, "gamma_2")
    shift = w.matrix("c_1", "1", "d")
    layer, root = layer_norm(w, gain=first, bias=shift), rms(w, gain=second)
    block = replace(w.block(topology=T2, biases=True), attention_norm=layer, mlp_norm=root)
    new = norms.folded(block)
    keys = block.attention.b_K + shift @ block.attention.W_K  # no softmax sees it, but RoPE does
    free = [
        (normed(new.attention_norm, x), layer_norm(w)(x)),
        (normed(new.mlp_norm, x), rms(w)(x)),
        (new.attention.b_K, keys),
    ]
    return [(call(new, x, name="block"), call(block, x, name="block")), *free]


def the_end(w: Any) -> Pairs:
    """The last norm and the readout."""
    old = gained_network(w, "LayerNorm", 0)
    new, x = norms.fold_gains(old), w.matrix("X", "n", "d")
    return [same(w, new, old), (normed(new.norm, x), layer_norm(w)(x))]


def folded_networks(w: Any) -> Pairs:
    pairs, x = [*one_block(w), *the_end(w)], w.matrix("X", "n", "d")
    for kind in ("RMSNorm", "LayerNorm") if whole_networks(w) else ():
        old = gained_network(w, kind)
        new = norms.fold_gains(old)
        pairs += [same(w, new, old), (normed(new.blocks[0].mlp_norm, x), norms.gainless(old.norm)(x))]
    return pairs


def normed_skip(w: Any) -> Pairs:
    """A skip that starts after the norm reads it too, and no weight of it can take the gain."""
    x, W, gamma = w.matrix("X", "n", "d"), w.matrix("W", "d", "d"), gain(w)
    norm = rms(w, gain=gamma)
    weight, _ = norms.into(norm, W, None, "W")
    free = norms.gainless(norm)(x)
    return [(free + w.function("f")(free @ weight), norm(x) + w.function("f")(norm(x) @ W))]


def one_forgotten(w: Any, name: str) -> Pairs:
    old = gained_network(w, "LayerNorm")
    new, block = norms.fold_gains(old), old.blocks[0]
    attention = replace(new.blocks[0].attention, **{name: getattr(block.attention, name)})
    return differ(w, replace(new, blocks=[replace(new.blocks[0], attention=attention)]), old)


def turned_with_gains(w: Any) -> Pairs:
    """Rotated, and the gains left where they were."""
    old = gained_network(w, "RMSNorm")
    make = dict(enumerate([old.blocks[0].attention_norm, old.blocks[0].mlp_norm, old.norm], 1))
    return differ(w, forced(old, w.orthogonal("O", "d", "H1"), make.get), old)


def asked_with_gains(w: Any) -> Pairs:
    old = gained_network(w, "RMSNorm")
    return differ(w, rotations.rotate(old, w.orthogonal("O", "d", "H1")), old)


def opaque_norm(w: Any) -> Pairs:
    old = with_norms(w.network(1, T2), lambda _: w.function("N"))
    return differ(w, norms.fold_gains(old), old)


GAIN_FOLDING = Claim(
    id="gain-folding",
    rank="remark",
    chapter=CHAPTER,
    title="Gains go into the weights that read them",
    statement=(
        "Pre-norm: $N(h)\\operatorname{diag}(\\gamma)\\,W=N(h)\\,W'$ with $W'=\\operatorname{diag}(\\gamma)W$, for every weight that reads the "
        "norm: $W_Q,W_K,W_V$ for the norm before attention, $W_{up}$ for the one before the MLP, the readout for the last one. The bias "
        "$c$ of a LayerNorm becomes a bias of the reads, $b'=b+cW$. Afterwards every norm is without gain and bias, and the function is "
        "the same."
    ),
    hypotheses=(
        Hypothesis(
            "H1", "pre-norm", "what leaves the norm goes into weights and nowhere else, and all of them take the gain"
        ),
    ),
    sources=(SLICE, Source("derived", note="the biases of a LayerNorm, the bias of the readout")),
    sides=one_read,
    also=folded_networks,
    settings=a_few,
    deep=True,
    constructions=("fold_gains", "folded", "into", "stretched", "gainless"),
    controls=(
        Control("H1", "a skip that starts after the norm", normed_skip),
        Control("H1", "asking it of a norm that is just some function", opaque_norm, refused="known norm"),
        Control("construction", "$W_K$ forgotten", lambda w: one_forgotten(w, "W_K")),
        Control("construction", "the bias of the queries forgotten", lambda w: one_forgotten(w, "b_Q")),
        Control("construction", "rotated without folding the gains", turned_with_gains),
        Control("construction", "asking for a rotation past gains", asked_with_gains, refused="gains folded"),
    ),
)
