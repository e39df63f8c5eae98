"""What a norm leaves of the eliminations: bases that are rotations.

Past an RMSNorm without gain a state may be multiplied by an orthogonal matrix and by no other. So W_Q cannot become the
identity, but it can become triangular (QR), symmetric (polar decomposition), or, with the freedom inside the heads,
block triangular with ones on the diagonal. Gains go first (``norms.fold_gains``), a LayerNorm becomes an RMSNorm
(``norms.center``). "Orthogonal" takes in reflections: a rotation of the stream here is any matrix with O O^T = I.

As in ``stacks``, what is done to the weights uses only ``@``, so it runs on floats, on exact numbers and on words; only
floats have a QR and a polar decomposition, elsewhere the factors are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

from qkvtheory import gauge, stacks
from qkvtheory.attention import Heads, head_width, like
from qkvtheory.checks import of_network, show, sound, square
from qkvtheory.errors import HypothesisError
from qkvtheory.linalg import inverse, orthogonal, scalar, symbolic
from qkvtheory.network import Attention, Block, Network


class Factors(NamedTuple):
    """W_Q = basis @ query, or basis @ query @ heads: an orthogonal d x d basis, what W_Q becomes, and (for the block
    form) a p x p matrix with one invertible block for each head on its diagonal.
    """

    basis: Any
    query: Any
    heads: Any = None


Split = Callable[[Attention, str], Factors]


def rotate(network: Network, bases: Any, memory: Any = None) -> Network:
    """The same function with every hidden state rotated: ``stacks.carry`` with orthogonal bases, past norms.

    ``bases``: one d x d orthogonal matrix for every state, or a list of 2L + 1 of them (or None) for X_0, Y_0, X_1,
    ..., X_L as in ``carry``. The inverse of a basis is its transpose, so nothing is inverted.
    Norms must be ``norms.RMSNorm`` without gain, or ``norms.LayerNorm`` without gain and bias beside bases that fix the
    all-ones direction. Claims rmsnorm-orthogonal-only, layernorm-fixes-ones.

    Raises HypothesisError: "orthogonal", "gains folded" (call fold_gains), "the mean stays" (call center), "known
    norm", "one basis" (identity skips join states with different bases), "untied readout", ... as ``carry`` does.
    Source: Ashkboos and others 2024, SliceGPT (arXiv 2401.15024).

    >>> import numpy as np
    >>> from qkvtheory import MLP, Attention, Block, Heads
    >>> from qkvtheory.norms import RMSNorm
    >>> rng = np.random.default_rng(0)
    >>> attention, mlp = Attention(Heads(2), *rng.normal(size=(4, 4, 4))), MLP(np.tanh, *rng.normal(size=(2, 4, 4)))
    >>> block = Block(attention, mlp, mlp_skip=True, attention_norm=RMSNorm(), mlp_norm=RMSNorm())
    >>> old = Network(rng.normal(size=(7, 4)), [block], rng.normal(size=(4, 7)), norm=RMSNorm())
    >>> new = rotate(old, np.linalg.qr(rng.normal(size=(4, 4)))[0])
    >>> bool(np.allclose(new(np.eye(7)), old(np.eye(7))))
    True
    """
    of_network(network)
    if not isinstance(bases, list | tuple):
        bases = [bases] * (2 * len(network.blocks) + 1)
    for name, basis in (*((f"the basis of state {k}", basis) for k, basis in enumerate(bases)), ("memory", memory)):
        if basis is not None:
            sound({name: basis}, {})
            square(name, basis)
            if not orthogonal(basis):
                raise HypothesisError(
                    "orthogonal", f"{name} is not: its transpose must be its inverse (for other bases see stacks.carry)"
                )
    for what, norm, state in norms_before(network):
        check_norm(what, norm, bases[state] if state < len(bases) else None)
    return stacks.carry(network, bases, memory, invert=transposed)


def transposed(basis: Any, name: str) -> Any:
    """The inverse of an orthogonal basis; for no basis there is none."""
    return None if basis is None else basis.mT


def norms_before(network: Network) -> Iterator[tuple[str, Any, int]]:
    """Every norm: what it stands before, the norm, and the number of the state that it reads."""
    for layer, block in enumerate(network.blocks):
        yield f"attention {layer}", block.attention_norm, 2 * layer
        if block.cross is not None:
            yield f"cross-attention {layer}", block.attention_norm, 2 * layer + 1
        yield f"MLP {layer}", block.mlp_norm, 2 * layer if block.parallel else 2 * layer + 1
    yield "the readout", network.norm, 2 * len(network.blocks)


def check_norm(what: str, norm: Any, basis: Any) -> None:
    if norm is None or basis is None:
        return
    if not hasattr(norm, "forbids"):
        raise HypothesisError(
            "known norm", f"the norm before {what} cannot be looked into; give it as norms.RMSNorm or norms.LayerNorm"
        )
    refusal = norm.forbids(basis)
    if refusal is not None:
        raise HypothesisError(refusal[0], f"the norm before {what} does not let this basis through: {refusal[1]}")


# -- what W_Q can become -----------------------------------------------------------------------------------------------


def to_triangular(
    network: Network, layers: Iterable[int] | None = None, factors: Mapping[int, Factors] | None = None
) -> Network:
    """The same function with upper triangular W_Q in the chosen layers: W_Q = O T (QR), and O is the basis.

    ``layers``: their numbers from 0; all if not given. Of layers whose inputs identity skips join only one can be
    chosen (with both skips one in the whole network), or several that share W_Q. Nothing is inverted and W_Q need not
    be square or invertible; T has a diagonal >= 0. Saves d (d - 1) / 2 numbers a layer. Norms as in ``rotate``; without
    norms ``stacks.eliminate`` does more. ``factors``: layer -> Factors with W_Q = basis @ query, for words and exact
    numbers, which have no QR. Claim rms-triangular.

    Raises HypothesisError: "one choice per segment", "factors", and as ``rotate`` does.

    >>> import numpy as np
    >>> from qkvtheory import MLP, Attention, Block, Heads
    >>> from qkvtheory.norms import RMSNorm
    >>> rng = np.random.default_rng(0)
    >>> attention, mlp = Attention(Heads(2), *rng.normal(size=(4, 4, 4))), MLP(np.tanh, *rng.normal(size=(2, 4, 4)))
    >>> block = Block(attention, mlp, mlp_skip=True, attention_norm=RMSNorm(), mlp_norm=RMSNorm())
    >>> old = Network(rng.normal(size=(7, 4)), [block], rng.normal(size=(4, 7)), norm=RMSNorm())
    >>> new = to_triangular(old)
    >>> bool(np.allclose(new(np.eye(7)), old(np.eye(7)))), int((np.tril(new.blocks[0].attention.W_Q, -1) != 0).sum())
    (True, 0)
    """
    return in_their_bases(network, layers, factors, triangular)


def to_symmetric(
    network: Network, layers: Iterable[int] | None = None, factors: Mapping[int, Factors] | None = None
) -> Network:
    """The same function with symmetric positive semidefinite W_Q in the chosen layers: W_Q = U S (polar), basis U.

    As ``to_triangular``; W_Q must be square ("square"). S is the identity up to a factor just when W_Q is a multiple of
    an orthogonal matrix. Claim rms-spd.

    >>> import numpy as np
    >>> from qkvtheory import MLP, Attention, Block, Heads
    >>> from qkvtheory.norms import RMSNorm
    >>> rng = np.random.default_rng(0)
    >>> attention, mlp = Attention(Heads(2), *rng.normal(size=(4, 4, 4))), MLP(np.tanh, *rng.normal(size=(2, 4, 4)))
    >>> block = Block(attention, mlp, mlp_skip=True, attention_norm=RMSNorm(), mlp_norm=RMSNorm())
    >>> old = Network(rng.normal(size=(7, 4)), [block], rng.normal(size=(4, 7)), norm=RMSNorm())
    >>> S = to_symmetric(old).blocks[0].attention.W_Q
    >>> bool((S == S.T).all() and np.linalg.eigvalsh(S).min() > 0)
    True
    """
    return in_their_bases(network, layers, factors, polar)


def to_block_triangular(
    network: Network, layers: Iterable[int] | None = None, factors: Mapping[int, Factors] | None = None
) -> Network:
    """The same function with block upper triangular W_Q, an identity block for each head on the diagonal.

    QR, then each head takes the inverse of its own diagonal block (``gauge.turn_heads``), and its keys the transpose:
    d (d - d_h) / 2 numbers are left of W_Q. W_Q must be d x d and invertible, with as many key heads as query heads,
    no RoPE and no QK-norm in the chosen layers. If the heads of W_Q span mutually orthogonal spaces, W_Q becomes I.
    Claim rms-block-triangular. A core other than ``Heads`` needs ``factors``.

    Raises HypothesisError: "square", "invertible", "bare scores", "multi-head attention", and as ``to_triangular``.

    >>> import numpy as np
    >>> from qkvtheory import MLP, Attention, Block, Heads
    >>> from qkvtheory.norms import RMSNorm
    >>> rng = np.random.default_rng(0)
    >>> attention, mlp = Attention(Heads(2), *rng.normal(size=(4, 4, 4))), MLP(np.tanh, *rng.normal(size=(2, 4, 4)))
    >>> block = Block(attention, mlp, mlp_skip=True, attention_norm=RMSNorm(), mlp_norm=RMSNorm())
    >>> old = Network(rng.normal(size=(7, 4)), [block], rng.normal(size=(4, 7)), norm=RMSNorm())
    >>> new = to_block_triangular(old)
    >>> bool(np.allclose(new(np.eye(7)), old(np.eye(7)))), new.blocks[0].attention.W_Q[:, :2].tolist()
    (True, [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    """
    return in_their_bases(network, layers, factors, block_triangular)


def in_their_bases(network: Network, layers: Any, factors: Mapping[int, Factors] | None, split: Split) -> Network:
    """The network in the bases that the factors of its W_Q name, each W_Q replaced by what the factors leave of it."""
    of_network(network)
    parts = given(network, layers, factors) if factors is not None else found(network, layers, split)
    new = rotate(network, segment_bases(network, parts))
    blocks: dict[Any, Block] = {}  # a block that stands in several places stays one block
    places = [(id(block), id(parts.get(layer))) for layer, block in enumerate(new.blocks)]
    for layer, (place, block) in enumerate(zip(places, new.blocks, strict=True)):
        if place not in blocks:
            blocks[place] = with_query(block, parts[layer]) if layer in parts else block
    return replace(new, blocks=[blocks[place] for place in places])


def with_query(block: Block, part: Factors) -> Block:
    """W_Q set to what the factors say, where a product with the basis would be it up to rounding."""
    attention = block.attention
    if part.heads is not None:
        attention = gauge.turn_heads(attention, keys=inverse(part.heads, "the diagonal blocks of W_Q"))
    return replace(block, attention=replace(attention, W_Q=part.query))


def found(network: Network, layers: Any, split: Split) -> dict[int, Factors]:
    """The factors of every chosen W_Q; of a sublayer that stands in several places only once."""
    made: dict[int, Factors] = {}
    parts: dict[int, Factors] = {}
    for layer in stacks.choices(network, "Q", layers):
        attention, name = network.blocks[layer].attention, f"W_Q of block {layer}"
        sound({name: attention.W_Q}, {})
        if symbolic(attention.W_Q) or attention.W_Q.dtype == object:
            raise HypothesisError(
                "factors", f"{name} is not an array of floats, so it has no QR or polar decomposition; pass factors"
            )
        if id(attention) not in made:
            made[id(attention)] = split(attention, name)
        parts[layer] = made[id(attention)]
    return parts


def given(network: Network, layers: Any, factors: Mapping[int, Factors]) -> dict[int, Factors]:
    """The factors that were passed, for the chosen layers. They must multiply to W_Q."""
    chosen = stacks.choices(network, "Q", factors if layers is None else layers)
    missing = sorted(set(chosen) - set(factors))
    if missing:
        raise HypothesisError("factors", f"layer {missing[0]} is chosen, but factors has no entry for it")
    for layer in chosen:
        part, W_Q = factors[layer], network.blocks[layer].attention.W_Q
        product = part.basis @ part.query if part.heads is None else part.basis @ part.query @ part.heads
        if not close(product, W_Q):
            raise HypothesisError("factors", f"the factors for layer {layer} do not multiply to its W_Q")
    return {layer: factors[layer] for layer in chosen}


def close(a: Any, b: Any) -> bool:
    """Equal; for floats, up to rounding."""
    if symbolic(a):
        return bool(a == b)
    if a.shape != b.shape:
        return False
    if a.dtype == object:
        return bool((a == b).all())
    return scalar(abs(a - b).max()) <= 64 * len(a) * float(array_namespace(a).finfo(a.dtype).eps) * scalar(abs(b).max())


def segment_bases(network: Network, parts: Mapping[int, Factors]) -> list[Any]:
    """A basis for each state: in every segment that of the chosen layer which reads it, or None."""
    bases: list[Any] = [None] * (2 * len(network.blocks) + 1)
    for group in stacks.segments(network):
        here = [layer for layer in sorted(parts) if 2 * layer in group]
        for layer in here[1:]:
            if not gauge.same(*(network.blocks[k].attention.W_Q for k in (here[0], layer))):
                raise HypothesisError(
                    "one choice per segment",
                    f"skips join the inputs of layers {here[0]} and {layer}, so they share one rotation, but their W_Q "
                    f"differ; choose one layer: layers=[{here[0]}]",
                )
        bases = [parts[here[0]].basis if here and state in group else basis for state, basis in enumerate(bases)]
    return bases


# -- decompositions of floats: in float64, rounded once ----------------------------------------------------------------


def triangular(attention: Attention, name: str) -> Factors:
    """QR with a diagonal >= 0: the one choice of signs that makes it unique where W_Q has full rank."""
    basis, query = qr(attention.W_Q)
    return Factors(*rounded(attention.W_Q, basis, query))


def qr(W_Q: Any) -> tuple[Any, Any]:
    """In float64: orthogonal d x d times upper triangular d x p, with a diagonal >= 0."""
    xp = array_namespace(W_Q)
    basis, query = xp.linalg.qr(xp.astype(W_Q, xp.float64), mode="complete")
    flip = xp.linalg.diagonal(query) < 0
    rest = xp.zeros(basis.shape[0] - flip.shape[0], dtype=flip.dtype, device=device(flip))
    signs = 1 - 2 * xp.astype(xp.concat([flip, rest]), xp.float64)
    return basis * signs, xp.triu(query * xp.reshape(signs, (-1, 1)))


def polar(attention: Attention, name: str) -> Factors:
    W_Q = attention.W_Q
    if W_Q.shape[0] != W_Q.shape[1]:
        raise HypothesisError("square", f"{name} is {show(W_Q)}; only a square matrix can become symmetric")
    xp = array_namespace(W_Q)
    left, values, right = xp.linalg.svd(xp.astype(W_Q, xp.float64))
    stretch = right.mT @ (xp.reshape(values, (-1, 1)) * right)
    return Factors(*rounded(W_Q, left @ right, (stretch + stretch.mT) / 2))


def block_triangular(attention: Attention, name: str) -> Factors:
    """QR, and the diagonal blocks of the triangle split off: W_Q = O U D, D block diagonal, U with blocks I."""
    W_Q, core = attention.W_Q, attention.core
    if not isinstance(core, Heads):
        raise HypothesisError("factors", "a core other than Heads does not say where its heads are; pass factors")
    if W_Q.shape[0] != W_Q.shape[1]:
        raise HypothesisError("square", f"{name} is {show(W_Q)}; its diagonal blocks are to be those of the heads")
    basis, query = qr(W_Q)
    own = like(same_head(W_Q.shape[0], core.heads), query)
    xp = array_namespace(query)
    heads = xp.where(own, query, xp.zeros_like(query))
    ones = xp.eye(query.shape[0], dtype=query.dtype, device=device(query))
    unit = xp.triu(xp.where(own, ones, query @ inverse(heads, f"the diagonal blocks of {name}")))
    return Factors(*rounded(W_Q, basis, unit, heads))


def same_head(width: int, heads: int) -> np.ndarray:
    """Boolean width x width: do the two coordinates belong to one head?"""
    head = np.arange(width) // head_width(width, heads, "queries")
    return head[:, None] == head


def rounded(like_this: Any, *found: Any) -> list[Any]:
    xp = array_namespace(like_this)
    return [xp.astype(a, like_this.dtype) for a in found]
