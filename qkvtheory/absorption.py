"""MLPs that take a linear map into themselves: flipped units, and spare ones.

An MLP B absorbs a linear map M if another MLP computes x M + B(x). Where phi(z) - phi(-z) = c z (ReLU, GELU, SiLU,
softplus: c = 1; leaky ReLU of slope a: c = 1 + a), a unit with its sign turned differs from the old one by a linear
map. ``flip`` turns units, ``absorbing_set`` looks for units whose turning absorbs M, and ``spare_units`` and
``spare_units_sharp`` add units that absorb any M. So ``eliminate_with_spare_units`` makes every W_Q of a network with
all its skips the identity.

The constant c is measured on a few points between 0.01 and 30 (on fractions between 1/2 and 7), which tells the usual
activations apart but is no proof; give ``c`` yourself for words, or to vouch for an activation of your own. Units are
plain ones, phi(x u + b) w; gated MLPs are refused, since their units are products. As in ``gauge`` the constructions
use only ``@``, ``+`` and inverses, so they run on floats, on exact numbers and on words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from operator import index
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from qkvtheory import stacks
from qkvtheory.attention import like
from qkvtheory.checks import beside as bias_beside
from qkvtheory.checks import of, of_network, show, sound, square, unlike
from qkvtheory.errors import HypothesisError
from qkvtheory.linalg import concat, identity, inverse, symbolic
from qkvtheory.network import MLP, Block, Network

LAW = "phi(z) - phi(-z) = c z"
MOST_UNITS = 16  # the search for a set of units looks at all 2^m of them
SLACK = 64  # rounding units that a float activation may be off the law, or a sum of products off -M


def flip(mlp: MLP, units: Iterable[int] | None = None, c: Any = None) -> MLP:
    """The MLP with the input weights and biases of some units negated, and the output bias repaired.

    ``flip(mlp, S)(x) == mlp(x) - c x W_up[:, S] W_down[S, :]``. So it computes x M + mlp(x) exactly if
    c W_up[:, S] W_down[S, :] = -M (claim sign-flip-identity). ``units``: their numbers; all of them if not given (in
    words a group of units is an MLP of its own). ``c``: see above. W_up is d x m, W_down m x d', biases are rows.

    Raises HypothesisError "phi(z) - phi(-z) = c z", "no gate", "shapes agree" and as ``gauge.rebase`` does; ValueError
    or TypeError for units the MLP does not have.
    Source: Mijoski and Karbevski, arXiv 2604.23705; biases, general M and c are ours.

    >>> relu = lambda z: np.maximum(z, 0)
    >>> flip(MLP(relu, np.array([[1.0, 2.0]]), np.array([[3.0], [5.0]])), [1]).W_up.tolist()
    [[1.0, -2.0]]
    """
    check_units(mlp)
    c, (on, sign) = odd_slope(mlp, c), marks(mlp, units)
    if mlp.b_up is None:
        return replace(mlp, W_up=sign * mlp.W_up)
    b_up = mlp.b_up if units is None else on * mlp.b_up
    b_down = added(mlp.b_down, times(c, b_up @ mlp.W_down))
    return replace(mlp, W_up=sign * mlp.W_up, b_up=sign * mlp.b_up, b_down=b_down)


def absorbing_set(mlp: MLP, M: Any, c: Any = None) -> tuple[int, ...] | None:
    """The smallest set S of units with c W_up[:, S] W_down[S, :] = -M, or None: then flipping them absorbs M.

    For ReLU without biases and non-degenerate weights nothing else does at this width (claim relu-absorption-iff). All
    2^m sets are looked at, so m is at most 16 (ValueError). Floats are compared up to rounding. ``M``: d x d', the same
    kind of numbers as the weights. Raises HypothesisError as ``flip`` does.

    >>> relu = lambda z: np.maximum(z, 0)
    >>> absorbing_set(MLP(relu, np.array([[1.0, 2.0]]), np.array([[3.0], [5.0]])), np.array([[-10.0]]))
    (1,)
    """
    check_units(mlp, M)
    if symbolic(mlp.W_up):
        raise HypothesisError("numbers", "a set of units can be searched for among numbers only, not among words")
    m, c = mlp.W_up.shape[1], odd_slope(mlp, c)
    if m > MOST_UNITS:
        raise ValueError(f"{m} units have 2^{m} sets; the search takes at most {MOST_UNITS} units")
    U, W, target = (plain(a) for a in (mlp.W_up, mlp.W_down, M))
    terms = np.stack([np.outer(U[:, i], W[i]).ravel() for i in range(m)])
    sets = np.array([[number >> i & 1 for i in range(m)] for number in range(2**m)])
    gaps = abs(c * (sets @ terms) + target.ravel())
    if gaps.dtype == object:
        fitting = (gaps == 0).all(axis=1)
    else:
        size = abs(c) * (sets @ abs(terms)) + abs(target.ravel())  # of each set: a large unit outside excuses nothing
        fitting = (gaps <= SLACK * np.finfo(gaps.dtype).eps * size).all(axis=1)
    found = sorted((tuple(np.flatnonzero(row).tolist()) for row in sets[fitting]), key=lambda s: (len(s), s))
    return found[0] if found else None


def spare_units(mlp: MLP, M: Any, c: Any = None) -> MLP:
    """x M + mlp(x) with 2 rank M more units: inputs [U, -U], outputs [V; -V] / c where M = U V (claim spare-units).

    ``M`` is d x d'. In words M counts as of full rank: U = I, V = M, 2 d units. Raises HypothesisError as ``flip``
    does. Source: the note skips_fix_gauges of Karbevski for 2 d units; the version with the rank is ours.

    >>> relu = lambda z: np.maximum(z, 0)
    >>> mlp = spare_units(MLP(relu, np.eye(2), np.eye(2)), np.array([[1.0, 2.0], [2.0, 4.0]]))
    >>> mlp.W_up.shape, mlp(np.array([[-1.0, 1.0]])).round(9).tolist()
    ((2, 4), [[1.0, 3.0]])
    """
    check_units(mlp, M)
    U, V = factors(M)
    if U is None:
        return mlp
    return side_by_side(mlp, linear_units(mlp.act, U, V, odd_slope(mlp, c)))


def spare_units_sharp(mlp: MLP, M: Any, c: Any = None) -> MLP:
    """x M + mlp(x) with only d more units, if d columns of W_up are linearly independent (claim spare-units-sharp).

    The new units read -u_i for these columns u_i and write -s_i; the old ones write w_i + s_i, with
    s = U^-1 M / c. For ReLU and generic weights no fewer will do. In words W_up itself must be invertible: its units
    are a group of d. Raises HypothesisError "independent columns", "invertible" and as ``flip`` does. Source: ours.

    >>> relu = lambda z: np.maximum(z, 0)
    >>> mlp = spare_units_sharp(MLP(relu, np.eye(1), 2 * np.eye(1)), np.eye(1))
    >>> mlp.W_up.tolist(), mlp.W_down.tolist()
    ([[1.0, -1.0]], [[3.0], [-1.0]])
    """
    check_units(mlp, M)
    if not symbolic(M) and not (plain(M) != 0).any():
        return mlp
    c, (U, b, place) = odd_slope(mlp, c), basis_units(mlp)
    s = times(reciprocal(c), inverse(U, "the chosen columns of W_up") @ M)
    new = replace(mlp, W_down=mlp.W_down + place @ s)
    if b is None:
        return side_by_side(new, MLP(mlp.act, -1 * U, -1 * s))
    less = times(c, b @ s)
    new = replace(new, b_down=-1 * less if mlp.b_down is None else mlp.b_down - less)
    return side_by_side(new, MLP(mlp.act, -1 * U, -1 * s, -1 * b))


def linear_units(act: Callable[[Any], Any], U: Any, V: Any, c: Any) -> MLP:
    """The linear map x U V as an MLP: (phi(x U) - phi(-x U)) V / c. U is d x r, V r x d'."""
    out = times(reciprocal(c), V)
    return side_by_side(MLP(act, U, out), MLP(act, -1 * U, -1 * out))


def onto_identity(mlp: MLP, M: Any) -> MLP:
    """The MLP that must absorb the identity where ``mlp`` must absorb M: W_down M^-1, b_down M^-1 (absorb-reduction).

    x M + mlp(x) = (x + onto_identity(mlp, M)(x)) M. Raises HypothesisError if M is not square and invertible.
    """
    check_units(mlp, M, gated=True)
    back = inverse(M, "M")
    return replace(mlp, W_down=mlp.W_down @ back, b_down=mlp.b_down if mlp.b_down is None else mlp.b_down @ back)


def eliminate_with_spare_units(network: Network, c: Any = None, sharp: bool = False) -> Network:
    """All W_Q = I in a network with both skips around identity maps, the skips kept: paid for with hidden units.

    Every state gets the basis of the W_Q that reads it. The skips around the MLPs would then have to be learned maps
    A = W_Q^-1 W_Q' (``stacks.eliminate(stacks.learned_skips(network))``); instead each MLP absorbs A - I with 2 d more
    units, or d more (``sharp``). No parameters are saved: d^2 go, and 4 d^2 (2 d^2) come, in every layer.

    Raises HypothesisError as ``stacks.eliminate`` does ("no norm", "invertible", "untied readout", ...), and "phi(z) -
    phi(-z) = c z", "no gate", "independent columns" where units cannot be added. Claim spare-units. Source: Karbevski's
    note skips_fix_gauges for 2 d units; ours for d.

    >>> from qkvtheory import Attention, Heads
    >>> rng, relu = np.random.default_rng(0), lambda z: np.maximum(z, 0)
    >>> layers = [[rng.normal(size=(4, 4)) for _ in range(6)] for _ in range(2)]
    >>> blocks = [Block(Attention(Heads(2), *w[:4]), MLP(relu, *w[4:]), mlp_skip=True) for w in layers]
    >>> old = Network(rng.normal(size=(7, 4)), blocks, rng.normal(size=(4, 7)))
    >>> new = eliminate_with_spare_units(old)
    >>> bool(np.allclose(new(np.eye(7)), old(np.eye(7)))), new.blocks[1].mlp.W_up.shape
    (True, (4, 12))
    """
    return absorb_skips(stacks.eliminate(stacks.learned_skips(network)), c, sharp)


def absorb_skips(network: Network, c: Any = None, sharp: bool = False) -> Network:
    """Learned linear skips x A + mlp(x) become identity skips, and each MLP absorbs A - I in spare units."""
    of_network(network)
    made: dict[int, Block] = {}  # a block that stands in several places stays one block
    for block in network.blocks:
        if id(block) not in made:
            made[id(block)] = absorbed_skip(block, c, sharp)
    return replace(network, blocks=[made[id(block)] for block in network.blocks])


def absorbed_skip(block: Block, c: Any, sharp: bool) -> Block:
    skip = block.mlp_skip
    if isinstance(skip, bool):
        return block
    if block.mlp_norm is not None:
        raise HypothesisError("no norm", "a norm stands before the MLP, so it does not read what the skip carries")
    square("the learned skip", skip)
    add = spare_units_sharp if sharp else spare_units
    return replace(block, mlp=add(block.mlp, skip - identity(skip.shape[0], skip), c), mlp_skip=True)


# -- units -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Groups(MLP):
    """Words only, whose sizes do not add up: an MLP, and further groups of units that read the same and add theirs."""

    more: Sequence[MLP] = ()

    def __post_init__(self) -> None:
        if not symbolic(self.W_up):
            raise TypeError("units of numbers are put side by side in one MLP (side_by_side)")

    def __call__(self, y: Any) -> Any:
        total = super().__call__(y)
        for group in self.more:
            total = total + group(y)
        return total


def side_by_side(mlp: MLP, more: MLP) -> MLP:
    """The units of both MLPs in one: it computes mlp(x) + more(x). Both have the same activation, plain units."""
    if symbolic(mlp.W_up):
        return Groups(mlp.act, mlp.W_up, mlp.W_down, mlp.b_up, mlp.b_down, (*getattr(mlp, "more", ()), more))
    return MLP(
        mlp.act,
        concat([mlp.W_up, more.W_up]),
        concat([mlp.W_down.mT, more.W_down.mT]).mT,
        joined_bias(mlp, more),
        mlp.b_down if more.b_down is None else added(mlp.b_down, more.b_down),
    )


def joined_bias(mlp: MLP, more: MLP) -> Any:
    """The input biases as one row; zeros for a group without."""
    if mlp.b_up is None and more.b_up is None:
        return None
    rows = [0 * m.W_up[:1] if m.b_up is None else m.b_up.reshape(1, -1) for m in (mlp, more)]
    return concat(rows)


def basis_units(mlp: MLP) -> tuple[Any, Any, Any]:
    """d units with independent columns: U = W_up[:, I], their biases (or None), and the m x d matrix that finds I."""
    one = identity(mlp.W_up.shape[1], mlp.W_up)
    if symbolic(mlp.W_up):
        return mlp.W_up, mlp.b_up, one
    d, units = mlp.W_up.shape[0], pivots(mlp.W_up)
    if len(units) < d:
        raise HypothesisError(
            "independent columns",
            f"only {len(units)} columns of W_up are linearly independent, and {d} are needed; see spare_units",
        )
    b = None if mlp.b_up is None else mlp.b_up.reshape(1, -1)[:, units]
    return mlp.W_up[:, units], b, one[:, units]


def factors(M: Any) -> tuple[Any, Any]:
    """M = U V with as few columns of U as possible; (None, None) for the zero map. In words U is I."""
    if symbolic(M):
        return identity(M.shape[0], M), M
    columns = pivots(M)
    if not columns:
        return None, None
    if len(columns) == M.shape[0]:
        return identity(M.shape[0], M), M
    U = M[:, columns]
    if U.dtype != object:  # columns of length one at right angles: nothing ill-conditioned is inverted
        xp = array_namespace(U)
        U, _ = xp.linalg.qr(U)
        return U, U.mT @ M
    rows = pivots(U.mT)
    return U, inverse(U[rows, :], "a block of M") @ M[rows, :]


def pivots(a: Any) -> list[int]:
    """The numbers of independent columns, as many as the rank: the first that do, for floats the longest ones first."""
    chosen: list[int] = []
    left = plain(a)
    if left.dtype == object:
        left = np.frompyfunc(lambda x: Fraction(x) if isinstance(x, int) else x, 1, 1)(left)
        for column in range(left.shape[1]):
            row = next((r for r in range(len(chosen), len(left)) if left[r, column] != 0), None)
            if row is not None:
                left[[len(chosen), row]] = left[[row, len(chosen)]]
                pivot = left[len(chosen)]
                for r in range(len(chosen) + 1, len(left)):
                    left[r] = left[r] - pivot * (left[r, column] / pivot[column])
                chosen.append(column)
        return chosen
    left = left.astype(np.float64)
    smallest = max(left.shape) * np.finfo(plain(a).dtype).eps * np.linalg.norm(left, axis=0).max()
    for _ in range(min(left.shape)):
        lengths = np.linalg.norm(left, axis=0)
        longest = int(lengths.argmax())
        if lengths[longest] <= smallest:
            break
        direction = left[:, [longest]] / lengths[longest]
        left = left - direction @ (direction.T @ left)
        chosen.append(longest)
    return sorted(chosen)


def marks(mlp: MLP, units: Iterable[int] | None) -> tuple[Any, Any]:
    """Rows: 1 on the chosen units and 0 elsewhere, and -1 there and 1 elsewhere. Numbers if all are chosen."""
    if units is None:
        return 1, -1
    if symbolic(mlp.W_up):
        raise HypothesisError("numbers", "units have numbers in arrays only; in words make the group an MLP of its own")
    numbers, m = [index(unit) for unit in units], mlp.W_up.shape[1]
    if len(set(numbers)) < len(numbers) or not all(0 <= number < m for number in numbers):
        raise ValueError(f"units are different numbers from 0 to {m - 1}, not {numbers}")
    on = np.array([int(unit in numbers) for unit in range(m)])
    return on_like(on, mlp.W_up), on_like(1 - 2 * on, mlp.W_up)


def on_like(row: np.ndarray, a: Any) -> Any:
    return row.astype(object) if a.dtype == object else like(row.astype(np.float64), a)


# -- the activation ----------------------------------------------------------------------------------------------------


def odd_slope(mlp: MLP, c: Any = None) -> Any:
    """The c of phi(z) - phi(-z) = c z, measured on numbers of the kind of the weights; a given one is believed.

    Raises HypothesisError "phi(z) - phi(-z) = c z" if there is none, if it is 0, or if nothing can be measured.
    """
    if c is not None:
        if not c:
            raise HypothesisError(LAW, "c must not be 0: an even activation has no linear part")
        return c if symbolic(mlp.W_up) or mlp.W_up.dtype == object else float(c)
    if symbolic(mlp.W_up):
        raise HypothesisError(LAW, "nothing can be measured on words; give c, and with it your word for the law")
    exact = mlp.W_up.dtype == object
    steps = [Fraction(k, 2) for k in (1, 2, 3, 4, 6, 10, 14)] if exact else np.geomspace(0.01, 30, 40)
    z = 0 * mlp.W_up[:1, :1] + on_points(steps, mlp.W_up)
    up, down = mlp.act(z), mlp.act(-z)
    if getattr(up, "shape", None) != z.shape:
        raise HypothesisError(LAW, "the activation must give one number for each number it is given")
    up, down, z = plain(up), plain(down), plain(z)
    odd, c = up - down, ((up - down) / z)[-1, 0]
    rounding = 0 if exact else SLACK * np.finfo(z.dtype).eps * (abs(up) + abs(down) + abs(z))
    if not (c and (abs(odd - c * z) <= rounding).all()):
        raise HypothesisError(
            LAW,
            "the measured odd part of the activation is not a multiple of z, as it is for ReLU, GELU, SiLU, softplus "
            "and leaky ReLU",
        )
    return c if exact else float(c)


def on_points(steps: Any, a: Any) -> Any:
    """A column of numbers of the kind of ``a``: one unit at several inputs."""
    return np.array(steps, dtype=object)[:, None] if a.dtype == object else like(np.asarray(steps)[:, None], a)


def check_units(mlp: MLP, M: Any = None, gated: bool = False) -> None:
    """Plain units, phi(x u + b) w, with weights that fit, and a map M from what they read to what they write."""
    of(MLP, mlp, "the MLP")
    biases = {name: b for name in ("b_up", "b_down") if (b := getattr(mlp, name)) is not None}
    sound({"W_up": mlp.W_up, "W_down": mlp.W_down, **({} if M is None else {"M": M})}, biases)
    for name, bias in biases.items():
        bias_beside(name, bias, f"W_{name[2:]}", getattr(mlp, f"W_{name[2:]}"))
    if not gated and mlp.W_up.shape[1] != mlp.W_down.shape[0]:
        raise HypothesisError(
            "no gate",
            f"W_up is {show(mlp.W_up)} and W_down {show(mlp.W_down)}, so the activation joins columns, as a gate does; "
            "the constructions are for plain units phi(x u + b) w",
        )
    if M is not None and (M.shape[0] != mlp.W_up.shape[0] or M.shape[1] != mlp.W_down.shape[1]):
        raise unlike({"M": M, "W_up": mlp.W_up}, "M", "W_up", "M goes from what the MLP reads to what it writes")


def added(a: Any, b: Any) -> Any:
    return b if a is None else a + b


def times(c: Any, a: Any) -> Any:
    return a if c == 1 else c * a


def reciprocal(c: Any) -> Any:
    return 1 / c if isinstance(c, float) else Fraction(1) / c


def plain(a: Any) -> np.ndarray:
    """The numbers as a NumPy array, for decisions."""
    return np.asarray(a.detach().cpu() if hasattr(a, "detach") else a)
