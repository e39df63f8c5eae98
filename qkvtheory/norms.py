"""Norms as values that a construction can look into: RMSNorm and LayerNorm, their gains, and what moves past them.

A norm given to ``Block`` or ``Network`` may be any function, but a construction can only reason about one it knows.
``RMSNorm`` and ``LayerNorm`` are functions like any other, and they say what they hold: gain, bias, eps. ``fold_gains``
moves gains and biases into the weights that read the norm; ``center`` makes every LayerNorm an RMSNorm. Then the hidden
states may be rotated (``rotations``). All of it keeps the function of the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from array_api_compat import array_namespace

from qkvtheory import words
from qkvtheory.attention import like, rms_norm
from qkvtheory.checks import of_network, show, sound
from qkvtheory.errors import HypothesisError
from qkvtheory.linalg import fractions, identity, orthogonal, scalar, symbolic
from qkvtheory.network import Block, Network

Scale = Callable[[Any], Any]
Refusal = tuple[str, str]  # the hypothesis that fails, and what to do


@dataclass(frozen=True, eq=False)
class RMSNorm:
    """Every row x becomes x / sqrt(mean(x^2) + eps), times ``gain``. Zhang and Sennrich 2019 (arXiv 1910.07467).

    ``gain``: d numbers (or one row of them), or None for none; in words a diagonal letter. ``eps``: the number under
    the root, at least 0. ``scale``: for words and exact numbers, where there is no root: a function of the Gram matrix
    x x^T in place of the diagonal matrix of inverse roots, so that the norm is scale(x x^T) x (see ``rational_scale``).

    Takes arrays of any library, with any number of axes, and norms the last one.
    Raises ValueError for a negative eps, HypothesisError ("matrix") for a gain that is not one row.

    >>> import numpy as np
    >>> RMSNorm(eps=0)(np.array([[3.0, 3.0], [1.0, -1.0]])).tolist()
    [[1.0, 1.0], [1.0, -1.0]]
    """

    gain: Any = None
    eps: float = 1e-6
    scale: Scale | None = None

    def __post_init__(self) -> None:
        check_norm(self)

    def __call__(self, x: Any) -> Any:
        return gained(normalized(x, self), self.gain)

    def forbids(self, basis: Any) -> Refusal | None:
        """Why states may not be multiplied by this basis before the norm; None if they may: N(x B) = N(x) B."""
        if self.gain is not None:
            return "gains folded", "its gain belongs to the coordinates; move it into the weights first: fold_gains"
        if not orthogonal(basis):
            return "orthogonal", "it sees the lengths of another basis; a norm lets rotations through only"
        return None


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """The mean is taken off every row, then RMSNorm, ``gain`` and ``bias``. Ba, Kiros, Hinton 2016 (arXiv 1607.06450).

    ``gain``, ``eps``, ``scale``: as in ``RMSNorm``. ``bias``: d numbers, or one row of them.

    >>> import numpy as np
    >>> LayerNorm(eps=0)(np.array([[3.0, 1.0]])).tolist()
    [[1.0, -1.0]]
    """

    gain: Any = None
    bias: Any = None
    eps: float = 1e-5
    scale: Scale | None = None

    def __post_init__(self) -> None:
        check_norm(self)

    def __call__(self, x: Any) -> Any:
        y = gained(normalized(centered(x), self), self.gain)
        if self.bias is None:
            return y
        return y + (self.bias if symbolic(self.bias) else like(self.bias, y))

    def forbids(self, basis: Any) -> Refusal | None:
        """As in ``RMSNorm``; besides, the basis must fix the direction of the mean."""
        if self.gain is not None or self.bias is not None:
            return "gains folded", "its gain and bias belong to the coordinates; move them into the weights: fold_gains"
        if not orthogonal(basis):
            return "orthogonal", "it sees the lengths of another basis; a norm lets rotations through only"
        if not fixes_ones(basis):
            return "the mean stays", "the basis moves the all-ones direction, which it takes off; call center first"
        return None


def check_norm(norm: RMSNorm | LayerNorm) -> None:
    if not norm.eps >= 0:
        raise ValueError(f"eps stands under a root and must be at least 0, not {norm.eps!r}")
    for name in ("gain", "bias"):
        row = getattr(norm, name, None)
        if row is None or symbolic(row):
            continue
        shape = getattr(row, "shape", None)
        if shape is None or len(shape) not in (1, 2) or (len(shape) == 2 and shape[0] != 1):
            shown = f"a {type(row).__name__}" if shape is None else f"of shape {tuple(shape)}"
            raise HypothesisError("matrix", f"the {name} of a norm must be an array, one row of numbers, not {shown}")


def normalized(x: Any, norm: RMSNorm | LayerNorm) -> Any:
    """The rows of x divided by their root mean square, or by what stands in its place."""
    return rms_norm(eps=norm.eps)(x) if norm.scale is None else norm.scale(x @ x.mT) @ x


def gained(x: Any, gain: Any) -> Any:
    if gain is None:
        return x
    return x @ gain if symbolic(gain) else x * like(gain, x)


def rational_scale(gram: Any) -> Any:
    """diag(1 / (1 + |x_i|^2)): the stand-in for the inverse roots in exact arithmetic. A function of lengths, as they.

    >>> import numpy as np
    >>> from fractions import Fraction
    >>> RMSNorm(scale=rational_scale)(np.array([[Fraction(2), Fraction(0)]])).tolist()
    [[Fraction(2, 5), Fraction(0, 1)]]
    """
    return identity(len(gram), gram) * (1 / (1 + fractions(gram.diagonal())))


def centered(a: Any) -> Any:
    """Every row without its mean: a C with C = I - 1 1^T / d."""
    if symbolic(a):
        return a @ a.centering(a.cols)
    if a.dtype == object:
        a = fractions(a)
        return a - a.sum(axis=-1, keepdims=True) * ((a.flat[0] * 0 + 1) / a.shape[-1])
    return a - array_namespace(a).mean(a, axis=-1, keepdims=True)


def fixes_ones(basis: Any) -> bool:
    """Does an orthogonal basis map the all-ones row to itself or to its opposite? Up to rounding for floats."""
    if symbolic(basis):
        return all(abs(k) == 1 and keeps_ones(word) for word, k in basis.terms) and len(basis.terms) == 1
    sums = basis.sum(axis=0)
    if basis.dtype == object:
        return bool((sums == 1).all() or (sums == -1).all())
    xp = array_namespace(basis)
    gap = min(scalar(xp.max(xp.abs(sums - sign))) for sign in (1, -1))
    return gap <= 8 * basis.shape[0] * float(xp.finfo(basis.dtype).eps)


def keeps_ones(word: tuple[words.Letter, ...]) -> bool:
    return all("rows sum to one" in letter.facts for letter in word)


# -- gains -------------------------------------------------------------------------------------------------------------


def fold_gains(network: Network) -> Network:
    """The same function with every norm free of gain and bias: reads become diag(gain) W, their biases b + bias W.

    A norm before attention serves W_Q, W_K, W_V (and the queries of cross-attention), one before the MLP W_up, the last
    one the readout, whose bias is ``Network.readout_bias``. Claim gain-folding.
    Raises HypothesisError: "known norm" for a function that is neither RMSNorm nor LayerNorm; "untied readout" where
    the last norm has a gain or bias and the readout is the transposed embedding; "shapes agree", "one kind of number".
    Source: Ashkboos and others 2024, SliceGPT (arXiv 2401.15024).

    >>> import numpy as np
    >>> from qkvtheory import MLP, Attention, Block, Heads, Network
    >>> rng = np.random.default_rng(0)
    >>> norms = {name: RMSNorm(rng.uniform(1, 2, 4)) for name in ("attention_norm", "mlp_norm")}
    >>> attention, mlp = Attention(Heads(2), *rng.normal(size=(4, 4, 4))), MLP(np.tanh, *rng.normal(size=(2, 4, 4)))
    >>> block = Block(attention, mlp, mlp_skip=True, **norms)
    >>> old = Network(rng.normal(size=(7, 4)), [block], rng.normal(size=(4, 7)), norm=RMSNorm(rng.uniform(1, 2, 4)))
    >>> new = fold_gains(old)
    >>> new.norm.gain, bool(np.allclose(new(np.eye(7)), old(np.eye(7))))
    (None, True)
    """
    of_network(network)
    made = {id(block): folded(block) for block in network.blocks}  # a block in several places stays one block
    blocks = [made[id(block)] for block in network.blocks]
    norm = known(network.norm, "the readout")
    if norm is None or bare(norm):
        return replace(network, blocks=blocks)
    if network.readout is None:
        raise HypothesisError(
            "untied readout",
            "the gain of the last norm goes into the readout, which is the transposed embedding; untie it first: "
            "replace(network, readout=network.embedding.mT)",
        )
    readout, bias = into(norm, network.readout, network.readout_bias, "readout")
    return replace(network, blocks=blocks, norm=gainless(norm), readout=readout, readout_bias=bias)


def folded(block: Block) -> Block:
    first, second = known(block.attention_norm, "attention"), known(block.mlp_norm, "the MLP")
    a, mlp, cross = block.attention, block.mlp, block.cross
    W_Q, b_Q = into(first, a.W_Q, a.b_Q, "W_Q")
    W_K, b_K = into(first, a.W_K, a.b_K, "W_K")
    W_V, b_V = into(first, a.W_V, a.b_V, "W_V")
    W_up, b_up = into(second, mlp.W_up, mlp.b_up, "W_up")
    if cross is not None:
        asks, bias = into(first, cross.W_Q, cross.b_Q, "W_Q of the cross-attention")
        cross = replace(cross, W_Q=asks, b_Q=bias)
    return replace(
        block,
        attention=replace(a, W_Q=W_Q, W_K=W_K, W_V=W_V, b_Q=b_Q, b_K=b_K, b_V=b_V),
        mlp=replace(mlp, W_up=W_up, b_up=b_up),
        cross=cross,
        attention_norm=gainless(first),
        mlp_norm=gainless(second),
    )


def known(norm: Any, what: str) -> Any:
    if norm is None or isinstance(norm, RMSNorm | LayerNorm):
        return norm
    raise HypothesisError(
        "known norm",
        f"the norm before {what} is a function that cannot be looked into; give it as norms.RMSNorm or norms.LayerNorm",
    )


def bare(norm: RMSNorm | LayerNorm) -> bool:
    return norm.gain is None and getattr(norm, "bias", None) is None


def gainless(norm: Any) -> Any:
    """The norm without gain and bias."""
    if isinstance(norm, LayerNorm):
        return replace(norm, gain=None, bias=None)
    return None if norm is None else replace(norm, gain=None)


def into(norm: Any, weight: Any, bias: Any, name: str) -> tuple[Any, Any]:
    """A weight that reads the norm, and its bias, with gain and bias of the norm inside."""
    if norm is None or bare(norm):
        return weight, bias
    gain, shift = norm.gain, getattr(norm, "bias", None)
    rows = {what: row for what, row in (("the gain", gain), ("the bias of the norm", shift)) if row is not None}
    sound({name: weight}, rows if bias is None else {**rows, f"the bias beside {name}": bias})
    for what, row in rows.items():
        if row.shape[-1] != weight.shape[0]:
            raise HypothesisError("shapes agree", f"{what} has {row.shape[-1]} entries but {name} is {show(weight)}")
    if shift is not None:
        bias = shift @ weight if bias is None else shift @ weight + bias
    return stretched(gain, weight), bias


def stretched(gain: Any, weight: Any) -> Any:
    """diag(gain) weight."""
    if gain is None:
        return weight
    return gain @ weight if symbolic(gain) else gain.reshape((-1, 1)) * weight


# -- the mean ----------------------------------------------------------------------------------------------------------


def center(network: Network) -> Network:
    """The same function with RMSNorm, of the same eps and gain, in place of LayerNorm: writes lose their row means.

    Embedding, positions, W_O, W_down and their biases become W - (mean of every row), so no state has a mean that a
    norm could take off. Claim layernorm-centring.
    Raises HypothesisError: "every read behind a LayerNorm" if something else reads a state (a sublayer without norm, a
    learned skip), "gains folded" for a LayerNorm with bias, "untied readout" for one with gain before a tied readout.
    Source: Ashkboos and others 2024, SliceGPT (arXiv 2401.15024).

    >>> import numpy as np
    >>> from qkvtheory import MLP, Attention, Block, Heads, Network
    >>> rng = np.random.default_rng(0)
    >>> norms = {"attention_norm": LayerNorm(), "mlp_norm": LayerNorm()}
    >>> attention, mlp = Attention(Heads(2), *rng.normal(size=(4, 4, 4))), MLP(np.tanh, *rng.normal(size=(2, 4, 4)))
    >>> block = Block(attention, mlp, mlp_skip=True, **norms)
    >>> old = Network(rng.normal(size=(7, 4)), [block], rng.normal(size=(4, 7)), norm=LayerNorm())
    >>> new = center(old)
    >>> type(new.norm).__name__, bool(np.allclose(new(np.eye(7)), old(np.eye(7))))
    ('RMSNorm', True)
    """
    of_network(network)
    made = {id(block): without_means(block) for block in network.blocks}
    norm = mean_free(network.norm, "the readout")
    if network.readout is None and norm.gain is not None:
        raise HypothesisError(
            "untied readout",
            "the gain of the last norm stands between the states and the transposed embedding; untie the readout and "
            "call fold_gains first",
        )
    return replace(
        network,
        embedding=write(network.embedding, "embedding"),
        positions=write(network.positions, "positions"),
        blocks=[made[id(block)] for block in network.blocks],
        norm=norm,
    )


def without_means(block: Block) -> Block:
    for name in ("attention_skip", "mlp_skip"):
        if not isinstance(getattr(block, name), bool):
            raise HypothesisError(BEHIND, f"{name} is a matrix, which reads the state with its mean")
    a, mlp, cross = block.attention, block.mlp, block.cross
    attention = replace(a, W_O=write(a.W_O, "W_O"), b_O=write(a.b_O, "b_O"))
    if cross is not None:
        cross = replace(cross, W_O=write(cross.W_O, "W_O"), b_O=write(cross.b_O, "b_O"))
    return replace(
        block,
        attention=attention,
        mlp=replace(mlp, W_down=write(mlp.W_down, "W_down"), b_down=write(mlp.b_down, "b_down")),
        cross=cross,
        attention_norm=mean_free(block.attention_norm, "attention"),
        mlp_norm=mean_free(block.mlp_norm, "the MLP"),
    )


BEHIND = "every read behind a LayerNorm"


def mean_free(norm: Any, what: str) -> RMSNorm:
    """The RMSNorm that does on states without mean what this LayerNorm does on all."""
    if not isinstance(norm, LayerNorm):
        found = "nothing" if norm is None else f"a {type(norm).__name__}"
        raise HypothesisError(BEHIND, f"{found} stands before {what}, so the means of the states are seen there")
    if norm.bias is not None:
        raise HypothesisError("gains folded", f"the LayerNorm before {what} has a bias; call fold_gains first")
    return RMSNorm(norm.gain, norm.eps, norm.scale)


def write(weight: Any, name: str) -> Any:
    """What writes to a state, or a bias of it, without the means of its rows."""
    if weight is None:
        return None
    sound({}, {name: weight}) if name.startswith("b_") else sound({name: weight}, {})
    return centered(weight)
