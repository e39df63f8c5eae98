"""Redundant biases: what softmax does not see, and states that are shifted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qkvtheory import gauge
from qkvtheory.claims.degrees_of_freedom.common import (
    CHAPTER,
    OURS,
    bare,
    in_words,
    layer_redundancy,
    network_redundancy,
    one_head,
)
from qkvtheory.claims.every_skip.bases import NOTE
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source, call
from qkvtheory.lanes.settings import Setting, softmax
from qkvtheory.network import Attention, Block

# -- bias-gauge --------------------------------------------------------------------------------------------------------


def head(w: Any, **biases: str) -> Attention:
    """One softmax head with these biases, given with their widths. Its map ignores row constants, and has row sums 1."""
    drawn = {name: w.integers(name, "1", width) for name, width in biases.items()}

    def core(q: Any, k: Any, v: Any) -> Any:
        return w.softmax(q @ k.mT, law="key-bias-invisible", rows="value-bias-folds") @ v

    return one_head(w, core=core, **drawn)


def shifts(w: Any, *names: str) -> list[Any]:
    return [w.integers(name, "1", "d") for name in names]


def shifted(w: Any) -> Pairs:
    """A key bias, a value bias, and the states of a block with both skips, each by a shift of its own."""
    x, keys, values = w.integers("X", "n", "d"), head(w, b_K="h"), head(w, b_V="h", b_O="d")
    k, v = (w.integers(name, "1", "h") for name in ("s_K", "s_V"))
    return [
        (call(gauge.shift_biases(keys, keys=k), x), call(keys, x)),
        (call(gauge.shift_biases(values, values=v), x), call(values, x)),
        *translated(w, (True, True)),
    ]


def translated(w: Any, topology: tuple[Any, Any], **options: Any) -> Pairs:
    """A block between shifted states."""
    x = w.matrix("X", "n", "d")
    enter, middle, leave = shifts(w, "c_0", "c_1", "c_2")
    block = some_block(w, topology=topology, **options)
    new = gauge.translate(block, enter, leave, None if block.parallel else middle)
    return [(call(new, x + enter, name="block"), block(x) + leave)]


def some_block(w: Any, **options: Any) -> Block:
    return w.block(biases=True, W_Q=w.weight("W_Q", "d", "p"), **options)


def ends(w: Any) -> Pairs:
    """Embedding and positions of tokens that sum to one, and a readout with a bias."""
    (c,) = shifts(w, "c_1")
    E, P, one = w.matrix("E", "vocab", "d"), w.matrix("P", "n", "d"), w.ones("vocab")
    tokens = summing_to_one(w)
    x, D, b = w.matrix("X", "n", "d"), w.matrix("D", "d", "s"), w.matrix("b", "1", "s")
    return [
        (tokens @ (E + one @ c) + (P - c), tokens @ E + P),
        ((x + c) @ D + gauge.added(b, gauge.unread(c, D)), x @ D + b),
    ]


def summing_to_one(w: Any) -> Any:
    """Tokens with rows of sum 1, as one-hot rows have."""
    if in_words(w):
        return w.softmax(w.matrix("S", "n", "vocab"), rows="H3")
    tokens, one = w.tokens(), w.ones("vocab")
    tokens[:, :1] = tokens[:, :1] + 1 - tokens @ one
    return tokens


def more_of_it(w: Any) -> Pairs:
    """The ends; other topologies, a learned skip, parallel blocks; in numbers the real heads of the setting."""
    pairs = [*ends(w), *translated(w, (w.matrix("A", "d", "d"), False))]
    if w.lane != "exact":
        pairs += [*translated(w, (False, True)), *translated(w, (True, False), parallel=True)]
    keys, k = head(w, b_K="h"), w.integers("s_K", "1", "h")
    pairs.append((gauge.shift_biases(keys, keys=k).b_K, keys.b_K + k))  # softmax would not miss it
    if in_words(w):
        return pairs
    a, x = w.attention(biases=True), w.matrix("X", "n", "d")
    v = w.matrix("s_V", "1", "v")
    pairs.append((call(gauge.shift_biases(a, values=v), x), call(a, x)))
    if w.lane == "numeric":
        pairs.append((call(gauge.shift_biases(a, keys=w.matrix("s_K", "1", "k")), x), call(a, x)))
    return pairs


def key_bias_rotated(w: Any) -> Pairs:
    x, a, k = w.integers("X", "n", "d"), one_head(w), w.integers("s_K", "1", "h")
    q, keys, v = w.rotate(x @ a.W_Q), x @ a.W_K, x @ a.W_V
    return [(w.head(q, w.rotate(keys + k), v), w.head(q, w.rotate(keys), v))]


def rotary_asked(w: Any) -> Pairs:
    a = w.attention(biases=True)
    return [(gauge.shift_biases(a, keys=w.matrix("s_K", "1", "k")).b_K, a.b_K)]


def rows_below_one(w: Any) -> Pairs:
    """A map with other row sums, in the place of softmax."""
    x, a, v = w.integers("X", "n", "d"), head(w, b_V="h", b_O="d"), w.integers("s_V", "1", "h")
    sink = w.function("sink")
    a = replace(a, core=lambda q, k, v: sink(q @ k.mT) @ v)
    return [(gauge.shift_biases(a, values=v)(x), a(x))]


def tokens_of_any_sum(w: Any) -> Pairs:
    (c,) = shifts(w, "c_1")
    E, P, tokens = w.matrix("E", "vocab", "d"), w.matrix("P", "n", "d"), w.tokens()
    return [(tokens @ (E + w.ones("vocab") @ c) + (P - c), tokens @ E + P)]


def read_without_bias(w: Any) -> Pairs:
    """W_up keeps the bias it had."""
    x, (c,) = w.matrix("X", "n", "d"), shifts(w, "c_1")
    block = some_block(w, topology=(True, True))
    new = gauge.translate(block, c, c, c)
    return [(replace(new, mlp=replace(new.mlp, b_up=block.mlp.b_up))(x + c), block(x) + c)]


def write_without_bias(w: Any) -> Pairs:
    """Another shift after the skip, and W_down keeps the bias it had."""
    x, (c, after) = w.matrix("X", "n", "d"), shifts(w, "c_1", "c_2")
    block = some_block(w, topology=(True, True))
    new = gauge.translate(block, c, after, c)
    return [(replace(new, mlp=replace(new.mlp, b_down=block.mlp.b_down))(x + c), block(x) + after)]


def norm_asked(w: Any) -> Pairs:
    (c,) = shifts(w, "c_1")
    block = replace(some_block(w, topology=(True, True)), attention_norm=w.function("N"))
    return [(gauge.translate(block, c, c, c).attention.b_Q, block.attention.b_Q)]


def norm_between(w: Any) -> Pairs:
    x, (c,), N = w.matrix("X", "n", "d"), shifts(w, "c_1"), w.function("N")
    block = some_block(w, topology=(True, True))
    new = gauge.translate(block, c, c, c)
    return [(replace(new, mlp_norm=N)(x + c), replace(block, mlp_norm=N)(x) + c)]


def biases_measured(_: Any) -> Pairs:
    """Layers, less the bases of their heads; networks at d = 2, less bases of the stream, heads, and positions."""
    pairs = [
        (2 * heads * width**2 + 2 * heads * width, layer_redundancy(d, heads, width, biases=True))
        for d, heads, width in ((4, 2, 2), (4, 1, 4), (3, 1, 2))
    ]
    pairs.append((2 * (2 + 2**2) + 2 * 2, layer_redundancy(4, 2, 2, biases=True, planes=(1,))))
    pairs.append((2 + 4 + 4**2 + 2 + 4, layer_redundancy(4, 1, 4, biases=True, planes=(1,))))  # one plane of two
    without = {name: network_redundancy(topology=name, positions="RoPE") for name in ("T0", "T2")}
    for layers, topology, b in ((1, "T0", 3), (1, "T2", 1), (2, "T2", 1)):
        found = network_redundancy(topology=topology, layers=layers, biases=True)
        pairs.append((b * 2**2 + layers * (2 * 2**2 + 2 * 2) + (2 * layers + 1) * 2 + 2, found))
    for topology, known in without.items():  # with RoPE: b_V and the states, no b_K
        found = network_redundancy(topology=topology, positions="RoPE", biases=True)
        pairs.append((known + 2 + 3 * 2, found))
    return [*pairs, (network_redundancy(positions="RoPE") + 2 + 2, network_redundancy(positions="additive"))]


def bare_softmax(s: Setting) -> bool:
    """Heads of which softmax is the pattern, or any pattern whose rows sum to one in exact numbers, without biases."""
    given = s.features(s)
    small = s.d == 4 and s.heads == s.kv_heads
    return not s.biases and bare(s) and "softcap" not in given and (given.get("pattern", softmax) is softmax or small)


def rotary(s: Setting) -> bool:
    return "rotate" in s.features(s)


BIAS_GAUGE = Claim(
    id="bias-gauge",
    rank="remark",
    chapter=CHAPTER,
    title="Which biases are redundant",
    statement=(
        "In each layer $b_K$ may be anything, $Hd_h$ dimensions; and $b_V$ may be shifted by $s$ if $b_O$ is shifted by $-sW_O$, $Hd_h$ more (with $g$ key/value heads $gd_h$ each). "
        "If every read, the readout too, and every write has a bias, each hidden state may be translated by a row of its own, $h\\mapsto h+c$: "
        "reads take $b-cW$, the write after it $b+c'-c$. Skips do not tie these rows: $(2L+1)d$ dimensions for any skips. With additive positions, $E+\\mathbf1c$ "
        "and $P-\\mathbf1c$ give the same function, biases or not: $d$. (Measured as ranks; with RoPE the dimensions of $b_K$ are "
        "gone, but for those of coordinates that do not rotate.)"
    ),
    hypotheses=(
        Hypothesis("H1", "bare keys", "for $b_K$: no RoPE, no QK-norm, and a softmax of the scores"),
        Hypothesis("H2", "rows sum to one", "for $b_V$: the rows of every map sum to 1"),
        Hypothesis("H3", "one-hot tokens", "for $E$ and $P$: the rows of the token matrix sum to 1"),
        Hypothesis(
            "H4",
            "biases everywhere, no norm",
            "for translations: every read and write has a bias, and no norm reads the state",
        ),
    ),
    sources=(
        OURS,
        Source(NOTE.provenance, NOTE.key, note="translations are not tied by skips"),
    ),
    uses=("key-bias-invisible", "value-bias-folds"),
    lanes=("symbolic", "exact", "numeric", "rank"),
    sides=shifted,
    also=more_of_it,
    special={"rank": biases_measured},
    settings=bare_softmax,
    constructions=("shift_biases", "translate"),
    controls=(
        Control("H1", "RoPE acts on the biased keys", key_bias_rotated, lanes=("symbolic", "numeric")),
        Control(
            "H1",
            "asking for it with RoPE",
            rotary_asked,
            lanes=("exact", "numeric"),
            refused="bare scores",
            settings=rotary,
        ),
        Control(
            "H1",
            "RoPE: the dimensions of $b_K$ counted all the same",
            lambda _: [(2 * (2 + 2**2) + 2 * 4, layer_redundancy(4, 2, 2, biases=True, planes=(1,)))],
            lanes=("rank",),
        ),
        Control("H2", "a map whose rows do not sum to one", rows_below_one),
        Control("H3", "rows of tokens with any sum", tokens_of_any_sum),
        Control("H4", "a read that keeps its bias", read_without_bias),
        Control("H4", "a write that keeps its bias", write_without_bias),
        Control("H4", "a norm before the MLP", norm_between),
        Control("H4", "asking for it with a norm", norm_asked, refused="no norm"),
        Control(
            "construction",
            "one translation for all states, as if skips tied them",
            lambda _: [(2**2 + 2 * 2**2 + 2 * 2 + 2 + 2, network_redundancy(biases=True))],
            lanes=("rank",),
        ),
    ),
)
