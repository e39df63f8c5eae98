"""How many parameters a function really has: the rank of its derivative with respect to them.

Parameters that move the function only together, or not at all, are redundant; a symmetry of d^2 dimensions lowers the
rank by d^2. The rank at a generic point is the *functional dimension*. Derivatives are taken by a complex step, exact
to rounding, so that the rank shows as a gap between singular values. On finitely many inputs the rank is a lower bound:
take more of them until it stays.

``layer_dimension`` and ``network_dimension`` measure what ``qkvtheory.freedom`` predicts, on the package's own layers.
``exact_rank`` does without floats and without a gap: dual numbers over a prime field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np

from qkvtheory import positions
from qkvtheory.activations import gelu_tanh, relu, swiglu
from qkvtheory.attention import Heads, causal, rms_norm
from qkvtheory.freedom import Architecture, Layer, parameters
from qkvtheory.network import MLP, Attention, Block, Network, normed, past

STEP = 1e-30  # of the complex step: nothing is subtracted, so it can be as small as the floats allow
CLEAR = 1e6  # a rank is read off a gap between singular values of at least this factor
SEED = 2  # of the points: at this one every ReLU neuron is on and off, and the gaps of the book exceed a factor 1e9
NOISE = 1e-13  # a column this much shorter than the longest is rounding: the parameter does nothing


@dataclass(frozen=True)
class Dimension:
    """``rank`` of the derivative; ``gap``: the last singular value that counts over the first that does not."""

    rank: int
    gap: float


def functional_dimension(function: Callable[..., Any], parameters: Sequence[np.ndarray]) -> Dimension:
    """The rank of the Jacobian of parameters -> outputs at this point.

    Parameters: ``function`` takes the arrays in ``parameters`` (float64, any shapes) and gives an array of outputs, at
    least as many as there are parameters. It must be analytic near the point, and computed by operations that carry
    complex numbers through: no ``abs``, ``max``, or conversion to real (see ``analytic_softmax``).
    Raises ValueError for other parameters, for too few outputs, for a function that is not analytic there, and where
    no gap of a factor 1e6 tells the rank.

    Source of the complex step: W. Squire and G. Trapp, SIAM Review 40 (1998) 110.

    >>> functional_dimension(lambda a, b: np.outer(a, b), [np.array([1.0, 2.0]), np.array([3.0, 4.0])]).rank
    3
    """
    return dimension(singular_values(jacobian(function, parameters)))


def dimension(values: np.ndarray) -> Dimension:
    """The rank of a matrix with these singular values, read off the largest gap. Raises ValueError if none is clear."""
    floor = float(np.finfo(np.float64).eps) * values[0]
    raised = np.maximum([*values, 0.0], floor)  # below the floor there is only rounding
    if not floor:
        return Dimension(0, np.inf)
    ratios = raised[:-1] / raised[1:]
    rank = int(np.argmax(ratios)) + 1
    if ratios[rank - 1] < CLEAR:
        raise ValueError(
            f"the singular values fall by at most a factor {ratios[rank - 1]:.1e}, so the rank is not clear; "
            "take another point, more outputs, or weights of like size"
        )
    return Dimension(rank, float(ratios[rank - 1]))


def jacobian(function: Callable[..., Any], parameters: Sequence[np.ndarray]) -> np.ndarray:
    """Outputs x parameters. Raises ValueError as ``functional_dimension`` does."""
    for number, parameter in enumerate(parameters):
        if getattr(parameter, "dtype", None) != np.float64 or not np.isfinite(parameter).all():
            raise ValueError(f"parameter {number} must be a float64 array of finite numbers")
    point = np.concatenate([parameter.ravel() for parameter in parameters])

    def along(step: np.ndarray) -> Any:
        return np.asarray(function(*shaped(point + step, parameters)))

    columns = [imaginary(along(1j * STEP * unit)) / STEP for unit in np.eye(len(point))]
    result = np.stack(columns, axis=1)
    if len(result) < len(point):
        raise ValueError(
            f"{len(result)} outputs cannot tell {len(point)} parameters apart; give the function more inputs"
        )
    check_analytic(along, result)
    return result


def shaped(point: np.ndarray, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The vector of all parameters cut into arrays of the old shapes."""
    ends = np.cumsum([parameter.size for parameter in like])
    return [part.reshape(p.shape) for part, p in zip(np.split(point, ends[:-1]), like, strict=True)]


def imaginary(values: np.ndarray) -> np.ndarray:
    if not np.iscomplexobj(values) or not np.isfinite(values).all():
        raise ValueError("the function must carry complex numbers through, and give finite ones")
    return values.imag.ravel()


def check_analytic(along: Callable[[np.ndarray], Any], derivative: np.ndarray) -> None:
    """The complex step agrees with a difference quotient in one direction; for functions not analytic it would not."""
    direction, h = np.random.default_rng(0).normal(size=(derivative.shape[1],)), 1e-6
    quotient = (along(h * direction) - along(-h * direction)).ravel() / (2 * h)
    expected = derivative @ direction
    if np.abs(quotient - expected).max() > 1e-4 * max(np.abs(expected).max(), np.abs(quotient).max()):
        raise ValueError(
            "the complex step and a difference quotient disagree: the function is not analytic here, or not computed "
            "so that complex numbers pass through"
        )


def singular_values(derivative: np.ndarray, noise: float = NOISE) -> np.ndarray:
    """Of the Jacobian with columns of length one, so that the sizes of the parameters do not matter.

    Columns shorter than ``noise`` times the longest are zero up to rounding, and stay so: brought to length one, the
    rounding would count as rank.
    """
    lengths = np.linalg.norm(derivative, axis=0)
    seen = lengths > noise * lengths.max()
    triangle = np.linalg.qr(derivative * seen / np.where(seen, lengths, 1), mode="r")  # small, with the same values
    return np.linalg.svd(triangle, compute_uv=False)


# -- functions that carry complex numbers through ----------------------------------------------------------------------


def analytic_softmax(scores: Any, keep: Any = None) -> Any:
    """Row softmax without subtracting the largest score, which is no analytic function. For scores of order 1."""
    weights = np.exp(scores)
    if keep is not None:
        weights = np.where(keep, weights, 0)
    return weights / weights.sum(axis=-1, keepdims=True)


def analytic_rms_norm(z: Any) -> Any:
    """RMSNorm without gain and without the small constant under the root."""
    return z / np.sqrt((z * z).mean(axis=-1, keepdims=True))


def layer_norm(gain: Any, eps: float) -> Callable[[Any], Any]:
    root = rms_norm(gain, eps)
    return lambda z: root(z - z.mean(axis=-1, keepdims=True))


# -- layers and networks of a given shape ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sequences:
    """A core that reads many sequences of ``length`` tokens, one below the other, as if each stood alone.

    To the heads of ``core`` every sequence is a further group of heads, so nothing grows with the square of all tokens.

    >>> x = np.random.default_rng(0).normal(size=(6, 4))
    >>> two = Sequences(Heads(2, mask=causal(3)), 3)(x, x, x)
    >>> bool(np.allclose(two[3:], Heads(2, mask=causal(3))(x[3:], x[3:], x[3:])))
    True
    """

    core: Heads
    length: int

    def __call__(self, q: Any, k: Any, v: Any) -> Any:
        count, rest = divmod(len(q), self.length)
        if rest:
            raise ValueError(f"{len(q)} tokens are no whole number of sequences of {self.length}")
        if self.core.bias is not None or self.core.correction is not None:
            raise ValueError("a bias or a correction of the scores has a table for each head, not for each sequence")
        core = replace(self.core, heads=count * self.core.heads, groups=count * self.core.kv_heads)
        out = core(*(self.abreast(z) for z in (q, k, v)))
        return out.reshape(self.length, count, -1).swapaxes(0, 1).reshape(len(q), -1)

    def abreast(self, z: Any) -> Any:
        """(sequences * length, width) -> (length, sequences * width)."""
        return z.reshape(-1, self.length, z.shape[-1]).swapaxes(0, 1).reshape(self.length, -1)


@dataclass(frozen=True)
class Functions:
    """What stands between the matrices. ``norms`` and ``rotate`` make functions: of a gain; of length and planes."""

    pattern: Callable[[Any, Any], Any]
    activations: Mapping[str, Callable[[Any], Any]]
    norms: Mapping[str, Callable[[Any], Callable[[Any], Any] | None]]
    rotate: Callable[[int, Sequence[int]], Callable[[Any], Any]]
    scale: Any = None


EPS = 0.1  # of the norms: far from zero, so that its effect stands out from rounding

ANALYTIC = Functions(
    analytic_softmax,
    {"GELU": gelu_tanh, "tanh": np.tanh, "ReLU": relu, "SwiGLU": swiglu},
    {
        "none": lambda gain: None,
        "RMSNorm": lambda gain: rms_norm(gain, EPS),
        "RMSNorm, eps 0": lambda gain: rms_norm(gain, 0.0),
        "LayerNorm": lambda gain: layer_norm(gain, EPS),
    },
    lambda n, planes: turning(n, planes),
)


def turning(n: int, planes: Sequence[int]) -> positions.Rope:
    """Rotations of n tokens: ``planes[c]`` planes turn at the frequency c, spread over (0, pi)."""
    frequencies = np.repeat(np.pi * (1 + np.arange(len(planes))) / (1.5 + len(planes)), planes)
    angles = np.arange(n)[:, None] * frequencies
    return positions.Rope(np.cos(angles), np.sin(angles))


def drawn(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Weights at a generic point: matrices that keep states of order one, gains around one, small biases."""
    rng = np.random.default_rng(seed)
    sizes = {name: shape[0] ** -0.5 for name, shape in shapes.items()} | {"E": 1.0, "P": 0.5}
    values = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    return {
        name: 1 + 0.3 * v if name.startswith("gain") else 0.5 * v if name.startswith("b_") else sizes[name] * v
        for name, v in values.items()
    }


# -- a layer


def layer_shapes(a: Layer) -> dict[str, tuple[int, ...]]:
    p, k = a.heads * a.head_width, a.kv_heads * a.head_width
    shapes: dict[str, tuple[int, ...]] = {"W_Q": (a.d, p), "W_K": (a.d, k), "W_V": (a.d, k), "W_O": (p, a.d)}
    for tie, name in (("Q=K", "W_Q"), ("K=V", "W_V")):
        if tie in a.variant:
            del shapes[name]
    if a.biases:
        shapes |= {"b_Q": (1, p), "b_K": (1, k), "b_V": (1, k), "b_O": (1, a.d)}
    return shapes | ({"gain_Q": (a.head_width,), "gain_K": (a.head_width,)} if a.qk_norm == "gains" else {})


def built_layer(a: Layer, weights: Mapping[str, Any], length: int) -> Attention:
    """The layer of this shape with these weights; W_K stands for what it is tied to."""
    norms = {name: weights.get(f"gain_{name}") for name in "QK"}
    eps = EPS if a.qk_norm == "eps > 0" else 0.0
    norm_q, norm_k = (rms_norm(gain, eps) if a.qk_norm != "none" else None for gain in norms.values())
    rotate = turning(length, a.planes) if a.planes else None
    core = Heads(a.heads, a.groups, pattern=analytic_softmax, rotate=rotate, norm_q=norm_q, norm_k=norm_k)
    given = {name: weights.get(name, weights["W_K"]) for name in ("W_Q", "W_K", "W_V", "W_O")}
    return Attention(Sequences(core, length), **given, **{n: b for n, b in weights.items() if n.startswith("b_")})


Point = tuple[Callable[..., Any], dict[str, np.ndarray]]  # a function of parameters, in this order, and a point


def layer_function(a: Layer, sequences: int | None = None, length: int = 4, seed: int = SEED) -> Point:
    """The outputs of a layer of this shape on random sequences, as a function of its parameters; and random ones."""
    weights = drawn(layer_shapes(a), seed)
    count = sequences or ceil(1.5 * a.parameters / (a.d * length))
    x = np.random.default_rng(seed + 1).normal(size=(count * length, a.d))
    return lambda *given: built_layer(a, dict(zip(weights, given, strict=True)), length)(x), weights


def layer_dimension(a: Layer, sequences: int | None = None, length: int = 4, seed: int = SEED) -> Dimension:
    """Of the functions X -> attention(X) of a layer of softmax heads, near random weights, on random sequences.

    ``sequences``: how many, each of ``length`` tokens that all see each other; enough for 1.5 outputs a parameter
    unless given. Raises ValueError where the rank is not clear.

    >>> layer_dimension(Layer(4, 2, 2)).rank
    48
    """
    function, weights = layer_function(a, sequences, length, seed)
    return functional_dimension(function, [*weights.values()])


def head_dimension(a: Layer, query_rank: int | None = None, seed: int = SEED) -> Dimension:
    """Of the pairs (W_Q W_K^T, W_V W_O) of one head, near random weights; with RoPE of all W_Q R_t W_K^T and W_V W_O.

    ``query_rank``: of the point's W_Q, full unless given. Raises ValueError for more than one head.

    >>> head_dimension(Layer(5, 1, 2)).rank
    32
    """
    if a.heads != 1 or a.biases or a.qk_norm != "none":
        raise ValueError("these are the products of one head without biases and QK-norm; a layer has layer_dimension")
    weights = drawn(layer_shapes(a), seed)
    if query_rank is not None:
        weights["W_Q"][:, query_rank:] = 0
    offsets = 2 * len(a.planes) + 1

    def products(*given: Any) -> Any:
        w = dict(zip(weights, given, strict=True))
        queries = np.repeat(w.get("W_Q", w["W_K"])[:, None, :], offsets, axis=1)  # d x offsets x width
        M = (turning(offsets, a.planes)(queries) if a.planes else queries) @ w["W_K"].mT
        N = w.get("W_V", w["W_K"]) @ w["W_O"]
        both = np.concatenate([M.ravel(), N.ravel()])
        return np.tile(both, ceil(a.parameters / both.size))  # as many outputs as there are weights

    return functional_dimension(products, [*weights.values()])


# -- a network


def network_shapes(a: Architecture) -> dict[str, tuple[int, ...]]:
    """Every parameter array by name; ``^l`` for those of layer l."""
    d, p, k, neurons = a.d, a.width, a.kv_width, a.inputs_of_a_neuron * a.hidden
    layer: dict[str, tuple[int, ...]] = {"W_up": (d, neurons), "W_down": (a.hidden, d)}
    biases: dict[str, tuple[int, ...]] = {"b_up": (1, neurons), "b_down": (1, d)}
    if a.heads:
        layer = {"W_Q": (d, p), "W_K": (d, k), "W_V": (d, k), "W_O": (p, d)} | layer
        biases = {"b_Q": (1, p), "b_K": (1, k), "b_V": (1, k), "b_O": (1, d)} | biases
    if a.queries != "own":
        del layer["W_Q"]
    layer |= biases if a.biases else {}
    ends = {"E": (a.vocab, d), "P": (a.context, d), "D": (d, a.outputs), "b_D": (1, a.outputs), "W_Q": (d, p)}
    unused = {
        "P": a.positions != "additive",
        "D": a.tied,
        "b_D": not a.biases,
        "W_Q": a.queries != "shared",
    }
    shapes: dict[str, tuple[int, ...]] = {name: shape for name, shape in ends.items() if not unused.get(name)}
    shapes |= {f"{name}^{n}": shape for n in range(a.layers) for name, shape in layer.items()}
    return shapes | ({f"gain^{state}": (d,) for state in range(a.states)} if a.gains else {})


def built_network(
    a: Architecture, weights: Mapping[str, Any], sequences: int, functions: Functions = ANALYTIC
) -> Callable[[Any], Any]:
    """The network of this shape with these weights, as a function of ``sequences`` sequences of tokens."""
    norms = [functions.norms[a.norm](weights.get(f"gain^{state}")) for state in range(a.states)]
    blocks = [built_block(a, layer, weights, norms, functions) for layer in range(a.layers)]
    table = np.concatenate([weights["P"]] * sequences) if "P" in weights else None
    network = Network(weights["E"], blocks, weights.get("D"), table, norms[-1])
    return lambda tokens: network(tokens) + weights.get("b_D", 0)


def built_block(
    a: Architecture, layer: int, weights: Mapping[str, Any], norms: Sequence[Any], functions: Functions
) -> Any:
    """A ``Block``; without attention a function like one."""
    own = {name.removesuffix(f"^{layer}"): w for name, w in weights.items() if name.endswith(f"^{layer}")}
    act, around_mlp = functions.activations[a.activation], a.topology in ("TM", "T2")
    mlp = MLP(act, **{name: own[name] for name in ("W_up", "W_down", "b_up", "b_down") if name in own})
    if not a.heads:
        return lambda x: past(around_mlp, x, mlp(normed(norms[layer], x)))
    rotate = functions.rotate(a.context, a.planes) if a.planes else None
    mask = causal(a.context)
    core = Heads(a.heads, a.groups, mask=mask, pattern=functions.pattern, rotate=rotate, scale=functions.scale)
    given = {name: own[name] for name in ("W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O") if name in own}
    queries = {"own": own.get("W_Q"), "shared": weights.get("W_Q"), "identity": np.eye(a.d, dtype=int)}[a.queries]
    attention = Attention(Sequences(core, a.context), W_Q=queries, **given)
    before, between = norms[2 * layer : 2 * layer + 2]
    return Block(attention, mlp, a.topology in ("TA", "T2"), around_mlp, before, between)


def inputs_for(a: Architecture, sequences: int | None, outputs: float, seed: int) -> tuple[int, np.ndarray]:
    """How many sequences, and their tokens one-hot; without attention random rows, of which there can be more.

    ``sequences``: enough for so many ``outputs`` a parameter if None.
    """
    count = sequences or ceil(outputs * parameters(a) / (a.outputs * a.context))
    while True:
        rng, rows = np.random.default_rng(seed + 1), count * a.context
        if not a.heads:
            return count, rng.normal(size=(rows, a.vocab))
        tokens = rng.integers(a.vocab, size=rows)
        if sequences or seen(tokens.reshape(count, -1)) * (a.d - (a.norm != "none")) >= parameters(a) or count > MANY:
            return count, np.eye(a.vocab)[tokens]
        count += -(-count // 4)


MANY = 500  # sequences


def seen(tokens: np.ndarray) -> int:
    """How many different beginnings the sequences have: a causal network gives no more rows."""
    return sum(len(np.unique(tokens[:, : end + 1], axis=0)) for end in range(tokens.shape[1]))


def network_function(a: Architecture, sequences: int | None = None, seed: int = SEED) -> Point:
    """As ``layer_function``, of a whole causal network on random sequences of tokens."""
    weights = drawn(network_shapes(a), seed)
    count, tokens = inputs_for(a, sequences, 2.0, seed)
    return lambda *given: built_network(a, dict(zip(weights, given, strict=True)), count)(tokens), weights


def network_dimension(a: Architecture, sequences: int | None = None, seed: int = SEED) -> Dimension:
    """Of the functions tokens -> outputs of a causal network, near random weights, on random sequences.

    ``sequences``: how many, each of ``context`` tokens; enough for two outputs a parameter unless given. Softmax,
    GELU in its tanh form, norms with an eps of 0.1 but where it is 0. Raises ValueError where the rank is not clear.

    >>> network_dimension(Architecture()).rank
    124
    """
    function, weights = network_function(a, sequences, seed)
    return functional_dimension(function, [*weights.values()])
