"""Eliminations in whole networks: one basis for every hidden state, and the choices that turn projections into I.

A network's hidden states are X_0, Y_0, X_1, Y_1, ..., X_L: X_l enters block l, Y_l stands between its attention and its
MLP. ``carry`` gives each state a basis of its own and rewrites every weight accordingly. All the theorems about
stacks are choices of these bases: ``eliminate`` (no skips, one skip, every skip, shared queries), ``conjugate`` (one
basis for all), ``remove_learned_skips``. ``explain`` says what became of every weight.

As in ``gauge``, the functions use only ``@`` and ``inverse``, so they run on floats, on exact numbers and on words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from operator import index
from typing import Any

from qkvtheory import gauge
from qkvtheory.checks import check_block, fits, of, of_network, past_norm, sound, square
from qkvtheory.errors import HypothesisError
from qkvtheory.linalg import identity, orthogonal, symbolic
from qkvtheory.network import MLP, Attention, Block, Network
from qkvtheory.norms import LayerNorm, RMSNorm
from qkvtheory.words import Word, symbol


def segments(network: Network, long_skips: Iterable[tuple[int, int]] = ()) -> list[list[int]]:
    """The hidden states that share a basis, because identity skips join them: lists of state numbers 0 .. 2L.

    State 2l is X_l, state 2l + 1 is Y_l (a parallel block has none). ``long_skips``: further pairs of joined states.
    A learned skip joins nothing: it can carry one basis into another (claim basis-segments). Raises ValueError if
    ``long_skips`` names a state that the network does not have.

    >>> from qkvtheory import Block, Network
    >>> block = Block(None, None, attention_skip=True, mlp_skip=False)
    >>> segments(Network(None, [block, block]))
    [[0, 1], [2, 3], [4]]
    """
    groups = [[0]]
    for layer, block in enumerate(network.blocks):
        states = [(2 * layer + 2, block.attention_skip)]
        if not block.parallel:
            states = [(2 * layer + 1, block.attention_skip), (2 * layer + 2, block.mlp_skip)]
        for state, skip in states:
            groups = [*groups[:-1], [*groups[-1], state]] if skip is True else [*groups, [state]]
    known = {state for group in groups for state in group}
    for pair in long_skips:
        if unknown := set(pair) - known:
            raise ValueError(f"the long skip {pair} joins no states: there is no state {min(unknown)}")
        joined = [group for group in groups if set(group) & set(pair)]
        groups = sorted([*(g for g in groups if g not in joined), sorted(state for group in joined for state in group)])
    return groups


def free_bases(network: Network, long_skips: Iterable[tuple[int, int]] = ()) -> int:
    """How many bases can be chosen freely: 2L + 1 without skips, L + 1 with one kind of skip, 1 with both."""
    return len(segments(network, long_skips))


def carry(
    network: Network,
    bases: Sequence[Any],
    memory: Any = None,
    invert: Callable[[Any, str], Any] | None = None,
) -> Network:
    """The same function with every hidden state in a basis of its own: state k becomes state k @ bases[k].

    ``bases``: 2L + 1 entries for X_0, Y_0, X_1, ..., X_L, each d x d, or None for a state that stays as it is (for a Y
    beside a skip: that has the basis of the state which the skip joins to it, as in ``gauge.rebase``). What
    writes to a state (embedding, positions, W_O, W_down and their biases) is multiplied by its basis from the right,
    what reads it (W_Q, W_K, W_V, W_up, the readout) by the inverse from the left. ``memory``: the basis of what
    cross-attention reads. ``invert``: how to invert a basis, for a caller who has done it already.

    Raises HypothesisError naming what fails, as ``gauge.rebase`` does; "untied readout" where a readout tied to the
    embedding would have to change in another way than the embedding does.
    """
    of_network(network)
    if len(bases) != 2 * len(network.blocks) + 1:
        raise ValueError(f"{len(network.blocks)} blocks have {2 * len(network.blocks) + 1} states, not {len(bases)}")
    invert = invert or gauge.remembered()
    check_ends(network, bases[0], bases[-1])
    blocks: dict[Any, Block] = {}  # a block that stands in several places stays one block
    places = []
    for layer, block in enumerate(network.blocks):
        enter, middle, leave = bases[2 * layer : 2 * layer + 3]
        place = (id(block), id(enter), id(middle), id(leave))
        if place not in blocks:
            blocks[place] = gauge.rebase(block, enter, leave, middle, memory, invert)
        places.append(place)
    return replace(
        network,
        embedding=gauge.carried(network.embedding, bases[0]),
        positions=gauge.carried(network.positions, bases[0]),
        blocks=[blocks[place] for place in places],
        readout=read_out(network, bases[0], bases[-1], invert),
    )


def read_out(network: Network, first: Any, last: Any, invert: Callable[[Any, str], Any]) -> Any:
    """The readout in the basis of the last state; a tied one follows the embedding."""
    if network.readout is not None:
        (readout,) = gauge.reads(invert(last, "the basis at the readout"), network.readout)
        return readout
    if not gauge.same(first, last) or not (first is None or orthogonal(first)):
        raise HypothesisError(
            "untied readout",
            "the readout is the transposed embedding, so the first and the last state need one orthogonal basis, or "
            "none; untie the readout, or leave out the layers whose inputs skips join to the first state (with a skip "
            "around attention only: layers=range(1, L))",
        )
    return None


def check_ends(network: Network, first: Any, last: Any) -> None:
    """Embedding, positions and readout fit the bases at the two ends, and no norm before the readout forbids them."""
    ends = {"embedding": network.embedding, "positions": network.positions, "readout": network.readout}
    given = {name: m for name, m in {**ends, "first basis": first, "last basis": last}.items() if m is not None}
    sound(given, {} if network.readout_bias is None else {"readout_bias": network.readout_bias})
    for name in ("first basis", "last basis"):
        if name in given:
            square(name, given[name])
    for name in ("embedding", "positions"):
        if first is not None and name in given:
            fits(name, given[name], "the basis of the first state", first)
    if last is not None and "readout" in given:
        fits("the basis at the readout", last, "readout", given["readout"])
    if network.blocks and "readout" in given:
        fits("W_down of the last block", network.blocks[-1].mlp.W_down, "readout", given["readout"])
    past_norm("the readout", network.norm, last)


def conjugate(network: Network, theta: Any, memory: Any = None) -> Network:
    """One basis for every state: reads W become theta^-1 W, writes W theta. Any skips, any order. Claim one-layer-free.

    ``theta`` is d x d and invertible; orthogonal, if the readout is tied to the embedding. Raises HypothesisError as
    ``carry`` does. Source: arXiv 2510.23912 for one layer; the global form is ours.

    >>> import numpy as np
    >>> from qkvtheory import MLP, Attention, Block, Heads, Network
    >>> rng = np.random.default_rng(0)
    >>> attention = Attention(Heads(2), *rng.normal(size=(4, 4, 4)))
    >>> block = Block(attention, MLP(np.tanh, *rng.normal(size=(2, 4, 4))), attention_skip=True, mlp_skip=True)
    >>> old = Network(rng.normal(size=(7, 4)), [block], rng.normal(size=(4, 7)))
    >>> new = conjugate(old, block.attention.W_Q)
    >>> bool(np.allclose(new(np.eye(7)), old(np.eye(7))))
    True
    """
    return carry(network, [theta] * (2 * len(network.blocks) + 1), memory)


def eliminate(network: Network, which: str | Sequence[str] = "Q", layers: Iterable[int] | None = None) -> Network:
    """Make one projection of every chosen layer the identity, and keep the function.

    ``which``: "Q", "K" or "V", for all layers or one letter for each chosen layer. ``layers``: their numbers from 0;
    all if not given. The basis of the state that a layer reads, and of all states joined to it by identity skips, is
    the matrix that goes; the others stay as they are. So it can be done in

    - every layer without skips, or with a skip around attention only, or around the MLP only (claims
      skipless-elimination, attn-skip-elimination, mlp-skip-only-elimination);
    - one layer with every skip (``layers=[3]``; one-layer-free), or all if they share the matrix
      (shared-wq-elimination);
    - all layers but the first with a readout tied to the embedding (``layers=range(1, L)``; attn-skip-tied).

    The named matrices must be square and invertible. Raises HypothesisError naming the hypothesis that fails: "one
    choice per segment" (skips join the inputs of two chosen layers whose matrices differ), "no norm", "untied readout",
    "square", "invertible"; ValueError or TypeError for letters and layers that make no sense.
    Source: Graef, arXiv 2404.12362, without skips; arXiv 2510.23912, Attention-Skip-Only Query Weight Elimination and
    Weight-Shared Query Elimination.
    """
    of_network(network)
    if not network.blocks:
        raise ValueError("the network has no blocks, so it has no projections to eliminate")
    chosen = choices(network, which, layers)
    invert = gauge.remembered()
    bases = chosen_bases(network, chosen)
    for layer, name in chosen.items():
        invert(weight(network, layer, name), f"{name} of block {layer}")
    new = carry(network, bases, invert=invert)
    return replace(new, blocks=exactly(new.blocks, chosen))


def eliminate_queries(network: Network) -> Network:
    """All W_Q = I: ``eliminate(network, "Q")``."""
    return eliminate(network, "Q")


def choices(network: Network, which: str | Sequence[str], layers: Iterable[int] | None) -> dict[int, str]:
    """Layer number -> name of the matrix that goes, checked: known letters, existing layers, one letter for each."""
    depth = len(network.blocks)
    numbers = list(range(depth)) if layers is None else whole(layers)
    letters = [which] * len(numbers) if isinstance(which, str) or not isinstance(which, Iterable) else list(which)
    if not all(letter in ("Q", "K", "V") for letter in letters):
        raise ValueError(f"which must be 'Q', 'K' or 'V', or one of them for each layer, not {which!r}")
    if len(letters) != len(numbers):
        raise ValueError(f"{len(numbers)} layers need as many letters in which, not {len(letters)}")
    for number in numbers:
        if not 0 <= number < depth:
            raise ValueError(f"there is no layer {number}: {depth} layers are numbered from 0 to {depth - 1}")
        if numbers.count(number) > 1:
            raise ValueError(f"layer {number} is chosen twice, and only one of its projections can become the identity")
    return {number: f"W_{letter}" for number, letter in zip(numbers, letters, strict=True)}


def whole(layers: Iterable[int]) -> list[int]:
    """Layer numbers as integers; True, 1.0 and "1" are none."""
    try:
        numbers = list(layers)
        if not any(isinstance(number, bool) for number in numbers):
            return [index(number) for number in numbers]
    except TypeError:
        pass
    raise TypeError(f"layers must be whole numbers, such as [0, 2], not {layers!r}")


def chosen_bases(network: Network, chosen: dict[int, str]) -> list[Any]:
    """A basis for each state: in every segment the chosen matrix of the layer that reads it."""
    bases: list[Any] = [None] * (2 * len(network.blocks) + 1)
    for group in segments(network):
        here = {layer: weight(network, layer, name) for layer, name in chosen.items() if 2 * layer in group}
        for layer, basis in here.items():
            name = f"{chosen[layer]} of block {layer}"
            sound({name: basis}, {})
            square(name, basis)
            one_choice(here, layer)
        if here:
            bases = [here[min(here)] if state in group else basis for state, basis in enumerate(bases)]
    return bases


def one_choice(here: dict[int, Any], layer: int) -> None:
    """Refuse a layer whose matrix is not that of the lowest chosen layer of its segment."""
    first = min(here)
    if not gauge.same(here[layer], here[first]):
        differ = "are not one array" if symbolic(here[layer]) else "differ"
        raise HypothesisError(
            "one choice per segment",
            f"skips join the inputs of layers {first} and {layer}, so they share one basis, but their "
            f"matrices {differ}; choose one layer: eliminate(network, layers=[{first}])",
        )


def weight(network: Network, layer: int, name: str) -> Any:
    return getattr(network.blocks[layer].attention, name)


def exactly(blocks: Sequence[Block], chosen: dict[int, str]) -> list[Block]:
    """The chosen matrices set to I, where a product with the inverse would be I up to rounding."""
    made: dict[Any, Block] = {}
    places = [(id(block), chosen.get(layer)) for layer, block in enumerate(blocks)]
    for (block, name), original in zip(places, blocks, strict=True):
        if (block, name) not in made:
            made[block, name] = original if name is None else with_identity(original, name)
    return [made[place] for place in places]


def with_identity(block: Block, name: str) -> Block:
    old = getattr(block.attention, name)
    return replace(block, attention=replace(block.attention, **{name: identity(old.shape[1], old)}))


def merge_outputs(network: Network) -> Network:
    """W_O = I in a stack without skips: the MLP reads W_O W_up, and b_O joins b_up. No matrix need be invertible.

    The state between attention and MLP becomes as wide as the heads write. Raises HypothesisError "no skip" or
    "no norm". Source: Graef, arXiv 2404.12362 (P_i and M_i there). Claim graef-table.
    """
    of_network(network)
    return replace(network, blocks=[merged_output(block) for block in network.blocks])


def merged_output(block: Block) -> Block:
    check_block(block, enter=None, middle=None, leave=None, memory=None)
    a, mlp = block.attention, block.mlp
    if block.attention_skip is not False or block.mlp_skip is not False or block.parallel or block.cross is not None:
        raise HypothesisError(
            "no skip", "something besides the MLP reads what attention writes, so W_O cannot go into it"
        )
    if block.mlp_norm is not None:
        raise HypothesisError("no norm", "a norm stands between W_O and W_up")
    fits("W_O", a.W_O, "W_up", mlp.W_up)
    (W_up,) = gauge.reads(a.W_O, mlp.W_up)
    b_up = mlp.b_up
    if a.b_O is not None:
        b_up = a.b_O @ mlp.W_up if b_up is None else a.b_O @ mlp.W_up + b_up
    attention = replace(a, W_O=identity(a.W_O.shape[0], a.W_O), b_O=None)
    return replace(block, attention=attention, mlp=replace(mlp, W_up=W_up, b_up=b_up))


def learned_skips(network: Network, around: str = "mlp") -> Network:
    """Identity skips written out as learned linear skips x I + ...: the same function, and skips that may now change.

    ``around``: "attention", "mlp" or "both"; a parallel block has only the skip around "attention". A learned skip
    joins nothing, so ``eliminate`` then finds a basis for every state: with both skips, and those around the MLPs
    written out, every W_Q becomes I and each skip W_Q^-1 times the W_Q of the next layer (claim basis-skip-repair).
    ``remove_learned_skips`` is the way back. Raises ValueError for another ``around``. Source: ours.

    >>> import numpy as np
    >>> from qkvtheory import MLP, Attention, Block, Heads, Network
    >>> rng = np.random.default_rng(0)
    >>> attention = Attention(Heads(2), *rng.normal(size=(4, 4, 4)))
    >>> block = Block(attention, MLP(np.tanh, *rng.normal(size=(2, 4, 4))), attention_skip=True, mlp_skip=True)
    >>> old = Network(rng.normal(size=(7, 4)), [block], rng.normal(size=(4, 7)))
    >>> new = eliminate(learned_skips(old))
    >>> bool(np.allclose(new.blocks[0].mlp_skip, np.linalg.inv(attention.W_Q)))
    True
    """
    of_network(network)
    names = {"attention": ("attention_skip",), "mlp": ("mlp_skip",), "both": tuple(SKIPS)}
    if around not in names:
        raise ValueError(f"around must be 'attention', 'mlp' or 'both', not {around!r}")
    made = {id(block): with_learned_skips(block, names[around]) for block in network.blocks}  # one block stays one
    return replace(network, blocks=[made[id(block)] for block in network.blocks])


def with_learned_skips(block: Block, names: Iterable[str]) -> Block:
    one = identity(block.attention.W_Q.shape[0], block.attention.W_Q)
    return replace(block, **{name: one for name in names if getattr(block, name) is True})


def remove_learned_skips(network: Network) -> Network:
    """Learned linear skips x A + ... become identity skips, and the function stays. Every A must be invertible.

    Each state takes the product of all later skips as its basis. Claim learned-skip-removal.
    Source: M. Karbevski, note on skip connections as gauge fixes, 2026. Raises HypothesisError as ``carry`` does.
    """
    of_network(network)
    skips = [skip for block in network.blocks for skip in skips_of(block)]
    bases: list[Any] = [None]
    for skip in reversed(skips):
        after = None if skip is False else bases[0]
        learned = not isinstance(skip, bool)
        bases = [gauge.carried(skip, after) if learned else after, *bases]
    new = carry(network, bases)
    return replace(new, blocks=[with_identity_skips(block) for block in new.blocks])


def skips_of(block: Block) -> tuple[Any, Any]:
    """The skips into the two states after X; the Y that a parallel block lacks counts as joined to what follows."""
    return (block.attention_skip, True) if block.parallel else (block.attention_skip, block.mlp_skip)


def with_identity_skips(block: Block) -> Block:
    """Learned skips set to the identity, where a product of skip and inverse would be it up to rounding."""
    skips = {name: getattr(block, name) for name in SKIPS}
    identities: dict[str, Any] = {name: True for name, skip in skips.items() if not isinstance(skip, bool)}
    return replace(block, **identities)


# -- what became of every weight ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Move:
    """One weight and what it became, as an expression in the old weights."""

    weight: str
    becomes: str
    latex: str

    def __str__(self) -> str:
        return f"{self.weight:12} -> {self.becomes}"


def explain(construction: Callable[[Network], Network], network: Network) -> list[Move]:
    """What ``construction`` does to each weight of ``network``: the construction itself, run on letters.

    Weights that are one array in the network are one letter, so sharing is seen (equal copies are two letters); square
    ones count as invertible, but for d = 1, where they look like rows, none counts as orthogonal, and gains of norms
    are diagonal. Weights that stay as they are are left out. Raises whatever the construction raises on these letters:
    a hypothesis about skips, norms, ties and shapes fails here as it does on the numbers. Raises TypeError for a
    construction that returns no Network.

    >>> import numpy as np
    >>> from qkvtheory import MLP, Attention, Block, Heads, Network
    >>> block = Block(Attention(Heads(2), *np.ones((4, 4, 4))), MLP(np.tanh, *np.ones((2, 4, 4))))
    >>> for move in explain(eliminate_queries, Network(np.ones((7, 4)), [block], np.ones((4, 7)))):
    ...     print(move)
    E            -> E W_Q^0
    W_Q^0        -> I
    W_K^0        -> W_Q^0^-1 W_K^0
    W_V^0        -> W_Q^0^-1 W_V^0
    W_O^0        -> W_O^0 W_Q^0
    W_up^0       -> W_Q^0^-1 W_up^0
    """
    of_network(network)
    twin = in_letters(network)
    changed = construction(twin)
    of(Network, changed, "what the construction returns")
    old, new = named(twin), named(changed)
    return [Move(name, str(new[name]), new[name].latex()) for name in old if name in new and new[name] != old[name]]


def in_letters(network: Network) -> Network:
    """The network with a letter in the place of every matrix."""
    letters: dict[int, Word] = {}

    def letter(array: Any, name: str) -> Any:
        if array is None or isinstance(array, bool) or symbolic(array):
            return array
        if not hasattr(array, "shape"):
            raise HypothesisError("matrix", f"{name} must be an array, not a {type(array).__name__}")
        if id(array) not in letters:
            rows, cols = array.shape if len(array.shape) == 2 else (1, *array.shape)
            letters[id(array)] = symbol(name, str(rows), str(cols), invertible=rows == cols and rows > 1)
        return letters[id(array)]

    def lettered(layer: Any, tag: str, prefix: str = "") -> Any:
        changes = {}
        for f in fields(layer):
            value = getattr(layer, f.name)
            if isinstance(value, Attention | MLP):
                changes[f.name] = lettered(value, tag, "cross " if f.name == "cross" else "")
            elif f.name in NORMS:
                changes[f.name] = norm_in_letters(value, NORMS[f.name] + tag)
            elif f.name.startswith(("W_", "b_")) or f.name in SKIPS:
                changes[f.name] = letter(value, prefix + SKIPS.get(f.name, f.name) + tag)
        return replace(layer, **changes)

    def norm_in_letters(norm: Any, tag: str) -> Any:
        if not isinstance(norm, RMSNorm | LayerNorm):
            return norm
        gain = norm.gain
        if gain is not None and not symbolic(gain):
            size = str(gain.shape[-1])
            gain = letters.setdefault(id(gain), symbol("Gamma" + tag, size, size, diagonal=True))
        bias = {"bias": letter(norm.bias, "c" + tag)} if isinstance(norm, LayerNorm) else {}
        return replace(norm, gain=gain, **bias)

    ends: dict[str, Any] = {name: letter(getattr(network, name), short) for name, short in ENDS.items()}
    ends["norm"] = norm_in_letters(network.norm, "")
    return replace(network, blocks=[lettered(block, f"^{i}") for i, block in enumerate(network.blocks)], **ends)


ENDS = {"embedding": "E", "positions": "P", "readout": "D", "readout_bias": "b_D"}
NORMS = {"attention_norm": "_1", "mlp_norm": "_2"}
SKIPS = {"attention_skip": "A", "mlp_skip": "B"}


def named(network: Network) -> dict[str, Word]:
    """Every matrix of a network of words, by the name of its place."""
    found = {short: getattr(network, name) for name, short in ENDS.items()}

    def walk(layer: Any, tag: str, prefix: str = "") -> None:
        for f in fields(layer):
            value = getattr(layer, f.name)
            if isinstance(value, Attention | MLP):
                walk(value, tag, "cross " if f.name == "cross" else "")
            else:
                found[prefix + SKIPS.get(f.name, f.name) + tag] = value

    for i, block in enumerate(network.blocks):
        walk(block, f"^{i}")
    return {name: value for name, value in found.items() if isinstance(value, Word)}
