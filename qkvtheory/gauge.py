"""Changes of basis that keep the function: the constructions behind the theorems of the book.

Each takes a layer and gives a layer of the same kind with other weights. They use only ``@`` and ``inverse``, so the
very functions below run on a user's float matrices, on exact numbers and on words; the symbolic and formal checks are
about them.

Before anything is computed every weight, bias and basis is looked at: plain arrays of finite real numbers, all of one
library, dtype and device, with sizes that fit. What does not is refused with a HypothesisError.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from qkvtheory.attention import Heads, like, softmax
from qkvtheory.checks import beside, check, check_block, fits, of, of_block, one_stream, sound, square
from qkvtheory.errors import HypothesisError
from qkvtheory.linalg import (
    complete_basis,
    concat,
    condition,
    fractions,
    identity,
    inverse,
    right_inverse,
    scalar,
    symbolic,
)
from qkvtheory.network import MLP, Attention, Block
from qkvtheory.positions import Rope


def reads(back: Any, *weights: Any) -> tuple[Any, ...]:
    """The weights that read x @ theta as ``weights`` read x, when theta @ back = I. Claim r-products.

    None for ``back``: the state is left as it is.
    """
    return weights if back is None else tuple(back @ weight for weight in weights)


def change_basis(attention: Attention, theta: Any, phi: Any = None) -> Attention:
    """The sublayer that reads x @ theta (and memory @ phi) where ``attention`` read x (and memory).

    The Reparametrization Lemma (arXiv 2510.23912): ``change_basis(a, theta)(x @ theta) == a(x)`` for every core, mask
    and bias.

    Parameters: ``theta`` d x d invertible; ``phi`` d_z x d_z invertible, for cross-attention (claim cross-attention-
    two-gauges).
    Returns an Attention with the same W_O and biases. Raises HypothesisError naming the hypothesis that fails.

    >>> import numpy as np
    >>> from qkvtheory.attention import Heads
    >>> a = Attention(Heads(1), *np.eye(2)[None].repeat(4, 0))
    >>> change_basis(a, np.diag([1.0, 2.0])).W_K.tolist()
    [[1.0, 0.0], [0.0, 0.5]]
    """
    check(attention, theta=theta, phi=phi)
    back = inverse(theta, "theta")
    back_memory = back if phi is None else inverse(phi, "phi")
    return moved(attention, back, back_memory)


def moved(attention: Attention, back: Any, back_memory: Any, leave: Any = None) -> Attention:
    """The sublayer that reads in other bases, and writes in the basis ``leave``; the biases of the three reads stay."""
    (W_Q,) = reads(back, attention.W_Q)
    W_K, W_V = reads(back_memory, attention.W_K, attention.W_V)
    W_O, b_O = carried(attention.W_O, leave), carried(attention.b_O, leave)
    return replace(attention, W_Q=W_Q, W_K=W_K, W_V=W_V, W_O=W_O, b_O=b_O)


def reparametrize(attention: Attention, which: str = "Q") -> tuple[Any, Attention]:
    """Make one projection the identity: (theta, new) with new.W_which = I and ``new(x @ theta) == attention(x)``.

    ``which`` is "Q", "K" or "V"; the named matrix must be square and invertible. A wide W_Q (d x p, p > d, of full row
    rank) is allowed too: its right inverse takes the place of the inverse, and the stream x @ theta becomes p wide
    (claim wide-query). Under grouped keys (GQA, MQA) only W_Q is square: W_K and W_V are refused (claim gqa-only-q; see
    ``select_columns``).

    Source: arXiv 2510.23912, Reparametrization Lemma, for square W_K and W_V; Graef, arXiv 2404.12362, for stacks
    without skips.

    >>> import numpy as np
    >>> from qkvtheory.attention import Heads
    >>> rng = np.random.default_rng(0)
    >>> a = Attention(Heads(2), *rng.normal(size=(4, 4, 4)))
    >>> theta, new = reparametrize(a, "K")
    >>> x = rng.normal(size=(3, 4))
    >>> bool(np.allclose(new(x @ theta), a(x)))
    True
    """
    if which not in ("Q", "K", "V"):
        raise ValueError(f"which must be 'Q', 'K' or 'V', not {which!r}")
    check(attention)
    one_stream(attention)
    theta, name = getattr(attention, f"W_{which}"), f"W_{which}"
    rows, cols = theta.shape
    if which != "Q" and rows != cols:
        raise HypothesisError(
            "square",
            f"{name} is {rows} x {cols}: under grouped keys only W_Q can become the identity (claim gqa-only-q); "
            "select_columns does what is possible for W_K and W_V",
        )
    try:
        back = right_inverse(theta, name) if which == "Q" else inverse(theta, name)
    except HypothesisError as refusal:
        if which == "Q":
            add_hint(refusal, attention)
        raise
    others = [f"W_{letter}" for letter in "QKV" if letter != which]
    moved = reads(back, *(getattr(attention, other) for other in others))
    made = dict(zip(others, moved, strict=True)) | {name: identity(cols, theta)}  # exact; back @ theta would be rounded
    return theta, replace(attention, **made)


def add_hint(refusal: HypothesisError, attention: Attention) -> None:
    """To the refusal of a singular W_Q: which of the other projections are square, so that they may do instead."""
    others = [f'"{c}"' for c in "KV" if len(set(getattr(attention, f"W_{c}").shape)) == 1]
    if refusal.hypothesis == "invertible" and others:
        refusal.args = (f"{refusal}; try {' or '.join(others)}",)


def reparametrize_cross(attention: Attention, which: str = "K") -> tuple[Any, Any, Attention]:
    """Cross-attention has two bases, so two projections become the identity: W_Q, and W_K or W_V.

    Returns (theta, phi, new) with ``new(x @ theta, memory @ phi) == attention(x, memory)``. Both named matrices must be
    square and invertible.
    """
    if which not in ("K", "V"):
        raise ValueError(f"which must be 'K' or 'V', not {which!r}")
    check(attention)
    theta, phi = attention.W_Q, getattr(attention, f"W_{which}")
    square("W_Q", theta)
    square(f"W_{which}", phi)
    new = change_basis(attention, theta, phi)
    return theta, phi, replace(new, W_Q=identity(theta.shape[1], theta), **{f"W_{which}": identity(phi.shape[1], phi)})


def select_columns(attention: Attention, which: str = "K") -> tuple[Any, Attention]:
    """Turn the columns of the named projections ("K", "V", "KV", ...) into unit vectors: (theta, new).

    With grouped keys W_K is d x g d_h with g d_h < d, so it cannot become the identity; but with theta = [W_K | U'] it
    becomes "the first g d_h coordinates" and costs no parameters (claim column-selection). At most d columns in all,
    and they must be independent. U' is an orthonormal complement for floats, unit vectors for exact numbers.
    """
    if not which or set(which) - set("QKV") or len(set(which)) < len(which):
        raise ValueError(f"which must name some of Q, K, V once each, such as 'K' or 'KV', not {which!r}")
    check(attention)
    one_stream(attention)
    names = [f"W_{letter}" for letter in which]
    columns = concat([getattr(attention, name) for name in names])
    theta = complete_basis(columns, " and ".join(names))
    new = change_basis(attention, theta)
    one, start = identity(theta.shape[0], theta), 0
    for name in names:
        stop = start + getattr(attention, name).shape[1]
        new = replace(new, **{name: one[:, start:stop]})
        start = stop
    return theta, new


def merge_single_head(attention: Attention) -> Attention:
    """One head, no RoPE, no QK-norm, no query or key bias: W_Q and W_V become I without any change of basis.

    W_K becomes W_K W_Q^T and W_O becomes W_V W_O; no matrix need be invertible (claim single-head-merge). The scale of
    the scores stays that of the old head width. The memory of a cross-attention may have a width of its own.

    A core other than ``Heads`` cannot be looked into: whoever passes one vouches that it reads queries and keys only
    through q k^T and multiplies the values from the left.
    """
    core = attention.core
    if isinstance(core, Heads):
        if core.heads > 1:
            raise HypothesisError("one head", f"{core.heads} heads would need {core.heads} merged matrices, not one")
        if core.rotate is not None or core.norm_q is not None or core.norm_k is not None:
            raise HypothesisError("bare scores", "RoPE or QK-norm stands between the two factors, so they do not merge")
    if any(b is not None for b in (attention.b_Q, attention.b_K, attention.b_V)):
        raise HypothesisError("no biases", "a bias on queries, keys or values does not merge; fold it first")
    check(attention)
    W_Q, W_K, W_V, W_O = attention.W_Q, attention.W_K, attention.W_V, attention.W_O
    if isinstance(core, Heads) and core.scale is None:
        core = replace(core, scale=W_Q.shape[1] ** -0.5)
    fits("W_K", W_K, "the transpose of W_Q", W_Q.mT)
    fits("W_V", W_V, "W_O", W_O)
    reads_x, reads_memory = identity(W_Q.shape[0], W_Q), identity(W_V.shape[0], W_V)
    return replace(attention, core=core, W_Q=reads_x, W_K=W_K @ W_Q.mT, W_V=reads_memory, W_O=W_V @ W_O)


def rebase(
    block: Block,
    enter: Any,
    leave: Any,
    middle: Any = None,
    memory: Any = None,
    invert: Callable[[Any, str], Any] | None = None,
) -> Block:
    """The block that reads x @ enter where ``block`` read x, and writes z @ leave where it wrote z.

    ``middle`` is the basis of the state between attention and MLP. An identity skip joins two states, which then have
    one basis: so by default ``middle`` is ``enter`` beside a skip around attention, and ``leave`` beside one around the
    MLP. A basis that is None leaves its state as it is. The new weights are

        enter^-1 W_Q, enter^-1 W_K, enter^-1 W_V, W_O middle, middle^-1 W_up, W_down leave

    with b_O and b_down as W_O and W_down; a learned skip A becomes (basis before)^-1 A (basis after). Bases are d x d.
    Those in which something is read must be invertible; beside a skip around attention only, ``leave`` need not be.
    ``memory``: the basis of what a cross-attention sublayer reads. ``invert``: how to invert a basis.

    Raises HypothesisError naming what fails: "one basis" (an identity skip joins states with different bases),
    "no norm" (a norm reads a state whose basis changes), "invertible", "shapes agree", ...
    Source: arXiv 2510.23912, for a skip around attention only; Graef, arXiv 2404.12362, without skips.
    """
    of_block(block)
    sound({name: b for name, b in (("enter", enter), ("leave", leave), ("middle", middle)) if b is not None}, {})
    invert = invert or remembered()
    middle = between(block, enter, leave, middle)
    check_block(block, enter=enter, middle=middle, leave=leave, memory=memory)
    back = invert(enter, "enter")
    back_middle = back if block.parallel else invert(middle, "middle")
    attention = moved(block.attention, back, back, middle)
    mlp = moved_mlp(block.mlp, back_middle, leave)
    back_memory = None if memory is None else invert(memory, "memory")  # also where nothing reads it
    cross = block.cross and moved(block.cross, back_middle, back_memory, middle)
    skips = {"attention_skip": linear(block.attention_skip, back, middle)}
    skips["mlp_skip"] = linear(block.mlp_skip, back_middle, leave)
    return replace(block, attention=attention, mlp=mlp, cross=cross, **skips)


def moved_mlp(mlp: MLP, back: Any, leave: Any) -> MLP:
    (W_up,) = reads(back, mlp.W_up)
    new = replace(mlp, W_up=W_up, W_down=carried(mlp.W_down, leave), b_down=carried(mlp.b_down, leave))
    if not hasattr(mlp, "more"):
        return new
    more: dict[str, Any] = {"more": tuple(moved_mlp(group, back, leave) for group in mlp.more)}
    return replace(new, **more)  # absorption.Groups, of words


def linear(skip: Any, back: Any, leave: Any) -> Any:
    """An identity skip and none stay; a learned one goes from the basis before it to the basis after it."""
    if isinstance(skip, bool):
        return skip
    (skip,) = reads(back, skip)
    return carried(skip, leave)


def remembered() -> Callable[[Any, str], Any]:
    """``inverse``, found once for each basis; for no basis there is none."""
    known: dict[int, tuple[Any, Any]] = {id(None): (None, None)}

    def invert(basis: Any, name: str) -> Any:
        if id(basis) not in known:
            known[id(basis)] = basis, inverse(basis, name)
        return known[id(basis)][1]

    return invert


def between(block: Block, enter: Any, leave: Any, middle: Any) -> Any:
    """The basis of the state between attention and MLP. Refuses bases that differ on the two sides of a skip."""
    if block.parallel:
        middle = leave
        joined = [("attention and MLP", block.attention_skip, enter, leave)]
    else:
        if middle is None:
            middle = enter if block.attention_skip is True else leave if block.mlp_skip is True else None
        joined = [("attention", block.attention_skip, enter, middle), ("the MLP", block.mlp_skip, middle, leave)]
    for what, skip, before, after in joined:
        if skip is True and not same(before, after):
            raise HypothesisError(
                "one basis", f"the skip around {what} carries its state on unchanged, so both its ends have one basis"
            )
    if block.cross is not None and not isinstance(block.attention_skip, bool) and not same(enter, middle):
        raise HypothesisError(
            "one basis", "one learned skip serves self- and cross-attention, so both its ends have one basis"
        )
    return middle


def same(a: Any, b: Any) -> bool:
    """The same basis: the same object, or equal matrices."""
    if a is b or a is None or b is None:
        return a is b
    if symbolic(a) or symbolic(b):
        return bool(a == b)
    return a.shape == b.shape and bool((a == b).all())


def carried(write: Any, basis: Any) -> Any:
    """A write, or a bias of one, in another basis of the state that it is added to."""
    return write if write is None or basis is None else write @ basis


def turn_heads(attention: Attention, keys: Any = None, values: Any = None) -> Attention:
    """The same sublayer in other bases inside the heads: W_Q G, W_K G^-T, W_V J, J^-1 W_O, with their biases.

    ``keys`` (G) is as wide as W_K, ``values`` (J) as W_V; both invertible, and for several heads they hold one square
    block for each key/value head on the diagonal (claim head-gauge). Query heads that share a key/value head turn with
    it (claim gqa-gauge). None leaves that pair alone. For G no QK-norm; with RoPE (``positions.Rope``) every block must
    commute with every rotation: in each plane it is a multiple of a rotation (claim rope-commutant). A core other than
    ``Heads`` cannot be looked into: whoever passes one vouches for blocks that fit it.

    Raises HypothesisError naming what fails ("same head spaces", "bare scores", "multi-head attention": a block for
    each query head where they share keys; "invertible", "square", "shapes agree"). Sources: Wang and Wang 2025; Tran
    and others 2025 (2410.04209); van Nierop 2024 (2412.14543).

    >>> import numpy as np
    >>> a = Attention(Heads(1), *np.eye(2)[None].repeat(4, 0))
    >>> turn_heads(a, keys=np.diag([2.0, 4.0])).W_K.tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    check(attention)
    core, bases = attention.core, {"keys": keys, "values": values}
    given = {name: basis for name, basis in bases.items() if basis is not None}
    sound({"W_Q": attention.W_Q, **given}, {})
    if keys is not None and isinstance(core, Heads) and (core.norm_q or core.norm_k):
        raise HypothesisError("bare scores", "QK-norm stands between the head's basis and its scores")
    for name, weight in (("keys", attention.W_K), ("values", attention.W_V)):
        if bases[name] is None:
            continue
        square(name, bases[name])
        if isinstance(core, Heads) and weight.shape[1] != bases[name].shape[0] == core.width(weight.shape[1]):
            raise HypothesisError(
                "multi-head attention",
                f"query heads that share a key head can only turn together: {name} has one block for each of the "
                f"{core.kv_heads} key/value heads, so it is {weight.shape[1]} x {weight.shape[1]}",
            )
        fits("W_" + name[0].upper(), weight, name, bases[name])
        if isinstance(core, Heads) and not symbolic(bases[name]):
            mixed = f"{name} mixes the coordinates of different heads; it must be one block for each on the diagonal"
            check_blocks(bases[name], core.kv_heads, bases[name], mixed)
    if keys is not None and isinstance(core, Heads) and core.rotate:
        check_rotation(core.rotate, keys, core.kv_heads)
    for_queries = over_groups(keys, core)
    W_Q, b_Q = carried(attention.W_Q, for_queries), carried(attention.b_Q, for_queries)
    against = None if keys is None else inverse(keys, "keys").mT
    W_K, b_K = carried(attention.W_K, against), carried(attention.b_K, against)
    W_V, b_V = carried(attention.W_V, values), carried(attention.b_V, values)
    (W_O,) = reads(None if values is None else over_groups(inverse(values, "values"), core), attention.W_O)
    return replace(attention, W_Q=W_Q, W_K=W_K, W_V=W_V, W_O=W_O, b_Q=b_Q, b_K=b_K, b_V=b_V)


def over_groups(basis: Any, core: Any) -> Any:
    """One block for each query head, on the diagonal: that of its key/value head."""
    if basis is None or not isinstance(core, Heads) or core.kv_heads == core.heads:
        return basis
    at, head = places(core, basis.shape[0])
    xp = array_namespace(basis)
    at, own = (xp.asarray(a, device=device(basis)) for a in (at, head[:, None] == head))
    whole = xp.take(xp.take(basis, at, axis=0), at, axis=1)
    return xp.where(own, whole, 0 * whole)


def places(core: Heads, keys: int) -> tuple[np.ndarray, np.ndarray]:
    """For every column of the query heads: the column of the key/value head it meets, and the number of its head."""
    width = keys // core.kv_heads
    head, column = np.divmod(np.arange(core.heads * width), width)
    return head * core.kv_heads // core.heads * width + column, head


def check_rotation(rotate: Any, keys: Any, heads: int) -> None:
    """Refuse a block that does not commute with every rotation of the table (for floats: by more than rounding)."""
    if not isinstance(rotate, Rope):
        raise HypothesisError("bare scores", "positions without a table stand between the head's basis and its scores")
    xp, width = array_namespace(keys), keys.shape[0] // heads

    def rotated(a: Any) -> Any:
        """a R_t for every row of the table; a Rope turns token t by R_t."""
        return rotate(xp.stack([a] * len(rotate.cos), axis=1))

    turns = rotated(identity(width, keys))
    for start in range(0, keys.shape[0], width):
        block = keys[start : start + width, start : start + width]
        gap = rotated(block) - turns @ block
        if (gap != 0).any() if keys.dtype == object else largest(gap) > rounding(keys) * largest(keys):
            raise HypothesisError(
                "bare scores",
                "RoPE stands between the head's basis and its scores, and keys does not commute with it; a multiple of "
                "a rotation in each plane does (claim rope-commutant)",
            )


def shift_biases(attention: Attention, keys: Any = None, values: Any = None) -> Attention:
    """The same sublayer with ``keys`` added to b_K, and ``values`` to b_V and their image taken from b_O.

    Both are rows, as wide as W_K and W_V; None adds nothing, and a bias that is missing counts as zero. Softmax ignores
    what a key bias adds to the scores of a row (claim key-bias-invisible), and its rows sum to one (claim value-bias-
    folds). A core other than ``Heads`` cannot be looked into: whoever passes one vouches for both, and for as many
    value heads as query heads. Raises HypothesisError "bare scores" for keys beside RoPE, QK-norm, soft-capping, a 2D
    correction or another row pattern than softmax; "shapes agree".

    >>> import numpy as np
    >>> a = Attention(Heads(1), *np.eye(2)[None].repeat(4, 0))
    >>> shift_biases(a, values=np.array([[1.0, 2.0]])).b_O.tolist()
    [[-1.0, -2.0]]
    """
    check(attention)
    core = attention.core
    rows = {name: row for name, row in (("keys", keys), ("values", values)) if row is not None}
    sound({"W_Q": attention.W_Q}, rows)
    for name, row in rows.items():
        weight = "W_" + name[0].upper()
        beside(name, row, weight, getattr(attention, weight))
    acts = isinstance(core, Heads) and (core.rotate or core.norm_q or core.norm_k or core.softcap or core.correction)
    if keys is not None and isinstance(core, Heads) and (acts or core.pattern is not softmax):
        raise HypothesisError("bare scores", "a key bias is invisible only to a softmax of bare scores")
    b_K, b_V, b_O = added(attention.b_K, keys), added(attention.b_V, values), attention.b_O
    if values is not None:
        b_O = added(b_O, -1 * (in_query_heads(values, core) @ attention.W_O))
    return replace(attention, b_K=b_K, b_V=b_V, b_O=b_O)


def in_query_heads(row: Any, core: Any) -> Any:
    """A row of the key/value heads as every query head meets it."""
    if not isinstance(core, Heads) or core.kv_heads == core.heads:
        return row
    xp = array_namespace(row)
    return xp.take(row, xp.asarray(places(core, row.shape[-1])[0], device=device(row)), axis=-1)


def added(bias: Any, more: Any) -> Any:
    """A bias that is None is zero, and so is what is added."""
    if bias is None or more is None:
        return more if bias is None else bias
    return bias + more


def translate(block: Block, enter: Any = None, leave: Any = None, middle: Any = None) -> Block:
    """The block that reads x + enter where ``block`` read x, and writes z + leave where it wrote z: its biases move.

    ``enter``, ``leave`` and ``middle`` (for the state between attention and MLP) are rows of width d, added to every
    token; None adds nothing. Unlike bases they may differ on the two sides of a skip (claim bias-gauge):

        reads lose the image of the shift, b - c W; writes gain the difference, b + c' - c (with a skip A: b + c' - c A)

    Biases that are missing are made. Raises HypothesisError "no norm" where a norm reads a shifted state, "no cross-
    attention", "shapes agree"; ValueError for a ``middle`` that a parallel block does not have. Source of the freedom:
    M. Karbevski, note on skip connections as gauge fixes, 2026.

    >>> import numpy as np
    >>> attention = Attention(Heads(1), *np.eye(2)[None].repeat(4, 0))
    >>> block = Block(attention, MLP(np.tanh, np.eye(2), np.eye(2)))
    >>> translate(block, enter=np.array([[1.0, 2.0]])).attention.b_Q.tolist()
    [[-1.0, -2.0]]
    """
    of_block(block)
    check_block(block, enter=None, middle=None, leave=None, memory=None)
    a, mlp = block.attention, block.mlp
    rows = {name: c for name, c in (("enter", enter), ("middle", middle), ("leave", leave)) if c is not None}
    sound({"W_up": mlp.W_up}, rows)
    for name, row in rows.items():
        beside(name, row, "W_down", mlp.W_down)
    if block.cross is not None:
        raise HypothesisError("no cross-attention", "the state that cross-attention reads would need a shift too")
    if block.parallel and middle is not None:
        raise ValueError("a parallel block has no state between its sublayers; leave middle None")
    between, after = (enter, leave) if block.parallel else (middle, middle)
    for norm, shift in ((block.attention_norm, enter), (block.mlp_norm, between)):
        if norm is not None and shift is not None:
            raise HypothesisError("no norm", "a norm reads a state that is shifted, and it sees the shift")
    reading = {f"b_{c}": added(getattr(a, f"b_{c}"), unread(enter, getattr(a, f"W_{c}"))) for c in "QKV"}
    writing = added(added(a.b_O, after), unskipped(enter, block.attention_skip))
    down = mlp.b_down
    if not block.parallel:
        down = added(added(down, leave), unskipped(middle, block.mlp_skip))
    mlp = replace(mlp, b_up=added(mlp.b_up, unread(between, mlp.W_up)), b_down=down)
    return replace(block, attention=replace(a, **reading, b_O=writing), mlp=mlp)


def unread(shift: Any, weight: Any) -> Any:
    """What a read of the shifted state has too much, to be taken off."""
    return None if shift is None else -1 * (shift @ weight)


def unskipped(shift: Any, skip: Any) -> Any:
    """What a skip carries of the shift before it, to be taken off."""
    if shift is None or skip is False:
        return None
    return -1 * shift if skip is True else unread(shift, skip)


def rescale_units(mlp: MLP, scale: Any, degree: int = 1) -> MLP:
    """The same MLP with its hidden units on other scales: columns of W_up times c, rows of W_down over c^degree.

    ``scale`` holds one positive number c for each of the m units, shape (m,). For activations with phi(c z) = c^degree
    phi(z): degree 1 for ReLU, 2 for its square. In a gated MLP (W_up is d x 2m, gate first) the linear half is scaled,
    whatever the gate's activation (claim activation-gauge). The activation is a function, which cannot be looked into:
    whoever passes one vouches for it. Raises HypothesisError "positive", "shapes agree".

    >>> import numpy as np
    >>> relu = lambda z: np.maximum(z, 0)
    >>> rescale_units(MLP(relu, np.eye(2), np.eye(2)), np.array([2.0, 4.0])).W_down.tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    of(MLP, mlp, "the MLP")
    sound({"W_up": mlp.W_up, "W_down": mlp.W_down}, {"scale": scale})
    units, wide = mlp.W_down.shape[0], mlp.W_up.shape[1]
    if scale.shape != (units,) or wide not in (units, 2 * units):
        raise HypothesisError(
            "shapes agree",
            f"scale has shape {tuple(scale.shape)} for {units} hidden units, and W_up is {wide} wide; pass one number "
            "for each unit, and W_up as wide as the units, or twice (gate first)",
        )
    if not bool((scale > 0).all()):
        raise HypothesisError("positive", "scale has entries that are not positive")
    if wide != units and degree != 1:
        raise ValueError(f"in a gated MLP the linear half is scaled, which is of degree 1, not {degree}")
    reading = scale if wide == units else concat([scale[None] * 0 + 1, scale[None]])[0]
    b_up = None if mlp.b_up is None else mlp.b_up * reading
    return replace(mlp, W_up=mlp.W_up * reading, W_down=quotient(mlp.W_down, (scale**degree)[:, None]), b_up=b_up)


def quotient(a: Any, b: Any) -> Any:
    """a / b; of whole numbers an exact fraction."""
    return fractions(a) / b if a.dtype == object else a / b


def align_heads(attention: Attention, shared: Any) -> Attention:
    """The same sublayer with W_Q = ``shared``, if every head of W_Q spans the same space as that head of ``shared``.

    Then W_Q = shared B with one invertible block of B for each head, and W_K takes it over: W_K B^T (claim shared-head-
    spaces). W_Q and ``shared`` are d x d, ``shared`` is invertible. As many key/value heads as query heads, no RoPE, no
    QK-norm, no query or key bias. A core other than ``Heads`` cannot be looked into: whoever passes one vouches for B
    and bare scores. Raises HypothesisError naming what fails ("same head spaces", "square", "bare scores",
    "multi-head attention", "invertible").
    """
    of(Attention, attention, "the sublayer")
    core = attention.core
    if isinstance(core, Heads):
        if core.kv_heads != core.heads:
            raise HypothesisError("multi-head attention", "query heads that share a key head cannot turn it apart")
        if core.rotate is not None or core.norm_q is not None or core.norm_k is not None:
            raise HypothesisError("bare scores", "RoPE or QK-norm stands between the head's basis and its scores")
    if attention.b_Q is not None or attention.b_K is not None:
        raise HypothesisError("bare scores", "a bias on queries or keys would have to turn with its head")
    check(attention, theta=shared)
    square("W_Q", attention.W_Q)
    (turn,) = reads(inverse(shared, "shared"), attention.W_Q)
    if isinstance(core, Heads) and not symbolic(turn):
        check_blocks(turn, core.heads, shared)
    return replace(attention, W_Q=shared, W_K=attention.W_K @ turn.mT)


LEAVES = "a head of W_Q leaves the space of that head of the shared matrix"


def check_blocks(turn: Any, heads: int, shared: Any, mixed: str = LEAVES) -> None:
    """Refuse a matrix that mixes the coordinates of different heads (for floats: by more than rounding)."""
    head = np.arange(turn.shape[0]) // (turn.shape[0] // heads)
    apart = head[:, None] != head
    if (turn[apart] != 0).any() if turn.dtype == object else largest(turn, apart) > rounding(shared) * largest(turn):
        raise HypothesisError("same head spaces", mixed)


def largest(a: Any, places: Any = True) -> float:
    """The largest absolute value of floats, at the places marked True."""
    size = abs(a)
    return scalar((size * like(np.asarray(places), size)).max())


def rounding(a: Any) -> float:
    """What a product with the inverse of ``a`` may be off, relative to its size.

    Where half of the digits are lost, and a warning has said so, rounding excuses no more.
    """
    eps = float(array_namespace(a).finfo(a.dtype).eps)
    return 64 * eps * min(condition(a), eps**-0.5)
