"""One basis for every state: the theorem, and parallel blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qkvtheory import gauge, stacks
from qkvtheory.attention import rms_norm
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, Statement, call
from qkvtheory.lanes.settings import Setting, plain_scores
from qkvtheory.network import Block, Network

CHAPTER = "every-skip"
OURS = Source("derived")
BOTH = (True, True)
DEPTHS = "causal mask"  # the setting in which every depth and every choice of the layer is run
TALL = 48  # layers of the tall stack


# -- the pieces --------------------------------------------------------------------------------------------------------


def some_block(w: Any, **options: Any) -> Block:
    """A block of which nothing is assumed: its queries may have any width."""
    return w.block(**{"topology": BOTH, "W_Q": w.weight("W_Q", "d", "p"), **options})


def norm(w: Any, centered: bool = False) -> Callable[[Any], Any]:
    """A norm without gain: RMSNorm, or LayerNorm if ``centered``, in floats; any function elsewhere."""
    if w.lane != "numeric":
        return w.function("N")
    return lambda x: rms_norm()(x - x.mean(axis=1, keepdims=True) if centered else x)


def with_norms(block: Block, function: Any) -> Block:
    return replace(block, attention_norm=function, mlp_norm=function)


def norms_everywhere(network: Network, function: Any) -> Network:
    return replace(network, blocks=[with_norms(block, function) for block in network.blocks])


def same_function(new: Network, old: Network, w: Any) -> tuple[Any, Any]:
    return call(new, w.tokens(), name="network"), call(old, w.tokens(), name="network")


def quiet(block: Block, depth: int) -> Block:
    """The block with writes so small that a stream through ``depth`` of them stays of order 1."""
    attention, mlp = block.attention, block.mlp
    attention = replace(attention, W_O=attention.W_O / depth, b_O=attention.b_O / depth)
    return replace(block, attention=attention, mlp=replace(mlp, W_down=mlp.W_down / depth, b_down=mlp.b_down / depth))


def in_setting(w: Any, name: str) -> bool:
    """Are these the numbers of this setting? In words there are no settings."""
    return getattr(getattr(w, "setting", None), "name", "") == name


def in_numbers(w: Any) -> bool:
    return hasattr(w, "setting")


def a_few(s: Setting) -> bool:
    """The settings of a statement that the theorem already covers: plain heads, several of them, with any mask."""
    return plain_scores(s) and s.heads > 1


def unbiased(s: Setting) -> bool:
    """Settings without biases of their own: the statements bring theirs."""
    return not s.biases


# -- one-layer-free ----------------------------------------------------------------------------------------------------


def induction(w: Any) -> Pairs:
    """A block hands the claim on; tokens and positions start it; the readout ends it."""
    theta = w.invertible("Theta", "d", "H3")
    x, tokens = w.matrix("X", "n", "d"), w.tokens()
    E, P, D = w.matrix("E", "vocab", "d"), w.matrix("P", "n", "d"), w.matrix("D", "d", "s")
    block = some_block(w)
    (readout,) = gauge.reads(gauge.inverse(theta), D)
    return [
        (call(gauge.rebase(block, theta, theta, theta), x @ theta, name="block"), block(x) @ theta),
        (tokens @ gauge.carried(E, theta) + gauge.carried(P, theta), (tokens @ E + P) @ theta),
        ((x @ theta) @ readout, x @ D),
    ]


def any_sublayer(w: Any) -> list[tuple[Any, Any]]:
    """One sublayer that reads by R and writes by S, beside a skip: stacks may hold them in any order."""
    theta, x = w.invertible("Theta", "d", "H3"), w.matrix("X", "n", "d")
    R, S, f = w.matrix("R", "d", "hidden"), w.matrix("S", "hidden", "d"), w.function("f")
    (read,) = gauge.reads(gauge.inverse(theta), R)
    return [(x @ theta + f((x @ theta) @ read) @ gauge.carried(S, theta), (x + f(x @ R) @ S) @ theta)]


def freed(w: Any, layers: int, chosen: int) -> Pairs:
    """The real loop: layer ``chosen`` of the network loses its W_Q, and every skip stays."""
    old = w.network(layers, BOTH, biases=in_numbers(w), hypothesis="H3")
    new = stacks.eliminate(old, layers=[chosen])
    return [same_function(new, old, w), (new.blocks[chosen].attention.W_Q, w.identity("d"))]


def tall(w: Any) -> Pairs:
    old = w.network(TALL, BOTH, biases=True)
    old = replace(old, blocks=[quiet(block, TALL) for block in old.blocks])
    return [same_function(stacks.eliminate(old, layers=[TALL // 2]), old, w)]


def conjugated(w: Any) -> list[tuple[Any, Any]]:
    """Any invertible basis, in a network of blocks that need not have an invertible W_Q, nor the same skips."""
    skips = (BOTH, (False, True), (True, False)) if in_setting(w, DEPTHS) else (BOTH,)
    old = w.network(len(skips), W_Q=w.weight("W_Q", "d", "p"), biases=True)
    blocks = [replace(b, attention_skip=a, mlp_skip=m) for b, (a, m) in zip(old.blocks, skips, strict=True)]
    old = replace(old, blocks=blocks)
    return [same_function(stacks.conjugate(old, w.invertible("Theta", "d", "H3")), old, w)]


def further_stacks(w: Any) -> Pairs:
    """Any sublayer; any basis; and the real loops: depths 1, 2, 3 and every choice of the layer, any mixture of skips,
    and once 48 layers. (In words and exact numbers one choice for each depth.)
    """
    pairs, choices = [*any_sublayer(w), *conjugated(w)], [(2, 1)]
    if w.lane not in ("exact", "numeric"):
        choices = [(1, 0), (2, 1), (3, 1)]
    elif in_setting(w, DEPTHS) and w.lane == "exact":
        choices = [(3, 1)]
    elif in_setting(w, DEPTHS):
        choices, pairs = [(layers, layer) for layers in (1, 2, 3) for layer in range(layers)], [*pairs, *tall(w)]
    return [*pairs, *(pair for layers, layer in choices for pair in freed(w, layers, layer))]


def changed(w: Any, change: Callable[[Block], Callable[[Any], Any]], hypothesis: str = "H3") -> Pairs:
    """A block in the basis of its own W_Q, and the block itself, both of them changed in the same way."""
    x, theta = w.matrix("X", "n", "d"), w.invertible("W_Q", "d", hypothesis)
    old = w.block(topology=BOTH, biases=in_numbers(w), W_Q=theta)
    new = gauge.rebase(old, theta, theta, theta)
    return [(change(new)(x @ theta), change(old)(x) @ theta)]


def normed(w: Any, centered: bool = False, **options: Any) -> Pairs:
    return changed(w, lambda block: with_norms(block, norm(w, centered)), **options)


def gated(w: Any) -> Pairs:
    """A skip that is a function of the input."""
    skip = w.function("s")

    def beside(block: Block) -> Callable[[Any], Any]:
        update = replace(block, attention_skip=False, mlp_skip=False)
        return lambda x: skip(x) + update(x)

    return changed(w, beside)


def forgotten(w: Any, edit: Callable[[Network, Network], Network], **options: Any) -> Pairs:
    """The network conjugated by the W_Q of its second layer, and something put back."""
    old = w.network(2, BOTH, biases=True, hypothesis="H3", **options)
    untied = old if old.readout is not None else replace(old, readout=old.embedding.mT)
    new = stacks.conjugate(untied, old.blocks[1].attention.W_Q)
    return [(edit(new, old)(w.tokens()), old(w.tokens()))]


def tied_end(w: Any, hypothesis: str = "H3") -> Pairs:
    """A readout tied to the embedding follows it to E Theta, where it should go to Theta^-1."""
    theta, E, x = w.invertible("W_Q", "d", hypothesis), w.matrix("E", "vocab", "d"), w.matrix("X", "n", "d")
    return [((x @ theta) @ gauge.carried(E, theta).mT, x @ E.mT)]


def bias_forgotten(new: Network, old: Network) -> Network:
    first = replace(new.blocks[0], mlp=replace(new.blocks[0].mlp, b_down=old.blocks[0].mlp.b_down))
    return replace(new, blocks=[first, *new.blocks[1:]])


def neighbors_only(w: Any) -> Pairs:
    """What would do with a skip around attention only: the layer before takes the basis in, this one hands none on."""
    old = w.network(2, BOTH, hypothesis="H3")
    opened = replace(old, blocks=[replace(block, mlp_skip=False) for block in old.blocks])
    new = stacks.eliminate(opened, layers=[1])
    return [(replace(new, blocks=[replace(block, mlp_skip=True) for block in new.blocks])(w.tokens()), old(w.tokens()))]


def generalized_inverse(w: Any, name: str = "W_Q", **options: Any) -> Pairs:
    """A singular basis, with a generalized inverse in the place of the inverse that is missing."""
    theta, back = w.singular(name, "d")
    x, block = w.matrix("X", "n", "d"), some_block(w, **options)
    return [(gauge.rebase(block, theta, theta, theta, invert=lambda *_: back)(x @ theta), block(x) @ theta)]


def asked(change: Callable[[Network, Any], Network] = lambda network, w: network, **options: Any) -> Statement:
    """Asking for the elimination in the first layer of a changed network."""

    def ask(w: Any) -> Pairs:
        new = stacks.eliminate(change(w.network(1, BOTH, **options), w), layers=[0])
        return [(new(w.tokens()), new(w.tokens()))]

    return ask


def singular_query(w: Any) -> Pairs:
    old = w.network(2, BOTH, W_Q=w.singular("W_Q", "d")[0])
    return [same_function(stacks.eliminate(old, layers=[1]), old, w)]


NO_NORM = Hypothesis("H1", "no norm", "no norm stands before a sublayer or before the readout")
NORMS = (
    Control("H1", "RMSNorm before the sublayers, and $\\Theta=W_Q$", normed),
    Control("H1", "LayerNorm before the sublayers, and $\\Theta=W_Q$", lambda w: normed(w, True), lanes=("numeric",)),
    Control(
        "H1",
        "asking for it with norms in the network",
        asked(lambda network, w: norms_everywhere(network, norm(w))),
        refused="no norm",
    ),
)

ONE_LAYER_FREE = Claim(
    id="one-layer-free",
    rank="theorem",
    chapter=CHAPTER,
    title="One query matrix per network, with every skip kept",
    statement=(
        "Choose a layer $l$ and put $\\Theta=W_Q^{(l)}$. Embedding and positions become $E\\Theta$, $P\\Theta$; in **every** layer what reads "
        "the stream becomes $\\Theta^{-1}W$, what writes to it $W\\Theta$, biases of writes included; the readout becomes $\\Theta^{-1}D$. "
        "Then every state is the old one times $\\Theta$, the network computes the same function, and $W_Q^{(l)}=I$. The other queries "
        "become $\\Theta^{-1}W_Q^{(k)}$. The same holds for any invertible $\\Theta$."
    ),
    hypotheses=(
        NO_NORM,
        Hypothesis(
            "H2",
            "reads, writes and identity skips",
            "the stream only meets reads, writes, positions and identity skips",
        ),
        Hypothesis("H3", "invertible basis", "$\\Theta=W_Q^{(l)}$ is square and invertible"),
        Hypothesis("H4", "untied readout", "the readout is a matrix of its own, not the transposed embedding"),
    ),
    sources=(
        Source(
            "reported",
            "karbevski2025kv",
            note="one layer, any skips, no norm, by weights only; the paper calls it a free lunch; summaries differ on whether only "
            "neighboring weights move",
        ),
        Source("derived", note="the global construction, for any stack of sublayers and any invertible basis"),
    ),
    uses=("r-products", "eliminate-q"),
    sides=induction,
    also=further_stacks,
    settings=unbiased,
    deep=True,
    constructions=("carry", "read_out", "chosen_bases"),
    controls=(
        *NORMS,
        Control("H2", "a skip that is a function of the input", gated),
        Control(
            "H2",
            "positions left as they were",
            lambda w: forgotten(w, lambda new, old: replace(new, positions=old.positions)),
        ),
        Control("H3", "a generalized inverse of a singular $W_Q$", generalized_inverse),
        Control("H3", "asking for it with a singular $W_Q$", singular_query, refused="invertible"),
        Control("H4", "a readout tied to the embedding", tied_end),
        Control(
            "H4",
            "a whole network with a tied readout",
            lambda w: forgotten(w, lambda new, old: replace(new, readout=None), tied=True),
        ),
        Control("H4", "asking for it with a tied readout", asked(tied=True), refused="untied readout"),
        Control("construction", "only the neighbors of the layer transformed", neighbors_only),
        Control("construction", "the bias of one write forgotten", lambda w: forgotten(w, bias_forgotten)),
        Control(
            "construction",
            "the readout left as it was",
            lambda w: forgotten(w, lambda new, old: replace(new, readout=old.readout)),
        ),
    ),
)
