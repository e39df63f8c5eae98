"""The freedom of the stream: a basis for every group of states that skips join, and what it can be spent on."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from qkvtheory import gauge, network, rotations, stacks
from qkvtheory.attention import Heads, rms_norm
from qkvtheory.claims.attention_skip.segments import one_basis_each, stack
from qkvtheory.claims.degrees_of_freedom.common import CHAPTER, in_words, network_redundancy
from qkvtheory.claims.degrees_of_freedom.heads import basis, sublayer
from qkvtheory.claims.every_skip.bases import NOTE
from qkvtheory.claims.every_skip.conjugation import norm, norms_everywhere, same_function
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, Statement
from qkvtheory.claims.skipless.layers import T0, T2, TA, TM, is_first
from qkvtheory.lanes.settings import Setting
from qkvtheory.linalg import symbolic
from qkvtheory.network import Network
from qkvtheory.norms import RMSNorm

TOPOLOGIES = {"T0": T0, "TA": TA, "TM": TM, "T2": T2}


def a_few(s: Setting) -> bool:
    """Plain heads, and heads with RoPE; the statements bring their own biases."""
    plain = set(s.features(s)) <= {"pattern", "scale"}
    return not s.biases and s.kv_heads == s.heads > 1 and s.cond <= 1e2 and (plain or "rotate" in s.features(s))


def plain(s: Setting) -> bool:
    return a_few(s) and "rotate" not in s.features(s)


# -- stream-gauge ------------------------------------------------------------------------------------------------------


def one_basis_for_each_segment(w: Any, topology: tuple[Any, Any], **options: Any) -> tuple[Network, Network]:
    old = w.network(1, topology, **options)
    return stacks.carry(old, one_basis_each(w, old)), old


def carried(w: Any) -> Pairs:
    """One skip, with a basis for each of its segments."""
    new, old = one_basis_for_each_segment(w, TA)
    return [same_function(new, old, w)]


def commuting(w: Any) -> Pairs:
    """Turning the heads before the stream or after it gives the same weights. Keys beside RoPE stay."""
    a, theta, leave = sublayer(w, biases=True), w.invertible("Theta", "d"), w.invertible("Phi", "d")
    rotary = not in_words(w) and "rotate" in w.setting.features(w.setting)
    G, J = None if rotary else basis(w, "G"), basis(w, "J")
    back = gauge.inverse(theta)
    first = gauge.turn_heads(gauge.moved(a, back, back, leave), G, J)
    second = gauge.moved(gauge.turn_heads(a, G, J), back, back, leave)
    names = ("W_V", "W_O") if rotary else ("W_Q", "W_K", "W_V", "W_O")
    return [(getattr(first, name), getattr(second, name)) for name in names]


def further_networks(w: Any) -> Pairs:
    """Both orders of a basis of the stream and bases of the heads; other topologies, with biases."""
    others = () if is_first(w) else (T0, TM, T2) if w.lane == "numeric" else (T2,)
    networks = [one_basis_for_each_segment(w, topology, biases=True) for topology in others]
    return [*commuting(w), *(same_function(new, old, w) for new, old in networks)]


def bases_measured(_: Any) -> Pairs:
    """What does not count at d = 2: b d^2, the positions d, and for each layer the heads, 2 d_h^2, less with RoPE."""
    pairs = []
    for layers in (1, 2):
        for name, topology in TOPOLOGIES.items():
            b = stacks.free_bases(stack(layers, topology))
            shape = {"topology": name, "layers": layers}
            pairs.append((b * 2**2 + 2 + layers * (2**2 + 2**2), network_redundancy(**shape)))
            pairs.append((b * 2**2 + layers * (2 + 2**2), network_redundancy(**shape, positions="RoPE")))
    return pairs


def mixed_up(w: Any) -> Pairs:
    """Two bases on the two sides of a skip, each used as if there were no skip."""
    x, block = w.matrix("X", "n", "d"), w.block(topology=T0, W_Q=w.weight("W_Q", "d", "p"))
    theta, phi, leave = (w.invertible(name, "d") for name in ("Theta", "Phi", "Lambda"))
    new = gauge.rebase(block, theta, leave, phi)
    return [(replace(new, attention_skip=True)(x @ theta), replace(block, attention_skip=True)(x) @ leave)]


def mixed_up_asked(w: Any) -> Pairs:
    old = w.network(1, TA)
    return [(stacks.carry(old, [w.invertible(f"Theta_{k}", "d") for k in range(3)]).embedding, old.embedding)]


def norms_between(w: Any) -> Pairs:
    new, old = one_basis_for_each_segment(w, TA)
    return [same_function(norms_everywhere(new, norm(w)), norms_everywhere(old, norm(w)), w)]


def norms_asked(w: Any) -> Pairs:
    old = norms_everywhere(w.network(1, TA), norm(w))
    return [(stacks.carry(old, one_basis_each(w, old)).embedding, old.embedding)]


def singular_asked(w: Any) -> Pairs:
    old, basis = w.network(1, TA), w.singular("Theta", "d")[0]
    return [(stacks.carry(old, [basis, basis, None]).embedding, old.embedding)]


def predicted(redundancy: int, **shape: Any) -> Statement:
    return lambda _: [(redundancy, network_redundancy(**shape))]


STREAM_GAUGE = Claim(
    id="stream-gauge",
    rank="remark",
    chapter=CHAPTER,
    title="Every free basis is a copy of $GL(d)$",
    statement=(
        "Let $b$ be the number of *free bases* of a network, one for every group of states that identity skips join: $2L+1$ without skips, "
        "$L+1$ with one kind of skip, $1$ with both. Each carries one copy of $GL(d)$: what reads the states becomes $\\Theta^{-1}W$, what "
        "writes them $W\\Theta$, and the function stays. These changes commute with those inside the heads, and RoPE does not restrict "
        "them. They are $b\\,d^2$ dimensions of the weights (measured as ranks for small networks)."
    ),
    hypotheses=(
        Hypothesis("H1", "no norm", "no norm stands before a sublayer or before the readout"),
        Hypothesis("H2", "invertible, one for joined states", "every basis is invertible, and joined states share one"),
        Hypothesis("H3", "wide ends", "for the dimension: generic weights, $v\\ge d$, $v'\\ge d$, $m\\ge d$"),
    ),
    sources=(
        Source(NOTE.provenance, NOTE.key, note="$b=2L+1$ and $b=1$"),
        Source("derived", note="any skips; the ranks with RoPE"),
    ),
    uses=("r-products", "basis-segments", "head-gauge"),
    lanes=("symbolic", "exact", "numeric", "rank"),
    sides=carried,
    also=further_networks,
    special={"rank": bases_measured},
    settings=a_few,
    deep=True,
    constructions=("carry",),
    controls=(
        Control("H1", "RMSNorm before the sublayers", norms_between),
        Control("H1", "asking for it with norms in the network", norms_asked, refused="no norm"),
        Control(
            "H1",
            "RMSNorm: $d^2$ dimensions predicted all the same",
            predicted(2**2 + 2 + 8, norm="RMSNorm"),
            lanes=("rank",),
        ),
        Control("H2", "two bases on the two sides of a skip", mixed_up),
        Control("H2", "asking for two bases on the two sides of a skip", mixed_up_asked, refused="one basis"),
        Control("H2", "asking for a singular basis", singular_asked, refused="invertible"),
        *(
            Control(
                "H3",
                f"{what}: $b\\,d^2$ dimensions predicted all the same",
                predicted(3 * 2**2 + 2 + 8, topology="T0", **shape),
                lanes=("rank",),
            )
            for what, shape in (
                ("one token in the vocabulary", {"vocab": 1}),
                ("one hidden unit", {"hidden": 1}),
                ("one output", {"outputs": 1}),
            )
        ),
        Control(
            "construction",
            "a basis for every state, with a skip around attention",
            predicted(3 * 2**2 + 2 + 8, topology="TA"),
            lanes=("rank",),
        ),
    ),
)


# -- one-block-per-hidden-state ----------------------------------------------------------------------------------------


def with_invertible_blocks(w: Any, topology: tuple[Any, Any], layers: int = 1) -> Network:
    """Every W_Q, every W_O and the readout invertible: enough square blocks for all states."""
    old, blocks = w.network(layers, topology), []
    for layer, block in enumerate(old.blocks, 1):
        core = w.function("g", "d") if in_words(w) else block.attention.core
        W_O = w.invertible(f"W_O^{layer}", "d")
        blocks.append(replace(block, attention=replace(block.attention, core=core, W_O=W_O)))
    return replace(old, blocks=blocks, readout=w.invertible("D", "d"))


Block = tuple[int, str]  # layer and name of a weight


def block_in(network: Network, group: list[int]) -> Block:
    """One for these states: W_Q of the last layer that reads them, else W_O if they are written there, else readout."""
    depth = len(network.blocks)
    layers = [state // 2 for state in group if state % 2 == 0 and state < 2 * depth]
    if layers:
        return layers[-1], "W_Q"
    return (group[0] // 2, "W_O") if group[0] % 2 else (depth, "readout")


def weight(network: Network, block: Block) -> Any:
    """The block: all of a square weight, or the first d columns of the readout."""
    layer, name = block
    if name != "readout":
        return getattr(network.blocks[layer].attention, name)
    readout = network.readout
    return readout if symbolic(readout) else readout[:, : readout.shape[0]]


def spent(network: Network) -> tuple[Network, list[Any]]:
    """Every free basis spent on one block: the network, and the blocks, which are now I."""
    bases: list[Any] = [None] * (2 * len(network.blocks) + 1)
    blocks = []
    for group in stacks.segments(network):
        block = block_in(network, group)
        basis = weight(network, block)
        if block[1] == "W_O":  # a write becomes W Theta, a read Theta^-1 W
            basis = gauge.inverse(basis)
        bases = [basis if state in group else known for state, known in enumerate(bases)]
        blocks.append(block)
    new = stacks.carry(network, bases)
    return new, [weight(new, block) for block in blocks]


def blocks_fixed(w: Any, topology: tuple[Any, Any] = T0, layers: int = 1) -> Pairs:
    old = with_invertible_blocks(w, topology, layers)
    new, blocks = spent(old)
    return [same_function(new, old, w), *((block, w.identity("d")) for block in blocks)]


def every_topology(w: Any) -> Pairs:
    if w.lane == "exact":
        return blocks_fixed(w, T2)
    more = blocks_fixed(w, TA, 2) if w.lane == "numeric" else []
    return [*(pair for topology in (TA, TM, T2) for pair in blocks_fixed(w, topology)), *more]


def whole_network(layers: int, topology: tuple[bool, bool], number: type = Fraction) -> Network:
    """Weights of whole numbers, as fractions unless given, with invertible square blocks: their diagonals dominate."""
    rng, d, hidden, words = np.random.default_rng(0), 3, 4, 5

    def drawn(rows: int, cols: int) -> Any:
        entries = rng.integers(1, 4, (rows, cols)) + 30 * np.eye(rows, cols, dtype=int)
        return np.vectorize(number, otypes=[object if number is Fraction else float])(entries)

    def block() -> network.Block:
        attention = network.Attention(Heads(1), *(drawn(d, d) for _ in range(4)))
        return network.Block(attention, network.MLP(abs, drawn(d, hidden), drawn(hidden, d)), *topology)

    return Network(drawn(words, d), [block() for _ in range(layers)], drawn(d, words))


def numbers_left(net: Network) -> int:
    """Weights that are not part of a d x d identity."""
    weights = [net.embedding, net.readout]
    for block in net.blocks:
        a, mlp = block.attention, block.mlp
        weights += [a.W_Q, a.W_K, a.W_V, a.W_O, mlp.W_up, mlp.W_down]
    d = net.embedding.shape[1]
    gone = sum(np.array_equal(weight[:d, :d], np.eye(d, dtype=int)) for weight in weights)
    return sum(weight.size for weight in weights) - gone * d * d


def blocks_counted(_: Any) -> Pairs:
    """Identities in networks that were built, d^2 numbers for each free basis."""
    pairs = []
    for layers in (1, 2, 3):
        for topology, b in ((T0, 2 * layers + 1), (TA, layers + 1), (TM, layers + 1), (T2, 1)):
            old = whole_network(layers, topology)
            left = numbers_left(spent(old)[0])
            pairs += [(b, stacks.free_bases(old)), (b * 3**2, numbers_left(old) - left)]
    return [*pairs, *under_norm(1, T2), *under_norm(2, TA), *under_norm(3, T0)]


def under_norm(layers: int, topology: tuple[bool, bool], d: int = 3) -> list[tuple[int, int]]:
    """The bases at the inputs of the layers, under RMSNorm: zeros of a triangular W_Q, equal pairs of a symmetric one."""
    old = norms_everywhere(whole_network(layers, topology, float), RMSNorm())
    queries = [
        [block.attention.W_Q for block in made(old).blocks]
        for made in (rotations.to_triangular, rotations.to_symmetric)
    ]
    below = np.tril_indices(d, -1)
    zeros = sum(int((W[below] == 0).sum()) for W in queries[0])
    equal = sum(int((W[below] == W.T[below]).sum()) for W in queries[1])
    return [(layers * d * (d - 1) // 2, zeros), (layers * d * (d - 1) // 2, equal)]


def two_in_one_segment(w: Any) -> Pairs:
    """W_Q spent on, and W_K set to I as well."""
    old = with_invertible_blocks(w, T2)
    new, _ = spent(old)
    first = replace(new.blocks[0], attention=replace(new.blocks[0].attention, W_K=w.identity("d")))
    return [same_function(replace(new, blocks=[first]), old, w)]


def norms_spent(w: Any) -> Pairs:
    old = with_invertible_blocks(w, T2)
    new, _ = spent(old)
    return [same_function(norms_everywhere(new, norm(w)), norms_everywhere(old, norm(w)), w)]


def singular_block(w: Any) -> Pairs:
    old = with_invertible_blocks(w, T2)
    attention = replace(old.blocks[0].attention, W_Q=w.singular("W_Q", "d")[0])
    return [(spent(replace(old, blocks=[replace(old.blocks[0], attention=attention)]))[1][0], w.identity("d"))]


ONE_BLOCK = Claim(
    id="one-block-per-hidden-state",
    rank="remark",
    chapter=CHAPTER,
    title="One block for every free basis",
    statement=(
        "Each free basis can turn one invertible $d\\times d$ block of a read or of a write of its states into the identity, which is $d^2$ "
        "parameters: a read $W$ with $\\Theta=W$, a write $W$ with $\\Theta=W^{-1}$. So a network without skips can fix $2L+1$ blocks, one "
        "with a skip around attention only or around the MLP only $L+1$, and with both skips one block in the whole network. Under RMSNorm, "
        "where only rotations are left, a basis makes a block triangular or symmetric: $\\frac{d(d-1)}2$ parameters."
    ),
    hypotheses=(
        Hypothesis("H1", "no norm", "for the identity: no norm reads a state that moves"),
        Hypothesis(
            "H2", "one invertible block", "one block is chosen for each group of joined states, and it is invertible"
        ),
    ),
    sources=(
        Source(NOTE.provenance, NOTE.key, note="no skips, and both skips"),
        Source("derived", note="one kind of skip"),
    ),
    uses=("stream-gauge", "rms-triangular", "rms-spd"),
    lanes=("symbolic", "exact", "numeric", "count"),
    sides=lambda w: blocks_fixed(w)[:1],
    also=lambda w: [*blocks_fixed(w)[1:], *every_topology(w)],
    special={"count": blocks_counted},
    settings=plain,
    deep=True,
    constructions=("carry", "reads", "carried"),
    controls=(
        Control("H1", "RMSNorm before the sublayers", norms_spent),
        Control(
            "H1",
            "asking for it with norms in the network",
            lambda w: [(spent(norms_everywhere(with_invertible_blocks(w, T2), norm(w)))[1][0], w.identity("d"))],
            refused="no norm",
        ),
        Control("H2", "two blocks for one basis: $W_K=I$ too", two_in_one_segment),
        Control("H2", "asking for a singular block", singular_block, refused="invertible"),
        Control(
            "construction",
            "a block for every state counted, with a skip around attention",
            lambda _: [(3 * 3**2, numbers_left(whole_network(1, TA)) - numbers_left(spent(whole_network(1, TA))[0]))],
            lanes=("count",),
        ),
    ),
)


# -- no-product-of-blocks ----------------------------------------------------------------------------------------------


def permutation(w: Any) -> Any:
    """Of the stream's coordinates; in words any orthogonal matrix."""
    return w.orthogonal("Pi", "d", "H2") if in_words(w) else w.identity("d")[w.rng("Pi").permutation(w.sizes["d"])]


def permuted(w: Any, layers: int = 2, biases: bool = True) -> tuple[Network, Network]:
    old = w.network(layers, T2, W_Q=w.weight("W_Q", "d", "p"), biases=biases)
    return stacks.conjugate(old, permutation(w)), old


def all_together(w: Any) -> Pairs:
    """One layer without biases: what a page prints."""
    new, old = permuted(w, layers=1, biases=False)
    return [same_function(new, old, w)]


def two_layers(w: Any) -> Pairs:
    """Two layers with biases; in floats also under norms without gain, which do not notice a permutation."""
    new, old = permuted(w)
    pairs = [same_function(new, old, w)]
    for function in (norm(w), norm(w, centered=True)) if w.lane == "numeric" else ():
        pairs.append(same_function(norms_everywhere(new, function), norms_everywhere(old, function), w))
    return [*pairs, *orthogonal_under_rms(w)]


def orthogonal_under_rms(w: Any) -> Pairs:
    """In numbers also a rotation of the stream, and RMSNorm."""
    if in_words(w):
        return []
    old = w.network(2, T2, W_Q=w.weight("W_Q", "d", "p"))
    new = stacks.conjugate(old, w.orthogonal("O", "d", "H2"))
    pairs = [same_function(new, old, w)]
    if w.lane == "numeric":
        pairs.append(same_function(norms_everywhere(new, rms_norm()), norms_everywhere(old, rms_norm()), w))
    return pairs


def readout_left(w: Any) -> Pairs:
    new, old = permuted(w)
    return [same_function(replace(new, readout=old.readout), old, w)]


def one_layer_alone(w: Any) -> Pairs:
    """Reads and writes of the first layer in the new basis, all others as they were."""
    new, old = permuted(w)
    return [same_function(replace(old, blocks=[new.blocks[0], old.blocks[1]]), old, w)]


def layer_by_layer(w: Any) -> Pairs:
    """The layers of both networks on the same X: other functions."""
    new, old = permuted(w)
    x = w.matrix("X", "n", "d")
    return [(new.blocks[0](x), old.blocks[0](x))]


def the_same_network(w: Any) -> Pairs:
    new, old = permuted(w)
    return [same_function(new, old, w)]


def norm_with_gain(w: Any) -> Pairs:
    """A gain that stays where it was, in front of permuted reads."""
    new, old = permuted(w)
    gains = w.diagonal(w.matrix("gamma", "d", "1"))

    def scaled(x: Any) -> Any:
        return x @ gains

    return [same_function(norms_everywhere(new, scaled), norms_everywhere(old, scaled), w)]


NO_PRODUCT = Claim(
    id="no-product-of-blocks",
    rank="remark",
    chapter=CHAPTER,
    title="The freedom of a model is not that of its layers, one by one",
    statement=(
        "A network with skips keeps its function when the coordinates of the stream are permuted, or turned, in the embedding, the positions, "
        "every read, every write and the readout *at once*. A layer with generic weights by itself is not kept: on the same $X$ it computes another function. (The identity keeps it, of course, and $-I$ keeps attention without biases and an MLP with an odd activation.) So "
        "the group of symmetries of a model is the product of the groups of its layers only as long as the $X$ that each layer reads is "
        "held fixed."
    ),
    hypotheses=(
        Hypothesis(
            "H1", "everything that meets the stream", "all reads and writes move together, embedding and readout too"
        ),
        Hypothesis("H2", "a basis that the norms do not notice", "no norm, or one that commutes with the permutation"),
    ),
    sources=(
        Source("paper", "wang2025gauge", note="the groups of single layers"),
        Source(NOTE.provenance, NOTE.key, note="symmetries that move several layers"),
    ),
    uses=("one-layer-free", "stream-gauge"),
    sides=all_together,
    also=two_layers,
    settings=plain,
    deep=True,
    constructions=("read_out",),
    controls=(
        Control("H1", "the readout left as it was", readout_left),
        Control("H1", "one layer moved alone", one_layer_alone),
        Control("H2", "a gain in the norms that stays where it was", norm_with_gain),
        Control(
            "construction",
            "the same permutation taken for a symmetry of each layer",
            layer_by_layer,
            witness=the_same_network,
        ),
    ),
)
