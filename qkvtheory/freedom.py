"""How many parameters of a head, a layer, a network are redundant: the predictions, as sums of named parts.

A parameter direction is redundant if moving along it leaves the function where it is. Every number here is the
dimension of a symmetry that can be written down; ``qkvtheory.redundancy`` measures the same numbers as ranks, without
knowing the symmetries. Integers only. Claims dim-per-head, dim-per-layer, dim-network, wq-identity-cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb

from qkvtheory.errors import HypothesisError

CHOICES = {
    "topology": ("T0", "TA", "TM", "T2"),
    "norm": ("none", "RMSNorm", "RMSNorm, eps 0", "LayerNorm"),
    "positions": ("none", "additive", "RoPE"),
    "activation": ("GELU", "tanh", "ReLU", "SwiGLU"),
    "queries": ("own", "shared", "identity"),
}
PARTS = ("stream", "positions", "heads", "gains", "invisible to LayerNorm", "activation", "biases")
VARIANTS = ("QKV", "K=V", "Q=K", "Q=K=V")
QK_NORMS = ("none", "eps 0", "eps > 0", "gains")


@dataclass(frozen=True)
class Architecture:
    """The shape of a network: an embedding, ``layers`` of attention and MLP, a readout.

    d: width of the stream. heads, head_width, groups: query heads, their width, key/value heads (as many as query
    heads unless given). heads=0: no attention, a stack of MLPs on inputs of any ``vocab`` numbers. hidden: neurons of
    an MLP. vocab, outputs: rows of the embedding and columns of the readout. context: rows of an additive position
    table. topology: skips around neither sublayer (T0), attention only (TA), the MLP only (TM), both (T2). norm: a
    pre-norm before every sublayer and the readout; its eps is positive unless the name says otherwise. gains: do the
    norms have gains? positions: "RoPE" turns every plane of a head at a frequency of its own. activation: "SwiGLU" has
    two inputs for a neuron.
    biases: on the four projections, both MLP matrices and the readout. tied: the readout is the transposed embedding.
    queries: every layer has its W_Q, all share one, or every W_Q is the identity.

    Raises ValueError or TypeError for choices and sizes that describe no network.

    >>> Architecture().width, Architecture(heads=4, head_width=1, groups=1).kv_width
    (4, 1)
    """

    d: int = 4
    heads: int = 2
    head_width: int = 2
    groups: int | None = None
    layers: int = 1
    hidden: int = 5
    vocab: int = 5
    outputs: int = 5
    context: int = 4
    topology: str = "T2"
    norm: str = "none"
    gains: bool = False
    positions: str = "additive"
    activation: str = "GELU"
    biases: bool = False
    tied: bool = False
    queries: str = "own"

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; not {getattr(self, name)!r}")
        for name in ("d", "head_width", "layers", "hidden", "vocab", "outputs", "context"):
            check_size(name, getattr(self, name), 1)
        check_size("heads", self.heads, 0)
        check_consistent(self)

    @property
    def kv_heads(self) -> int:
        return self.heads if self.groups is None else self.groups

    @property
    def width(self) -> int:
        """Of all queries together."""
        return self.heads * self.head_width

    @property
    def kv_width(self) -> int:
        """Of all keys, or all values, together."""
        return self.kv_heads * self.head_width

    @property
    def inputs_of_a_neuron(self) -> int:
        return 2 if self.activation == "SwiGLU" else 1

    @property
    def states(self) -> int:
        """Hidden states: one before the first sublayer and one after each."""
        return 1 + self.layers * (2 if self.heads else 1)

    @property
    def planes(self) -> tuple[int, ...]:
        """The frequencies of RoPE in a head, as the number of planes at each; none without RoPE."""
        return (1,) * (self.head_width // 2) if self.positions == "RoPE" else ()

    @property
    def layer(self) -> Layer:
        """The shape of its attention layers."""
        return Layer(self.d, self.heads, self.head_width, self.groups, self.planes, biases=self.biases)


def check_size(name: str, size: object, least: int) -> None:
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"{name} must be a whole number, not {size!r}")
    if size < least:
        raise ValueError(f"{name} must be at least {least}, not {size}")


def check_consistent(a: Architecture) -> None:
    if a.groups is not None:
        check_size("groups", a.groups, 1)
        if a.heads % a.groups:
            raise ValueError(f"groups ({a.groups}) must divide heads ({a.heads})")
    if a.heads == 0 and (a.groups, a.positions, a.queries) != (None, "none", "own"):
        raise ValueError("without attention (heads=0) there are no groups, no positions and no choice of queries")
    if a.heads == 0 and a.topology not in ("T0", "T2"):
        raise ValueError("without attention (heads=0) the topology is T0 (no skips) or T2 (skips)")
    if a.positions == "RoPE":
        check_even(a.head_width)
    if a.gains and a.norm == "none":
        raise ValueError("gains belong to a norm; choose a norm, or gains=False")
    if a.tied and a.vocab != a.outputs:
        raise ValueError(f"a tied readout has as many outputs ({a.outputs}) as there are tokens ({a.vocab})")
    if a.queries == "identity" and a.width != a.d:
        raise ValueError(f"W_Q = I must be square: heads * head_width is {a.width}, d is {a.d}")


# -- the symmetries of one head ----------------------------------------------------------------------------------------


def commutant(head_width: int, planes: Sequence[int] = ()) -> int:
    """Dimension of the invertible matrices that commute with all rotations of RoPE. Claim rope-commutant.

    ``planes``: for each frequency the number of planes that turn at it; coordinates that are left do not turn.

    >>> commutant(4), commutant(4, (1, 1)), commutant(4, (2,)), commutant(4, (1,))
    (16, 4, 8, 6)
    """
    return sum(2 * k * k for k in planes) + unrotated(head_width, planes) ** 2


def orthogonal_commutant(head_width: int, planes: Sequence[int] = ()) -> int:
    """The same for orthogonal matrices: U(k) for k planes of one frequency, O(k) for k coordinates that do not turn.

    >>> orthogonal_commutant(4), orthogonal_commutant(4, (1, 1))
    (6, 2)
    """
    return sum(k * k for k in planes) + rotations(unrotated(head_width, planes))


def unrotated(head_width: int, planes: Sequence[int]) -> int:
    rest = head_width - 2 * sum(planes)
    if rest < 0 or any(k < 1 for k in planes):
        raise ValueError(f"planes {tuple(planes)} do not fit into a head of width {head_width}")
    return rest


def rotations(d: int) -> int:
    """Dimension of the orthogonal matrices of size d."""
    return d * (d - 1) // 2


# -- one attention layer -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """The shape of one attention layer, X -> attention(X).

    d, heads, head_width, groups: as in ``Architecture``. planes: the frequencies of RoPE, see ``commutant``. qk_norm:
    "none", "eps 0", "eps > 0" (without gain) or "gains" (eps 0, and one gain for all queries, one for all keys, each as
    wide as a head). variant: which projections are one. biases: on all four projections.

    Raises ValueError or TypeError for what describes no layer.
    """

    d: int
    heads: int
    head_width: int
    groups: int | None = None
    planes: tuple[int, ...] = ()
    qk_norm: str = "none"
    variant: str = "QKV"
    biases: bool = False

    def __post_init__(self) -> None:
        for name in ("d", "heads", "head_width", "kv_heads"):
            check_size(name, getattr(self, name), 1)
        if self.heads % self.kv_heads:
            raise ValueError(f"groups ({self.groups}) must divide heads ({self.heads})")
        if self.variant.startswith("Q=K") and self.kv_heads != self.heads:
            raise ValueError("grouped heads have fewer keys than queries, so W_Q = W_K is not possible")
        check_choice("variant", self.variant, VARIANTS)
        check_choice("qk_norm", self.qk_norm, QK_NORMS)
        unrotated(self.head_width, self.planes)

    @property
    def kv_heads(self) -> int:
        return self.heads if self.groups is None else self.groups

    @property
    def parameters(self) -> int:
        q, k, d = self.heads * self.head_width, self.kv_heads * self.head_width, self.d
        weights = {"QKV": q + k + k, "K=V": q + k, "Q=K": k + k, "Q=K=V": k}[self.variant] + q
        gains = 2 * self.head_width if self.qk_norm == "gains" else 0
        return d * weights + gains + (q + k + k + d if self.biases else 0)


def layer_parts(a: Layer) -> dict[str, int]:
    """Redundant parameters of a layer at generic weights, by name: "scores" (a basis between queries and keys: GL, O
    where W_Q = W_K, less under RoPE and QK-norm), "values" (one between values and W_O), "scales" and "gains" of
    QK-norm, "key biases" and "value biases". Claim dim-per-layer.

    Raises HypothesisError "no wider than the stream" for head_width > d, "covered by the formulas" for combinations
    about which nothing is predicted.

    >>> layer_parts(Layer(8, 2, 4, qk_norm="gains"))
    {'scores': 0, 'values': 32, 'scales': 4, 'gains': 4, 'key biases': 0, 'value biases': 0}
    """
    check_narrow(a.head_width, a.d)
    check_layer_covered(a)
    return layer_formulas(a)


def layer_formulas(a: Layer) -> dict[str, int]:
    """The same without a look at the hypotheses."""
    g, width, normed = a.kv_heads, a.head_width, a.qk_norm != "none"
    rigid = normed or a.variant.startswith("Q=K")
    basis = orthogonal_commutant(width, a.planes) if rigid else commutant(width, a.planes)
    still = unrotated(width, a.planes)  # along these a key bias shifts all scores of a row alike
    return {
        "scores": 0 if a.qk_norm == "gains" else g * basis,
        "values": 0 if a.variant.endswith("K=V") else g * width**2,
        "scales": a.heads + g if a.qk_norm in ("eps 0", "gains") else 0,
        "gains": width if a.qk_norm == "gains" else 0,  # only the product of both gains matters
        "key biases": g * still if a.biases and not normed else 0,
        "value biases": g * width if a.biases else 0,
    }


def layer_redundancy(a: Layer) -> int:
    """The sum of ``layer_parts``.

    >>> layer_redundancy(Layer(6, 3, 2)), layer_redundancy(Layer(8, 4, 2, groups=2))
    (24, 16)
    """
    return sum(layer_parts(a).values())


def head_dimension(variant: str, d: int, head_width: int, rope: bool = False) -> int:
    """Dimension of the pairs (M, N) of one head, M = W_Q W_K^T and N = W_V W_O; with RoPE of all W_Q R_t W_K^T and N.

    variant: "QKV", "K=V", "Q=K" or "Q=K=V". Raises HypothesisError "no wider than the stream" for head_width > d.
    Claim dim-per-head.

    >>> [head_dimension(variant, 5, 2) for variant in VARIANTS]
    [32, 26, 25, 19]
    """
    head = one_head(variant, d, head_width, rope)
    return head.parameters - layer_redundancy(head)


def one_head(variant: str, d: int, head_width: int, rope: bool = False) -> Layer:
    if rope:
        check_even(head_width)
    return Layer(d, 1, head_width, planes=(1,) * (head_width // 2) if rope else (), variant=variant)


def check_layer_covered(a: Layer) -> None:
    normed, tied = a.qk_norm != "none", a.variant != "QKV"
    for wrong, what in (
        (normed and tied, "QK-norm with shared projections"),
        (normed and a.head_width == 1, "QK-norm of heads of width 1, which leaves signs"),
        (normed and a.biases, "QK-norm with biases"),
        (a.qk_norm == "gains" and bool(a.planes), "gains of a QK-norm under RoPE"),
        (a.biases and tied, "biases with shared projections"),
    ):
        if wrong:
            raise HypothesisError("covered by the formulas", f"{what}: nothing is predicted; measure it")


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; not {value!r}")


def check_narrow(head_width: int, d: int) -> None:
    if head_width > d:
        raise HypothesisError("no wider than the stream", f"a head is {head_width} wide, the stream {d}")


def check_even(head_width: int) -> None:
    if head_width % 2:
        raise ValueError(f"RoPE turns planes, so head_width must be even, not {head_width}")


# -- a whole network ---------------------------------------------------------------------------------------------------


def parameters(a: Architecture) -> int:
    """The number of parameters.

    >>> parameters(Architecture()), parameters(Architecture(gains=True, norm="RMSNorm"))
    (160, 172)
    """
    queries = {"own": a.layers, "shared": 1, "identity": 0}[a.queries] * a.d * a.width
    attention = a.d * (2 * a.kv_width + a.width)
    neurons = a.inputs_of_a_neuron * a.hidden
    mlp = a.d * (neurons + a.hidden)
    ends = a.vocab * a.d + (0 if a.tied else a.d * a.outputs) + (a.context * a.d if a.positions == "additive" else 0)
    gains = a.d * a.states if a.gains else 0
    writes = (2 if a.heads else 1) * a.d
    biases = a.layers * (a.width + 2 * a.kv_width + neurons + writes) + a.outputs if a.biases else 0
    return queries + a.layers * (attention + mlp) + ends + gains + biases


def free_bases(a: Architecture) -> int:
    """How many hidden states can have a basis of their own: those that no identity skip joins. Claim basis-segments.

    >>> [free_bases(Architecture(layers=2, topology=name)) for name in ("T0", "TA", "TM", "T2")]
    [5, 3, 3, 1]
    """
    return {"T0": a.states, "TA": a.layers + 1, "TM": a.layers + 1, "T2": 1}[a.topology]


def stream_symmetries(norm: str, d: int) -> int:
    """Dimension of the bases that one hidden state can take: all without a norm, otherwise those that the norm bears.

    >>> [stream_symmetries(norm, 4) for norm in CHOICES["norm"]]
    [16, 6, 7, 3]
    """
    check_choice("norm", norm, CHOICES["norm"])
    return {
        "none": d * d,
        "RMSNorm": rotations(d),
        "RMSNorm, eps 0": rotations(d) + 1,  # and a scale
        "LayerNorm": rotations(d - 1),  # the direction of all ones stays
    }[norm]


def kept_symmetries(a: Architecture) -> int:
    """Of those the ones that leave W_Q = I in a layer that reads the state: diag(G_h), undone inside the heads."""
    if a.norm == "none":
        return a.kv_heads * commutant(a.head_width, a.planes)
    if a.norm == "LayerNorm":  # every block keeps the direction of all ones
        return 0 if a.planes else a.kv_heads * rotations(a.head_width - 1)
    return a.kv_heads * orthogonal_commutant(a.head_width, a.planes) + (a.norm == "RMSNorm, eps 0")


def stream_part(a: Architecture) -> int:
    each = rotations(a.d) if a.tied else stream_symmetries(a.norm, a.d)
    if a.queries != "identity":
        return free_bases(a) * each
    read = 1 if a.topology == "T2" else a.layers  # bases of states that a W_Q reads
    return read * kept_symmetries(a) + (free_bases(a) - read) * each


def heads_part(a: Architecture) -> int:
    """A basis between queries and keys, and one between values and W_O, for each key/value head."""
    if not a.heads:
        return 0
    one = layer_formulas(a.layer)
    scores = {"own": a.layers, "shared": 1, "identity": 0}[a.queries]
    return scores * one["scores"] + a.layers * one["values"]


def invisible_part(a: Architecture) -> int:
    """One number for each column that reads a centered state, and for each row that writes to a state."""
    queries = 0 if a.queries == "identity" else a.width
    reads = a.layers * (queries + 2 * a.kv_width + a.inputs_of_a_neuron * a.hidden) + a.outputs
    writes = a.layers * (a.width + a.hidden)
    embeddings = a.vocab + (a.context if a.positions == "additive" else 0)
    return reads + writes + embeddings


def biases_part(a: Architecture) -> int:
    """Key and value biases, and a translation of every hidden state."""
    one = layer_formulas(a.layer) if a.heads else {}
    return a.layers * (one.get("key biases", 0) + one.get("value biases", 0)) + a.states * a.d


def parts(a: Architecture) -> dict[str, int]:
    """The formulas, without a look at their hypotheses: see ``redundancy``."""
    translation = a.d - (a.norm == "LayerNorm")  # E + 1c and P - 1c; along the ones it is invisible anyhow
    sizes = (
        stream_part(a),
        translation if a.positions == "additive" and not a.tied else 0,
        heads_part(a),
        a.d * a.states if a.gains else 0,
        invisible_part(a) if a.norm == "LayerNorm" else 0,
        a.layers * a.hidden if a.activation in ("ReLU", "SwiGLU") else 0,
        biases_part(a) if a.biases else 0,
    )
    return dict(zip(PARTS, sizes, strict=True))


def redundancy(a: Architecture) -> dict[str, int]:
    """Redundant parameters at generic weights: named parts, whose sum is parameters less functional dimension.

    Raises HypothesisError where the formulas do not apply: "as wide as the stream" (hidden, vocab and outputs must be
    at least d; without a skip around attention the values too), "no wider than the stream" (head_width at most d, at
    most d - 1 with LayerNorm), "enough tokens" (context and vocab are too small), "tokens seen past the norm" (the
    first norm sees only the embedding, and no skip leads past it), "covered by the formulas" (combinations about which
    nothing is predicted). Weights must be generic, and ReLU neurons on for some inputs and off for others.
    Claim dim-network.
    Source: M. Karbevski, note on skip connections as gauge fixes, 2026, for T0 and T2; the rest is ours.

    >>> redundancy(Architecture())
    {'stream': 16, 'positions': 4, 'heads': 16, 'gains': 0, 'invisible to LayerNorm': 0, 'activation': 0, 'biases': 0}
    """
    check_covered(a)
    return parts(a)


def dimension(a: Architecture) -> int:
    """Functional dimension: parameters less redundant ones.

    >>> dimension(Architecture())
    124
    """
    return parameters(a) - sum(redundancy(a).values())


def check_covered(a: Architecture) -> None:
    for name in ("hidden", "vocab", "outputs"):
        if getattr(a, name) < a.d:
            raise HypothesisError(
                "as wide as the stream",
                f"{name} is {getattr(a, name)}, less than d = {a.d}: a state is then not seen, or not filled, whole",
            )
    if a.heads:
        check_attention(a)
        check_tokens(a)
    for wrong, what in (
        (a.norm != "none" and a.d < 3, "a norm on a stream narrower than 3"),
        (a.biases and a.norm != "none", "biases with a norm"),
        (a.biases and a.queries != "own", "biases with shared or removed queries"),
        (a.biases and a.tied, "biases with a tied readout"),
        (a.tied and a.topology != "T2", "a tied readout without both skips"),
        (a.tied and a.norm not in ("none", "RMSNorm"), f"a tied readout with {a.norm}"),
        (a.tied and (a.gains or a.queries != "own"), "a tied readout with gains, or with shared or removed queries"),
        (a.queries == "shared" and (a.topology != "T2" or a.norm != "none"), "shared queries but for T2 without norm"),
        (a.queries == "identity" and a.gains, "W_Q = I with gains"),
    ):
        if wrong:
            raise HypothesisError("covered by the formulas", f"{what}: nothing is predicted; measure it")


def check_attention(a: Architecture) -> None:
    check_narrow(a.head_width, a.d - (a.norm == "LayerNorm"))  # of a centered state one direction is missing
    if a.topology in ("T0", "TM") and a.kv_width < a.d:
        raise HypothesisError(
            "as wide as the stream",
            f"the values are {a.kv_width} wide in all, less than d = {a.d}, and no skip leads past attention",
        )


def check_tokens(a: Architecture) -> None:
    """There are so many tokens that no read can be changed on all of them alike."""
    before_the_norm = a.norm != "none" and a.topology in ("T0", "TM")
    if before_the_norm and a.positions != "additive":
        raise HypothesisError(
            "tokens seen past the norm",
            "the first norm sees nothing but the rows of the embedding and no skip leads past it, so there is more "
            "freedom: a basis need not be orthogonal if the rows adapt; add positions, or a skip around attention",
        )
    few = f"{a.vocab} tokens in {a.context} places are too few for the formulas: "
    if before_the_norm and (a.vocab - 1) * (a.context - 1) <= a.d * (a.d + 1) // 2:
        raise HypothesisError("enough tokens", few + "the embeddings can adapt to a basis that is not orthogonal")
    if a.vocab == a.d and (a.tied or a.positions != "additive"):
        raise HypothesisError("enough tokens", few + "with d independent tokens a read or a write can act as a bias")
    if not enough_inputs(a):
        raise HypothesisError(
            "enough tokens", few + f"they make too few inputs to tell {parameters(a)} parameters apart"
        )


def enough_inputs(a: Architecture) -> bool:
    """What a token of a causal network sees, itself and the tokens before it (in their order, if that shows), can be
    so many things that outputs of rank d number twice the parameters.

    >>> enough_inputs(Architecture()), enough_inputs(Architecture(context=2))
    (True, False)
    """
    ordered, seen = a.positions != "none", 0
    for i in range(a.context):
        seen += a.vocab * (a.vocab**i if ordered else comb(a.vocab + i - 1, i))
        if seen * a.d >= 2 * parameters(a):
            return True
    return False


def query_identity_cost(a: Architecture) -> int:
    """Functional dimensions lost by imposing W_Q = I in all layers. Claim wq-identity-cost.

    Raises ValueError unless heads * head_width = d, HypothesisError as ``redundancy`` does.

    >>> [query_identity_cost(Architecture(layers=layers)) for layers in (1, 2, 3)]
    [0, 8, 16]
    >>> query_identity_cost(GPT2_SMALL)
    6208523
    """
    return dimension(replace(a, queries="own")) - dimension(replace(a, queries="identity"))


# -- the cases that are measured ---------------------------------------------------------------------------------------


def case(layers: int = 1, **choices: object) -> Architecture:
    return replace(Architecture(layers=layers), **choices)  # type: ignore[arg-type]


def named(cases: Sequence[tuple[str, Mapping[str, object], Sequence[int]]]) -> dict[str, Architecture]:
    """One case for each number of layers: "name, L = 1"."""
    return {f"{name}, L = {n}": case(n, **choices) for name, choices, depths in cases for n in depths}


ROTARY: dict[str, object] = {"positions": "RoPE"}
ROOT: dict[str, object] = {"norm": "RMSNorm"}
GAINS: dict[str, object] = {"norm": "RMSNorm", "gains": True}
LLAMA: dict[str, object] = {"activation": "SwiGLU", "groups": 1}

LAYERS: dict[str, Layer] = {
    "multi-head, heads of width 2": Layer(6, 3, 2),
    "multi-head, heads of width 3": Layer(6, 2, 3),
    "grouped, two KV heads": Layer(8, 4, 2, groups=2),
    "grouped, one KV head": Layer(8, 4, 2, groups=1),
    "RoPE, distinct frequencies": Layer(8, 2, 4, planes=(1, 1)),
    "RoPE, two equal frequencies": Layer(8, 2, 4, planes=(2,)),
    "RoPE on one plane of two": Layer(8, 2, 4, planes=(1,)),
    "QK-norm, eps 0": Layer(8, 2, 4, qk_norm="eps 0"),
    "QK-norm, eps > 0": Layer(8, 2, 4, qk_norm="eps > 0"),
    "QK-norm with shared gains, eps 0": Layer(8, 2, 4, qk_norm="gains"),
    "biases": Layer(6, 3, 2, biases=True),
    "biases and RoPE": Layer(8, 2, 4, planes=(1, 1), biases=True),
    "Q=K": Layer(8, 2, 4, variant="Q=K"),
    "K=V": Layer(8, 2, 4, variant="K=V"),
    "Q=K=V": Layer(8, 2, 4, variant="Q=K=V"),
}
"""The layers of the page, by name."""

CASES: dict[str, Architecture] = named(
    [
        *((f"no norm, {name}", {"topology": name}, (1, 2)) for name in ("T2", "TA", "TM", "T0")),
        *((f"RMSNorm, {name}", {**ROOT, "topology": name}, (1, 2)) for name in ("T2", "TA", "T0")),
        ("RMSNorm with gains, T2", GAINS, (1,)),
        *((f"RMSNorm, eps 0, {name}", {"norm": "RMSNorm, eps 0", "topology": name}, (1,)) for name in ("T2", "T0")),
        *((f"LayerNorm, {name}", {"norm": "LayerNorm", "topology": name}, (1, 2)) for name in ("T2", "T0")),
        ("LayerNorm with gains, T2", {"norm": "LayerNorm", "gains": True}, (1,)),
        ("RoPE, no norm, T2", ROTARY, (1, 2)),
        ("RoPE, RMSNorm with gains, T2", {**ROTARY, **GAINS}, (1, 2)),
        ("RoPE, RMSNorm with gains, SwiGLU, one KV head, T2", {**ROTARY, **GAINS, **LLAMA}, (1,)),
        ("SwiGLU, no norm, T2", {"activation": "SwiGLU"}, (1,)),
        ("ReLU, no norm, T2", {"activation": "ReLU"}, (1,)),
        ("one KV head, no norm, T2", {"groups": 1}, (1,)),
        *((f"biases everywhere, no norm, {name}", {"biases": True, "topology": name}, (1,)) for name in ("T2", "T0")),
        ("tied readout, no norm, T2", {"tied": True}, (1,)),
        ("tied readout, RMSNorm, T2", {"tied": True, **ROOT}, (1,)),
        ("shared W_Q, no norm, T2", {"queries": "shared"}, (2,)),
        ("all W_Q = I, no norm, T2", {"queries": "identity"}, (1, 2)),
    ]
)  # fmt: skip
"""The grid of the page, by name: d = 4, two heads of width 2; causal, GELU, additive positions unless said."""

NANO = Architecture(d=8, heads=4, head_width=2, hidden=32, vocab=8, outputs=8, context=8)
RESIDUAL = Architecture(
    heads=0, layers=3, hidden=8, vocab=6, outputs=6, context=1, positions="none", activation="tanh"
)  # fmt: skip

PUBLISHED: dict[str, Architecture] = {
    **{
        f"nanoGPT-like, {norm}{' with gains' if norm != 'none' else ''}, {name}".replace("none", "no norm"): replace(
            NANO, norm=norm, gains=norm != "none", topology=name
        )
        for norm in ("none", "LayerNorm")
        for name in ("T2", "T0")
    },
    **{
        f"three tanh blocks, {norm}, {name}".replace("none", "no norm"): replace(RESIDUAL, norm=norm, topology=name)
        for norm in ("none", "RMSNorm")
        for name in ("T2", "T0")
    },
}
"""One layer of the nanoGPT-like networks and the residual blocks of the skips note, with their published counts."""

GPT2_SMALL = Architecture(
    d=768, heads=12, head_width=64, layers=12, hidden=3072, vocab=50257, outputs=50257, context=1024, norm="LayerNorm"
)  # fmt: skip
"""The sizes of GPT-2 small, untied, without gains and biases: the formula of the cost leaves those out."""


def table(cases: dict[str, Architecture] | None = None) -> list[dict[str, object]]:
    """The predictions as rows: "name", "parameters", the named parts, "redundancy". Of all ``CASES`` unless given.

    >>> table({"small": Architecture()})[0]["redundancy"]
    36
    """
    rows = []
    for name, a in (CASES if cases is None else cases).items():
        found = redundancy(a)
        rows.append({"name": name, "parameters": parameters(a), **found, "redundancy": sum(found.values())})
    return rows
