"""Rotary positions with keys as values."""

from __future__ import annotations

from typing import Any

import numpy as np

from qkvtheory import gauge, tying
from qkvtheory.attention import Heads, merge, repeat, split
from qkvtheory.claims.degrees_of_freedom.common import (
    in_words,
)
from qkvtheory.claims.keys_equal_values.common import (
    CHAPTER,
    OURS,
    beside,
    causal_heads,
    plainest,
    tied_layer,
)
from qkvtheory.claims.model import Claim, Control, Hypothesis, Pairs, Source
from qkvtheory.lanes import slow
from qkvtheory.positions import Rope, rational_rope, rope

# -- two tokens, positions as matrices ---------------------------------------------------------------------------------


def turn(w: Any) -> Any:
    """R_1: in words any invertible matrix, in numbers a rotation."""
    if in_words(w):
        return w.invertible("R", "h", "H1")
    return from_row(table(w)(2), 1, 1)(w.identity("h")[:, None])[:, 0]


def power(w: Any, R: Any, exponent: int) -> Any:
    return power(w, R, exponent - 1) @ R if exponent else w.identity("h")


def second_token(w: Any, matrices: Any, back: Any) -> Any:
    """sum_j f(q R_i R_j^-1 k_j^T) k_j R_j of the second of two tokens: ``matrices`` are R_j, R_i and ``back`` R_j^-1, R_i^-1."""
    q, keys = w.integers("q", "1", "h"), [w.integers(f"k^{j}", "1", "h") for j in (1, 2)]
    terms = [w.kernel(q @ matrices[1] @ b @ k.mT) @ k @ R for k, R, b in zip(keys, matrices, back, strict=True)]
    return terms[0] + terms[1]


def at(w: Any, start: int) -> tuple[Any, Any]:
    """What the second of two tokens at the positions ``start`` and ``start`` + 1 reads, as it is and turned back."""
    R = turn(w)
    forth, back = ([power(w, M, start + j) for j in (0, 1)] for M in (R, gauge.inverse(R)))
    y = second_token(w, forth, back)
    return y, y @ back[1]


def shift_invariant(w: Any) -> Pairs:
    """(b) The output turned back is the same at positions 0, 1 and 2, 3, and the one that the offsets give."""
    (_, here), (_, there) = at(w, 0), at(w, 2)
    R, q = turn(w), w.integers("q", "1", "h")
    k, own = (w.integers(f"k^{j}", "1", "h") for j in (1, 2))
    offsets = w.kernel(q @ R @ k.mT) @ k @ gauge.inverse(R) + w.kernel(q @ own.mT) @ own
    return [(there, here), (here, offsets)]


def plain_rotated(w: Any) -> Pairs:
    return [(at(w, 2)[0], at(w, 0)[0])]


def without_law(w: Any) -> Pairs:
    """A matrix for each position, with no law between them."""
    R = [w.invertible(f"P^{j}", "h", "H1") for j in range(4)]
    back = [gauge.inverse(M) for M in R]
    ys = [second_token(w, R[s : s + 2], back[s : s + 2]) @ back[s + 1] for s in (2, 0)]
    return [(ys[0], ys[1])]


# -- the package's layers ----------------------------------------------------------------------------------------------


def table(w: Any) -> Any:
    """n -> the rotations of n tokens, for heads of the setting's width."""
    width = w.sizes["h"]
    return (lambda n: rope(n, width)) if w.lane == "numeric" else (lambda n: rational_rope(n, width // 2))


def from_row(turns: Rope, start: int, n: int, sign: int = 1) -> Rope:
    """The rotations of n tokens from this position on, or their inverses."""
    return Rope(turns.cos[start : start + n], sign * turns.sin[start : start + n], turns.layout)


def rotated_sums(w: Any, start: int) -> tuple[Any, Any, Any]:
    """The heads' outputs with rotated values, from this position on: as they are, turned back, and by offsets."""
    layer, x, turns = tied_layer(w), w.matrix("X", "n", "d"), table(w)(w.sizes["n"] + start)
    n, core = len(x), causal_heads(w).at(len(x))
    here = from_row(turns, start, n)
    q, z = layer.queries(x), layer.stored(x)[0]
    heads = Heads(core.heads, core.groups, core.mask, core.scale, core.pattern, rotate=here)
    A, values = heads.maps(q, z), repeat(split(z, core.kv_heads, "values"), core.heads)
    y = A @ here(values)
    by_offset = [sum(A[:, i, j, None] * offset(turns, values[:, j], j - i) for j in range(i + 1)) for i in range(n)]
    return merge(y), merge(from_row(turns, start, n, -1)(y)), merge(np.stack(by_offset, axis=1))


def offset(turns: Rope, rows: Any, t: int) -> Any:
    """Each row (heads, width) turned by R_t."""
    return from_row(turns, abs(t), 1, 1 if t >= 0 else -1)(rows[:, None])[:, 0]


def layers_with_rotation(w: Any) -> Pairs:
    """(a) One cached array, turned at read, values as they are; (b) with real rotations; (c) a tied half."""
    layer, x = tied_layer(w, rotate=table(w)), w.matrix("X", "n", "d")
    y, cache = in_two_parts(layer, x)
    (_, here, by_offset), (_, there, _) = rotated_sums(w, 0), rotated_sums(w, 3)
    tied = half_tied(w)
    half, stored = in_two_parts(tied, x)
    return [
        *shift_invariant(w),
        (y, slow.attention(layer.attention(len(x)), x)),
        (beside(*cache), x @ layer.W_Z),
        (there, here),
        (by_offset, here),
        (half, slow.attention(half_written(tied, x), x)),
        (beside(*stored), x @ beside(tied.W_Z, tied.W_R)),
    ]


def in_two_parts(layer: Any, x: Any) -> tuple[Any, Any]:
    """Decoding the first tokens, then the others from the cache."""
    first, cache = layer.decode(x[:2])
    rest, cache = layer.decode(x[2:], cache)
    return np.concatenate([first, rest]), cache


def half_tied(w: Any) -> tying.HalfTied:
    """GTA with heads twice as wide as the setting's, half of them rotary."""
    W_Q, W_Z = (beside(*(w.matrix(name + half, "d", cols) for half in "ab")) for name, cols in (("Q", "p"), ("Z", "k")))
    W_O = np.concatenate([w.matrix("W_O" + half, "o", "d") for half in "ab"])
    return tying.HalfTied(
        core=causal_heads(w, rotate=table(w)), W_Q=W_Q, W_Z=W_Z, W_R=w.matrix("W_R", "d", "h"), W_O=W_O
    )


def half_written(tied: tying.HalfTied, x: Any) -> Any:
    """The plain sublayer, its keys put together column by column: the rotary key, then the last half of each value."""
    plain, width = tied.attention(len(x)), tied.W_R.shape[1]
    blocks = [tied.W_Z[:, g * 2 * width + width : (g + 1) * 2 * width] for g in range(tied.core.kv_heads)]
    keys = beside(*(block for tied_half in blocks for block in (tied.W_R, tied_half)))
    return type(plain)(plain.core, tied.W_Q, keys, tied.W_Z, tied.W_O)


def rotated_in_cache(w: Any) -> Pairs:
    """Keys rotated before they are stored, and read as values so."""
    layer, x = tied_layer(w, rotate=table(w)), w.matrix("X", "n", "d")
    return [(rotated_sums(w, 0)[0] @ layer.W_O, layer.attention(len(x))(x))]


def real_rotated(w: Any) -> Pairs:
    return [(rotated_sums(w, 3)[0], rotated_sums(w, 0)[0])]


def whole_key_tied(w: Any) -> Pairs:
    """The tied half in the place of the rotary key: rotated beside itself."""
    tied, x = half_tied(w), w.matrix("X", "n", "d")
    plain = tied.attention(len(x))
    return [(type(plain)(plain.core, tied.W_Q, tied.W_Z, tied.W_Z, tied.W_O)(x), plain(x))]


KV_ROPE = Claim(
    id="kv-rope",
    rank="remark",
    chapter=CHAPTER,
    title="Rotary positions with keys as values",
    statement=(
        "(a) With the unrotated $k$ in the cache, turned when it is read as a key, one entry serves as key and as value, and values are not "
        "turned. (b) With the rotated key as value, the output depends on absolute positions; turned back, "
        "$y_iR_i^{-1}=\\sum_jA_{ij}k_jR_{j-i}$, it depends on distances only. (c) Half tying (GTA) rotates a part of the key that is not "
        "tied: values and the rest of the key are one array. The symbolic lane checks (b) for two tokens, the others all three with the "
        "package's layers."
    ),
    hypotheses=(
        Hypothesis("H1", "rotations", "$R_iR_j^{-1}=R_{i-j}$, and $R_i$ is invertible"),
        Hypothesis("H2", "turned back", "in (b) the output of token $i$ is multiplied by $R_i^{-1}$"),
        Hypothesis("H3", "raw cache", "in (a) the cache holds $k$, not $kR$"),
    ),
    sources=(
        OURS,
        Source(
            "paper",
            "zadouri2025gta",
            name="Grouped-Tied Attention",
            note="half tying; rotating the tied half did worse",
        ),
    ),
    sides=shift_invariant,
    special={"exact": layers_with_rotation, "numeric": layers_with_rotation},
    settings=plainest,
    controls=(
        Control("H1", "a matrix for each position, without a law", without_law),
        Control("H2", "the rotated values as they are, claimed to depend on distances only", plain_rotated),
        Control("H2", "the same with real rotations", real_rotated, ("exact", "numeric")),
        Control("H3", "rotated keys in the cache, read as values", rotated_in_cache, ("exact", "numeric")),
        Control("construction", "the tied half in the place of the rotary key", whole_key_tied, ("exact", "numeric")),
    ),
)
