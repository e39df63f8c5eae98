"""LayerNorm: an RMSNorm once the states carry no mean, and which rotations it lets through as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from qkvtheory import norms, rotations
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.claims.where_it_stops.norms import (
    CHAPTER,
    NOTE,
    NUMBERS,
    SLICE,
    T2,
    a_few,
    a_few_wide,
    differ,
    forced,
    gain,
    gained_network,
    layer_norm,
    rms,
    same,
    whole_networks,
    with_norms,
)
from qkvtheory.linalg import rank
from qkvtheory.network import Network
from qkvtheory.norms import LayerNorm

# -- layernorm-centring ------------------------------------------------------------------------------------------------


def layered(w: Any, layers: int = 1, biases: bool = True, **options: Any) -> Network:
    """A network with LayerNorms, without gain and bias."""
    return with_norms(w.network(layers, T2, biases=biases, **options), lambda _: layer_norm(w))


def mean_free(w: Any) -> Pairs:
    """LayerNorm is RMSNorm of the row without its mean; the ends hand such rows on."""
    x, tokens, ends = w.matrix("X", "n", "d"), w.tokens(), layered(w, layers=0)
    new_ends = norms.center(ends)
    return [
        (layer_norm(w)(x), rms(w, eps=LayerNorm().eps)(norms.centered(x))),
        (new_ends.stream(tokens), norms.centered(ends.stream(tokens))),
        same(w, new_ends, ends),
    ]


def block_hands_on(w: Any) -> Pairs:
    """A block makes rows without mean of rows without mean. Too long to print."""
    x, block = w.matrix("X", "n", "d"), layered(w, biases=w.lane in NUMBERS).blocks[0]
    return [(call(norms.without_means(block), norms.centered(x), name="block"), norms.centered(block(x)))]


def networks(w: Any) -> Pairs:
    """The block; in numbers also centered, then rotated; a tied readout stays tied; and gains may stay until then."""
    if not whole_networks(w):
        return block_hands_on(w)
    old, tied, turn = layered(w), layered(w, tied=True), w.orthogonal("O", "d", "rmsnorm-orthogonal-only")
    gains = with_norms(w.network(1, T2, biases=True), lambda k: layer_norm(w, gain=gain(w, f"gamma_{k}")))
    new = norms.center(old)
    return [
        *block_hands_on(w),
        same(w, new, old),
        (new.stream(w.tokens()), norms.centered(old.stream(w.tokens()))),
        same(w, rotations.rotate(new, turn), old),
        same(w, norms.center(tied), tied),
        same(w, norms.center(gains), gains),
    ]


def uncentered(w: Any) -> Pairs:
    """LayerNorm kept, states with their means, and a rotation that moves the mean."""
    old = layered(w)
    return differ(w, forced(old, w.orthogonal("O", "d", "H1"), lambda _: layer_norm(w)), old)


def asked_to_rotate(w: Any) -> Pairs:
    old = layered(w)
    return differ(w, rotations.rotate(old, w.orthogonal("O", "d", "H1")), old)


def reads_the_mean(w: Any) -> Pairs:
    """The MLP has no norm, and sees that the means are gone."""
    old = layered(w)
    new = norms.center(old)
    old, new = (replace(net, blocks=[replace(net.blocks[0], mlp_norm=None)]) for net in (old, new))
    return differ(w, new, old)


def asked_to_center(w: Any) -> Pairs:
    old = layered(w)
    bare = replace(old, blocks=[replace(old.blocks[0], mlp_norm=None)])
    return differ(w, norms.center(bare), bare)


def centered_and_turned_with_gains(w: Any) -> Pairs:
    """Centered, rotated, and the gains left where they were."""
    old = with_norms(w.network(1, T2, biases=True), lambda k: layer_norm(w, gain=gain(w, f"gamma_{k}")))
    new = norms.center(old)
    return differ(w, forced(new, w.orthogonal("O", "d", "H1"), lambda k: rms(w, gain=gain(w, f"gamma_{k}"))), old)


def asked_with_bias(w: Any) -> Pairs:
    old = gained_network(w, "LayerNorm")
    return differ(w, norms.center(old), old)


def left_uncentered(w: Any, edit: Callable[[Network, Network], Network]) -> Pairs:
    old = layered(w)
    return differ(w, edit(norms.center(old), old), old)


def output_bias_back(new: Network, old: Network) -> Network:
    attention = replace(new.blocks[0].attention, b_O=old.blocks[0].attention.b_O)
    return replace(new, blocks=[replace(new.blocks[0], attention=attention)])


LAYERNORM_CENTRING = Claim(
    id="layernorm-centring",
    rank="remark",
    chapter=CHAPTER,
    title="LayerNorm is RMSNorm on states without mean",
    statement=(
        "Pre-norm LayerNorm without gain and bias: $LN(h)=N(hC)$ with $C=I-\\frac1d\\mathbf1\\mathbf1^{\\top}$. Replace every write $W$ by "
        "$WC$: embedding, positions, $W_O$, $W_{down}$ and their biases. Then every state is the old one without its mean, every LayerNorm "
        "may be replaced by RMSNorm with the same $\\varepsilon$, and the function is the same. Afterwards any rotation is allowed."
    ),
    hypotheses=(
        Hypothesis(
            "H1", "a LayerNorm before every read", "every sublayer and the readout read the state through a LayerNorm"
        ),
        Hypothesis("H2", "gains and biases folded", "for a rotation afterwards: no gain; for centering: no bias"),
    ),
    sources=(SLICE, NOTE),
    uses=("gain-folding", "rmsnorm-orthogonal-only"),
    sides=mean_free,
    also=networks,
    settings=a_few,
    deep=True,
    constructions=("center", "without_means", "mean_free", "write"),
    controls=(
        Control("H1", "the LayerNorms kept, the means too, and any rotation", uncentered),
        Control("H1", "asking for that rotation", asked_to_rotate, refused="the mean stays"),
        Control("H1", "an MLP that reads the state without a norm", reads_the_mean),
        Control("H1", "asking for centering there", asked_to_center, refused="every read behind a LayerNorm"),
        Control("H2", "rotated with the gains left in the norms", centered_and_turned_with_gains),
        Control("H2", "asking for centering past a bias", asked_with_bias, refused="gains folded"),
        Control("construction", "$b_O$ not centered", lambda w: left_uncentered(w, output_bias_back)),
        Control(
            "construction",
            "the positions not centered",
            lambda w: left_uncentered(w, lambda new, old: replace(new, positions=old.positions)),
        ),
    ),
)


# -- layernorm-fixes-ones ----------------------------------------------------------------------------------------------


def commutes(w: Any) -> Pairs:
    """What fixes the ones commutes with taking off the mean, 1/d times the ones; and RMSNorm lets any rotation through."""
    turn, one, share = w.fixing_ones("O", "d"), w.ones("d"), w.matrix("1/d", "1", "1")
    free, any_turn, N = norms.centered(w.matrix("X", "n", "d")), w.orthogonal("O", "d", "H1"), rms(w)
    means = turn @ one @ share @ one.mT, one @ share @ one.mT @ turn
    return [(turn - means[0], turn - means[1]), (N(free @ any_turn), N(free) @ any_turn)]


def kept_and_rotated(w: Any) -> Pairs:
    """Words: the ends, as far as they read no LayerNorm. Numbers: a LayerNorm, and networks with their LayerNorms and
    their means, by O and by -O.
    """
    x, turn, ends = w.matrix("X", "n", "d"), w.fixing_ones("O", "d"), layered(w, layers=0)
    new = rotations.rotate(ends, turn)
    pairs = [(new.stream(w.tokens()), ends.stream(w.tokens()) @ turn)]
    if w.lane not in NUMBERS:
        return [*pairs, (new.readout, turn.mT @ ends.readout)]
    norm, old = layer_norm(w), layered(w)
    turned = [same(w, rotations.rotate(old, basis), old) for basis in (turn, -turn)]
    return [*pairs, (norm(x @ turn), norm(x) @ turn), same(w, new, ends), *turned]


def moving_ones(w: Any) -> Pairs:
    x, turn, N = w.matrix("X", "n", "d"), w.orthogonal("O", "d", "H1"), layer_norm(w)
    return [(N(x @ turn), N(x) @ turn)]


def not_orthogonal(w: Any) -> Pairs:
    """The ones are fixed, and the rest is stretched."""
    C, x, N = w.centering("d"), w.matrix("X", "n", "d"), layer_norm(w)
    theta = w.identity("d") - C + C @ w.matrix("W_Q", "d", "d") @ C
    return [(N(x @ theta), N(x) @ theta)]


def asked_not_orthogonal(w: Any) -> Pairs:
    old, C = layered(w), w.centering("d")
    return differ(w, rotations.rotate(old, w.identity("d") + C), old)


def rotated_with_gains(w: Any) -> Pairs:
    x, turn, N = w.matrix("X", "n", "d"), w.fixing_ones("O", "d"), layer_norm(w, gain=gain(w))
    return [(N(x @ turn), N(x) @ turn)]


def asked_with_layer_gains(w: Any) -> Pairs:
    old = gained_network(w, "LayerNorm")
    return differ(w, rotations.rotate(old, w.fixing_ones("O", "d")), old)


def solutions(d: int, equations: Callable[[Any], Any]) -> int:
    """The dimension of the skew d x d matrices K with equations(K) = 0: the directions of a group of rotations."""
    basis = []
    for i in range(d):
        for j in range(i):
            K = np.zeros((d, d), dtype=int)
            K[i, j], K[j, i] = 1, -1
            basis.append([Fraction(int(x)) for x in np.ravel(equations(K))])
    return len(basis) - rank(np.array(basis, dtype=object))


def rotations_left(_: Any) -> Pairs:
    return [((d - 1) * (d - 2) // 2, solutions(d, lambda K: K.sum(axis=0))) for d in (2, 3, 4, 6)]


def all_rotations(_: Any) -> Pairs:
    return [(d * (d - 1) // 2, solutions(d, lambda K: K.sum(axis=0))) for d in (3, 4)]


LAYERNORM_FIXES_ONES = Claim(
    id="layernorm-fixes-ones",
    rank="remark",
    chapter=CHAPTER,
    title="A LayerNorm that stays leaves the rotations that fix the mean",
    statement=(
        "Let $\\Theta$ be orthogonal with $\\mathbf1\\Theta=\\pm\\mathbf1$ (the all-ones row). It commutes with taking off the mean, so "
        "$LN(h\\Theta)=LN(h)\\Theta$ for LayerNorm without gain and bias, and networks may be rotated by $\\Theta$ with their LayerNorms "
        "kept, centered or not. These rotations have $\\frac{(d-1)(d-2)}2$ dimensions, those of the mean-free space."
    ),
    hypotheses=(
        Hypothesis("H1", "orthogonal", "$\\Theta\\Theta^{\\top}=I$"),
        Hypothesis(
            "H2", "fixes the all-ones direction", "$\\mathbf1\\Theta=\\mathbf1$ or $\\mathbf1\\Theta=-\\mathbf1$"
        ),
        Hypothesis("H3", "gains and biases folded", "no LayerNorm has a gain or a bias"),
    ),
    sources=(NOTE, Source("derived", note="that the writes need not be centered")),
    uses=("layernorm-centring",),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=commutes,
    also=kept_and_rotated,
    special={"count": rotations_left},
    settings=a_few_wide,
    deep=True,
    constructions=("rotate", "transposed"),
    controls=(
        Control("H1", "the ones fixed by a matrix that is not orthogonal", not_orthogonal, lanes=NUMBERS),
        Control("H1", "asking for that one", asked_not_orthogonal, lanes=NUMBERS, refused="orthogonal"),
        Control("H2", "an orthogonal matrix that moves the ones", moving_ones),
        Control("H2", "asking for that one", asked_to_rotate, refused="the mean stays"),
        Control("H3", "a LayerNorm with gain", rotated_with_gains),
        Control("H3", "asking for it with gains", asked_with_layer_gains, refused="gains folded"),
        Control("construction", "all of the rotations counted", all_rotations, lanes=("count",)),
    ),
)
