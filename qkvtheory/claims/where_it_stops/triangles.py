"""What W_Q can still become past an RMSNorm: triangular, symmetric, or block triangular with the freedom of the heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from qkvtheory import gauge, rotations
from qkvtheory.attention import Heads
from qkvtheory.claims.model import AtMost, Claim, Control, Hypothesis, Pairs, Source
from qkvtheory.claims.where_it_stops.norms import (
    CHAPTER,
    NOTE,
    NUMBERS,
    OURS,
    a_few,
    a_few_wide,
    differ,
    forced,
    gain,
    layer_norm,
    rms,
    same,
    with_norms,
)
from qkvtheory.lanes.settings import Setting, square_keys
from qkvtheory.linalg import inverse
from qkvtheory.network import MLP, Attention, Block, Network
from qkvtheory.norms import RMSNorm
from qkvtheory.positions import rational_rope, rope
from qkvtheory.rotations import Factors

T0, TA, TM, T2 = (False, False), (True, False), (False, True), (True, True)
FREE = "rmsnorm-orthogonal-only"  # every rotation below exists, and passes the norms by this theorem
Split = Callable[[Any, str], Factors]


# -- networks whose W_Q is a known product -----------------------------------------------------------------------------


def product_of(part: Factors) -> Any:
    found = part.basis @ part.query
    return found if part.heads is None else found @ part.heads


def factored(
    w: Any, layers: int, topology: tuple[Any, Any], split: Split, make: Any = None, **options: Any
) -> tuple[Network, dict[int, Factors]]:
    """A network with RMSNorms whose W_Q are products, and the factors."""
    options = {"biases": w.lane in NUMBERS, **options}
    old = with_norms(w.network(layers, topology, **options), make or (lambda _: rms(w)))
    parts = {layer: split(w, f"^{layer + 1}") for layer in range(layers)}
    blocks = [
        replace(block, attention=replace(block.attention, W_Q=product_of(part)))
        for block, part in zip(old.blocks, parts.values(), strict=True)
    ]
    return replace(old, blocks=blocks), parts


def rewritten(w: Any, construct: Any, old: Network, parts: Any, layers: list[int] | None = None) -> Network:
    """In words and exact numbers the factors are given; for floats they are to be found."""
    if w.lane == "numeric":
        return construct(old, layers)
    chosen = range(len(old.blocks)) if layers is None else layers
    return construct(old, layers, {layer: parts[layer] for layer in chosen})


def triangle(w: Any, label: str) -> Factors:
    """O T with T upper triangular and no negative diagonal entry (in words any matrix)."""
    T = w.matrix("T_Q" + label, "d", "d")
    if w.lane in NUMBERS:
        T = np.triu(T)
        T = T + np.diag(np.diag(T) * np.diag(T) - np.diag(T))
    return Factors(w.orthogonal("O" + label, "d", FREE), T)


def every_topology(w: Any, construct: Any, split: Split, topologies: Any = (T2, T0, TA, TM)) -> Pairs:
    """One layer of two with both skips, every layer otherwise; and what W_Q becomes. In words the depth is 1, or 2
    without skips.
    """
    pairs: list[Any] = []
    for topology in topologies:
        layers = 2 if w.lane in NUMBERS or topology == T0 else 1
        old, parts = factored(w, layers, topology, split)
        new = rewritten(w, construct, old, parts, [0] if topology == T2 else None)
        pairs += [same(w, new, old), (new.blocks[0].attention.W_Q, parts[0].query)]
    return pairs


# -- rms-triangular ----------------------------------------------------------------------------------------------------


def query(w: Any, split: Split) -> Pairs:
    """What the layer reads and what it makes of it: O^T W_Q, and the queries."""
    x, N, part = w.matrix("X", "n", "d"), rms(w), split(w, "")
    (read,) = gauge.reads(part.basis.mT, part.basis @ part.query)
    return [(read, part.query), (N(x @ part.basis) @ read, N(x) @ (part.basis @ part.query))]


def triangular_networks(w: Any) -> Pairs:
    return [*every_topology(w, rotations.to_triangular, triangle), *singular_and_tied(w)]


def singular_and_tied(w: Any) -> Pairs:
    """A singular W_Q, and a readout tied to the embedding beside both skips; in floats any W_Q, and its triangle."""
    old, parts = factored(w, 1, T2, singular_triangle)
    pairs = [same(w, rewritten(w, rotations.to_triangular, old, parts), old)]
    old, parts = factored(w, 1, T2, triangle, tied=True)
    pairs += [same(w, rewritten(w, rotations.to_triangular, old, parts), old)]
    return [*pairs, *any_query(w)] if w.lane == "numeric" else pairs


def singular_triangle(w: Any, label: str) -> Factors:
    """A last row of zeros: W_Q has no inverse."""
    part = triangle(w, label)
    if w.lane not in NUMBERS:
        return part
    return part._replace(query=part.query * (np.arange(w.sizes["d"]) < w.sizes["d"] - 1)[:, None])


def any_query(w: Any) -> Pairs:
    old = with_norms(w.network(2, TA, biases=True), lambda _: rms(w))
    new = rotations.to_triangular(old)
    return [
        same(w, new, old),
        *((block.attention.W_Q, np.triu(block.attention.W_Q)) for block in new.blocks),
        *(AtMost(0 * d, d) for block in new.blocks for d in [np.diag(block.attention.W_Q)[:, None]]),
    ]


def entries_left(_: Any) -> Pairs:
    """d (d - 1) / 2 fewer numbers in W_Q, in every layer that can be chosen."""
    pairs = []
    for d, topology, layers in ((8, T2, [1]), (8, TA, None), (6, T0, None), (4, TM, None)):
        old = bare_network(d, topology)
        new = rotations.to_triangular(old, layers)
        chosen = 2 if layers is None else len(layers)
        pairs.append((chosen * d * (d - 1) // 2, numbers_in(old) - numbers_in(new)))
    return pairs


def identity_claimed(_: Any) -> Pairs:
    """All of W_Q saved, as without norms."""
    old = bare_network(8, T2)
    return [(64, numbers_in(old) - numbers_in(rotations.to_triangular(old, [1])))]


def bare_network(d: int, topology: tuple[Any, Any], heads: int = 2) -> Network:
    """Two layers of floats with RMSNorms."""
    rng = np.random.default_rng(0)

    def block() -> Block:
        mlp = MLP(np.tanh, rng.normal(size=(d, d)), rng.normal(size=(d, d)))
        return Block(Attention(Heads(heads), *rng.normal(size=(4, d, d))), mlp, *topology)

    network = Network(rng.normal(size=(5, d)), [block(), block()], rng.normal(size=(d, 5)))
    return with_norms(network, lambda _: RMSNorm())


def numbers_in(network: Network) -> int:
    """Entries of all W_Q that are neither 0 nor 1."""
    return sum(int(((W != 0) & (W != 1)).sum()) for W in (block.attention.W_Q for block in network.blocks))


def gains_left(w: Any) -> Pairs:
    """The rotation of diag(gamma) W_Q is not wanted, but that of W_Q, with the gains left in the norms."""
    old, parts = factored(w, 1, T2, triangle, lambda k: rms(w, gain=gain(w, f"gamma_{k}")))
    return differ(w, forced(old, parts[0].basis, lambda k: rms(w, gain=gain(w, f"gamma_{k}"))), old)


def asked_of(make: Callable[[Any, int], Any], construct: str = "to_triangular", topology: Any = T2) -> Any:
    """Asking for it past other norms."""

    def ask(w: Any) -> Pairs:
        old, parts = factored(w, 1, topology, triangle, partial(make, w))
        return differ(w, rewritten(w, getattr(rotations, construct), old, parts), old)

    return ask


def with_layer_norm(w: Any, construct: str = "to_triangular") -> Pairs:
    old, parts = factored(w, 1, T2, triangle, lambda _: layer_norm(w))
    return differ(w, forced(old, parts[0].basis, lambda _: layer_norm(w)), old)


def two_layers(w: Any) -> Pairs:
    old, parts = factored(w, 2, T2, triangle)
    return differ(w, rewritten(w, rotations.to_triangular, old, parts), old)


def both_skips(w: Any) -> Pairs:
    """Two bases, one on each side of a skip around the MLP."""
    old, parts = factored(w, 2, TA, triangle)
    new = rewritten(w, rotations.to_triangular, old, parts)
    old, new = (replace(net, blocks=[replace(block, mlp_skip=True) for block in net.blocks]) for net in (old, new))
    return differ(w, new, old)


def tied_ends(w: Any, ask: bool = False) -> Pairs:
    """Without a skip around the MLP the first and the last state have bases of their own."""
    old, parts = factored(w, 1, TA, triangle, tied=ask)
    new = rewritten(w, rotations.to_triangular, old, parts)
    return differ(w, replace(new, readout=None), replace(old, readout=None))


def called(w: Any, query: Callable[[Any], Any]) -> Pairs:
    """The rotated network with another W_Q."""
    old, parts = factored(w, 1, T2, triangle)
    new = rewritten(w, rotations.to_triangular, old, parts)
    attention = replace(new.blocks[0].attention, W_Q=query(old.blocks[0].attention.W_Q))
    return differ(w, replace(new, blocks=[replace(new.blocks[0], attention=attention)]), old)


PRE_NORM = Hypothesis(
    "H1",
    "pre-norm RMSNorm, gains folded",
    "every read of a rotated state stands behind an RMSNorm without gain, or none",
)

RMS_TRIANGULAR = Claim(
    id="rms-triangular",
    rank="remark",
    chapter=CHAPTER,
    title="Under RMSNorm $W_Q$ becomes triangular",
    statement=(
        "Write $W_Q=OT$ with $O$ orthogonal and $T$ upper triangular (QR; gains folded first). With the rotation $\\Theta=O$ of the state "
        "that the layer reads, $\\tilde W_Q=O^{\\top}W_Q=T$: $\\frac{d(d-1)}2$ numbers fewer. With both skips this can be done in one layer of "
        "the network, without skips or with one kind of skip in every layer (the writes into a state carry its own $O_l$). Nothing is "
        "inverted: $W_Q$ may be singular."
    ),
    hypotheses=(
        PRE_NORM,
        Hypothesis("H2", "one choice per segment", "of the layers whose inputs identity skips join, one is chosen"),
        Hypothesis(
            "H3",
            "untied readout",
            "or a tied one, where skips join the first and the last state, which rotate together",
        ),
    ),
    sources=(NOTE, Source("derived", note="skips around one sublayer only; singular query matrices")),
    uses=(FREE, "gain-folding", "one-layer-free", "attn-skip-elimination"),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=lambda w: query(w, triangle),
    also=triangular_networks,
    special={"count": entries_left},
    settings=a_few,
    deep=True,
    constructions=("segment_bases", "with_query", "in_their_bases"),
    controls=(
        Control("H1", "the gains left in the norms", gains_left),
        Control(
            "H1",
            "asking for it past gains",
            asked_of(lambda w, k: rms(w, gain=gain(w, f"gamma_{k}"))),
            refused="gains folded",
        ),
        Control("H1", "LayerNorm, not centered", with_layer_norm),
        Control("H1", "asking for it past a LayerNorm", asked_of(lambda w, _: layer_norm(w)), refused="the mean stays"),
        Control("H1", "asking for it past some function", asked_of(lambda w, _: w.function("N")), refused="known norm"),
        Control("H2", "a basis for each layer, with both skips", both_skips),
        Control("H2", "asking for two layers with both skips", two_layers, refused="one choice per segment"),
        Control("H3", "a tied readout whose two ends rotate apart", tied_ends),
        Control("H3", "asking for that", lambda w: tied_ends(w, True), refused="untied readout"),
        Control("construction", "$W_Q$ left as it was", lambda w: called(w, lambda W: W)),
        Control("construction", "$W_Q=I$ claimed", lambda w: called(w, lambda W: w.identity("d"))),
        Control("construction", "all of $W_Q$ counted as saved", identity_claimed, lanes=("count",)),
    ),
)


# -- rms-spd -----------------------------------------------------------------------------------------------------------


def symmetric(w: Any, label: str) -> Factors:
    """U S with S symmetric; in floats positive definite, for polar decomposition to find it again."""
    if w.lane == "numeric":
        A = w.matrix("S" + label, "d", "d")
        S = A @ A.T + w.identity("d")
    else:
        S = w.symmetric("S" + label, "d", FREE)
    return Factors(w.orthogonal("U" + label, "d", FREE), S)


def spd(w: Any) -> Pairs:
    """The read; and what a rotation of the stream cannot change, W_Q^T W_Q = S S."""
    part = symmetric(w, "")
    W_Q = product_of(part)
    return [*query(w, symmetric), (W_Q.mT @ W_Q, part.query @ part.query)]


def symmetric_networks(w: Any) -> Pairs:
    """Networks. Floats: any W_Q; S is symmetric without negative eigenvalues, also if W_Q is singular; and I for a rotation."""
    pairs = [*every_topology(w, rotations.to_symmetric, symmetric, (T2, TA))]
    if w.lane != "numeric":
        return pairs
    for W_Q in (w.matrix("W_Q", "d", "d"), w.singular("W_Q", "d")[0]):
        old = with_norms(w.network(1, TA, W_Q=W_Q), lambda _: rms(w))
        new = rotations.to_symmetric(old)
        S = new.blocks[0].attention.W_Q
        lowest = np.linalg.eigvalsh(S)[:, None]
        pairs += [same(w, new, old), (S, S.T), AtMost(0 * lowest - lowest.max() * 1e-14, lowest)]
    turned = with_norms(w.network(1, TA, W_Q=3 * w.orthogonal("O", "d", FREE)), lambda _: rms(w))
    return [*pairs, (rotations.to_symmetric(turned).blocks[0].attention.W_Q, 3 * w.identity("d"))]


def multiple_of_one(w: Any) -> Pairs:
    """For a generic W_Q: if S were c I, W_Q^T W_Q would be c^2 I. The size is the spread of what is on the diagonal."""
    W_Q = w.matrix("W_Q", "d", "d")
    gram = W_Q.mT @ W_Q
    return [(gram, w.identity("d") * gram[0, 0] if w.lane in NUMBERS else w.identity("d"))]


def wide_query(w: Any) -> Pairs:
    old = with_norms(w.network(1, T2), lambda _: rms(w))
    wide = replace(old.blocks[0].attention, W_Q=np.ones((w.sizes["d"], w.sizes["d"] + 1)))
    new = rotations.to_symmetric(replace(old, blocks=[replace(old.blocks[0], attention=wide)]))
    return differ(w, new, old)


RMS_SPD = Claim(
    id="rms-spd",
    rank="remark",
    chapter=CHAPTER,
    title="Or symmetric positive",
    statement=(
        "Write $W_Q=US$ with $U$ orthogonal and $S$ symmetric positive semidefinite (polar decomposition; gains folded first). With "
        "$\\Theta=U$, in the same layers as for a triangle, $\\tilde W_Q=S$, which saves the same $\\frac{d(d-1)}2$ numbers. Since "
        "$W_Q^{\\top}W_Q=S^2$, which no rotation of the stream changes, $S=cI$ just when $W_Q$ is $c$ times an orthogonal matrix: in general no rotation makes "
        "$W_Q$ the identity."
    ),
    hypotheses=(PRE_NORM,),
    sources=(NOTE, Source("derived", note="the application to the query projection")),
    uses=("rms-triangular", FREE),
    sides=spd,
    also=symmetric_networks,
    settings=a_few,
    deep=True,
    constructions=("segment_bases", "with_query", "polar"),
    controls=(
        Control("H1", "the gains left in the norms", gains_left),
        Control(
            "H1",
            "asking for it past gains",
            asked_of(lambda w, k: rms(w, gain=gain(w, f"gamma_{k}")), "to_symmetric"),
            refused="gains folded",
        ),
        Control(
            "H1",
            "asking for it past a LayerNorm",
            asked_of(lambda w, _: layer_norm(w), "to_symmetric"),
            refused="the mean stays",
        ),
        Control("construction", "$S=cI$ said of a generic $W_Q$", multiple_of_one),
        Control("construction", "asking for it with a wide $W_Q$", wide_query, lanes=("numeric",), refused="square"),
    ),
)


# -- rms-block-triangular ----------------------------------------------------------------------------------------------


def bare_heads(s: Setting) -> bool:
    """As many key heads as query heads, and nothing between the heads' bases and their scores."""
    return a_few_wide(s) and square_keys(s)


def own(w: Any) -> Any:
    """Ones where two coordinates belong to one head."""
    return rotations.same_head(w.sizes["d"], w.setting.heads) * w.identity("1")[0, 0]


def blocks(w: Any, label: str) -> Factors:
    """O U D: the triangle T = U D with its diagonal blocks D split off. In words one head, and any U."""
    turn = w.orthogonal("O" + label, "d", FREE)
    if w.lane not in NUMBERS:
        return Factors(turn, w.matrix("U" + label, "d", "d"), w.invertible("D" + label, "d", "H3"))
    T = np.triu(w.matrix("T_Q" + label, "d", "d"), 1) + 2 * w.identity("d")
    heads = T * own(w)
    return Factors(turn, np.triu(T @ inverse(heads)), heads)


def orthogonal_heads(w: Any, label: str) -> Factors:
    """Heads of W_Q that span mutually orthogonal spaces: U = I."""
    part = blocks(w, label)
    return part._replace(query=w.identity("d"))


def one_head(w: Any) -> dict[str, Any]:
    """In words, and where those are run again with numbers: one head, which needs no blocks."""
    return {} if w.lane in NUMBERS else {"core": w.head, "square": True}


def scores(w: Any) -> Pairs:
    """The read, U; and the scores of a head whose queries took D^-1 and whose keys took D^T."""
    x, N, part = w.matrix("X", "n", "d"), rms(w), blocks(w, "")
    W_Q, W_K = product_of(part), w.matrix("W_K", "d", "d")
    read, keys = gauge.reads(part.basis.mT, W_Q, W_K)
    turned = N(x @ part.basis)
    q, k = turned @ read @ gauge.inverse(part.heads), turned @ keys @ part.heads.mT
    return [(read @ gauge.inverse(part.heads), part.query), (q @ k.mT, (N(x) @ W_Q) @ (N(x) @ W_K).mT)]


def block_networks(w: Any) -> Pairs:
    """Networks; and heads whose spaces are orthogonal, for which W_Q becomes I."""
    pairs: list[Any] = []
    for topology, split in ((T2, blocks), (TA, blocks), (TA, orthogonal_heads)):
        old, parts = factored(w, 1, topology, split, **one_head(w))
        new = rewritten(w, rotations.to_block_triangular, old, parts)
        pairs += [same(w, new, old), (new.blocks[0].attention.W_Q, parts[0].query)]
    return [*pairs, *any_invertible(w)]


def any_invertible(w: Any) -> Pairs:
    """Floats: any invertible W_Q, two layers, and the form of what it becomes."""
    if w.lane != "numeric":
        return []
    old = with_norms(w.network(2, TA, biases=True, hypothesis="H3"), lambda _: rms(w))
    new = rotations.to_block_triangular(old)
    forms = [
        pair
        for W in (block.attention.W_Q for block in new.blocks)
        for pair in ((W * own(w), w.identity("d")), (W, np.triu(W)))
    ]
    return [same(w, new, old), *forms]


def block_entries(_: Any) -> Pairs:
    """d (d - d_h) / 2 entries of W_Q are left in every layer."""
    cases = ((8, 2), (8, 4), (8, 1), (6, 3))
    return [(d * (d - d // h), numbers_in(rotations.to_block_triangular(bare_network(d, TA, h)))) for d, h in cases]


def triangle_counted(_: Any) -> Pairs:
    """As many as a triangle leaves."""
    return [(8 * 9, numbers_in(rotations.to_block_triangular(bare_network(8, TA, 4))))]


def with_rope(w: Any, ask: bool = False) -> Pairs:
    """The same weights in heads that rotate queries and keys by their position."""
    n, width = w.sizes["n"], w.sizes["d"] // w.setting.heads
    table = rational_rope(n, width // 2) if w.lane == "exact" else rope(n, width)
    core = w.setting.core(rotate=table)
    old, parts = factored(w, 1, TA, blocks, **({"core": core} if ask else {}))
    new = rewritten(w, rotations.to_block_triangular, old, parts)
    return differ(w, *(with_core(network, core) for network in (new, old)))


def with_core(network: Network, core: Any) -> Network:
    (block,) = network.blocks
    return replace(network, blocks=[replace(block, attention=replace(block.attention, core=core))])


def singular_query(w: Any) -> Pairs:
    """A column of zeros, so a diagonal block has one too."""
    W_Q = w.matrix("W_Q", "d", "d") * (np.arange(w.sizes["d"]) > 0)
    old = with_norms(w.network(1, TA, W_Q=W_Q), lambda _: rms(w))
    return differ(w, rotations.to_block_triangular(old), old)


def identity_forced(w: Any) -> Pairs:
    """U set to I."""
    old, parts = factored(w, 1, TA, blocks, **one_head(w))
    new = rewritten(w, rotations.to_block_triangular, old, parts)
    attention = replace(new.blocks[0].attention, W_Q=w.identity("d"))
    return differ(w, replace(new, blocks=[replace(new.blocks[0], attention=attention)]), old)


def keys_left(w: Any) -> Pairs:
    """The heads of the queries turned, those of the keys not."""
    old, parts = factored(w, 1, TA, blocks, **one_head(w))
    new = rewritten(w, rotations.to_block_triangular, old, parts)
    turned = parts[0].basis.mT @ old.blocks[0].attention.W_K
    attention = replace(new.blocks[0].attention, W_K=turned)
    return differ(w, replace(new, blocks=[replace(new.blocks[0], attention=attention)]), old)


def two_wide(s: Setting) -> bool:
    """Heads wide enough for a plane to turn in, and several of them."""
    return bare_heads(s) and s.d // s.heads >= 2 and s.heads > 1


RMS_BLOCK_TRIANGULAR = Claim(
    id="rms-block-triangular",
    rank="remark",
    chapter=CHAPTER,
    title="Rotation and head bases together leave a block triangle",
    statement=(
        "After $W_Q=OT$ let every head take the inverse of its own diagonal block, $G_h=T_{hh}^{-1}$, its keys $G_h^{-\\top}$: then "
        "$\\tilde W_Q$ is block upper triangular with identity blocks on the diagonal. $\\frac{d(d-d_h)}2$ numbers are left, "
        "$\\frac{d(d+d_h)}2$ saved. $\\tilde W_Q=I$ can be reached just when the heads of $W_Q$ (gains folded) span mutually orthogonal "
        "spaces. A query bias turns with its head."
    ),
    hypotheses=(
        PRE_NORM,
        Hypothesis("H2", "bare scores", "no RoPE and no QK-norm, and as many key heads as query heads"),
        Hypothesis("H3", "invertible query projection", "$W_Q$ is $d\\times d$ and invertible, so every $T_{hh}$ is"),
    ),
    sources=(OURS,),
    uses=("rms-triangular", FREE, "head-gauge"),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=scores,
    also=block_networks,
    special={"count": block_entries},
    settings=bare_heads,
    deep=True,
    constructions=("with_query", "block_triangular", "segment_bases"),
    controls=(
        Control("H1", "LayerNorm, not centered", with_layer_norm),
        Control(
            "H1",
            "asking for it past a LayerNorm",
            asked_of(lambda w, _: layer_norm(w), "to_block_triangular"),
            refused="the mean stays",
        ),
        Control("H2", "heads with RoPE", with_rope, lanes=NUMBERS, settings=two_wide),
        Control(
            "H2",
            "asking for it with RoPE",
            lambda w: with_rope(w, True),
            lanes=NUMBERS,
            refused="bare scores",
            settings=two_wide,
        ),
        Control("H3", "asking for it with a singular $W_Q$", singular_query, lanes=("numeric",), refused="invertible"),
        Control("construction", "a generic $W_Q$ set to $I$", identity_forced),
        Control("construction", "the keys left as they were", keys_left),
        Control("construction", "a whole triangle counted", triangle_counted, lanes=("count",)),
    ),
)
