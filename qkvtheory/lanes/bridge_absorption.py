"""The bridges of absorption: what the Python of ``absorption`` does to MLPs and networks, printed as lemmas.

The definitions are those of ``proofs/AbsorbingSkips.v``. In words a set of units is an MLP of its own, so all units are
turned, and spare units stand in groups beside the old ones; the constant of the activation is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qkvtheory.lanes.bridge_stacks import NAMES, UNITS, ends, network, stacked, unit, variables
from qkvtheory.lanes.rocq import Term, atom, rocq
from qkvtheory.lanes.symbols import LETTERS, Code, basis, biases_of, block, lemma, record
from qkvtheory.words import Word, opaque, symbol

HEADER = "From QKV Require Import Skipless AbsorbingSkips.\n"
LETTER = LETTERS | {name: name for name in ("U", "W", "M", "phi")} | {"bU": "b", "bD": "e", "phi": "map_mx phi"}
UNIT = "n d m (phi : R -> R) (U : 'M[R]_(d, m)) (b : 'rV[R]_m) (W : 'M[R]_(m, d)) (e : 'rV[R]_d)"


def phi(z: Word) -> Word:
    """An unknown function of every entry."""
    return opaque("phi", z.cols)(z)


def units(code: Code) -> Any:
    """An MLP of symbols with plain units."""
    return code.MLP(phi, symbol("U", "d", "m"), symbol("W", "m", "d"), symbol("bU", "1", "m"), symbol("bD", "1", "d"))


def printed(*words: Any) -> str:
    return f"({', '.join(rocq(word, LETTER) for word in words)})"


def bridge_run_units(code: Code) -> str:
    """One forward pass."""
    weights = Term("U"), Term("W"), Term("b", row=True), Term("e", row=True)
    value = code.MLP(Term.function("map_mx phi"), *weights)(Term("X"))
    return lemma("bridge_run_units", f"{UNIT} X", f"layer phi U b W e X = {value} :> 'M[R]_(n, d)")


def bridge_flip(code: Code) -> str:
    """All units turned around: the weights and biases of ``sign_flip_identity``."""
    new = code.flip(units(code), c=1)
    proved = "U *m signs R all, b *m signs R all, W, e + 1 *: (b *m on R all *m W)"
    made = printed(new.W_up, new.b_up, new.W_down, new.b_down)
    statement = f"let all := fun=> true in\n  ({proved}) = {made}"
    proof = "by rewrite /= on_all signs_all scale1r !mulmxN !mulmx1"
    return lemma("bridge_flip", UNIT.replace("n d", "d", 1).replace(" (phi : R -> R)", ""), statement, proof)


def bridge_onto_identity(code: Code) -> str:
    new = code.onto_identity(units(code), basis("M"))
    made = printed(new.W_up, new.b_up, new.W_down, new.b_down)
    variables = UNIT.replace("n d", "d", 1).replace(" (phi : R -> R)", "")
    return lemma("bridge_onto_identity", f"{variables} (M : 'M[R]_d)", f"(U, b, W *m invmx M, e *m invmx M) = {made}")


def groups(mlp: Any) -> list[Any]:
    """The groups of units of an MLP, each without the others."""
    return [mlp, *(inner for group in getattr(mlp, "more", ()) for inner in groups(group))]


def bridge_spare_units(code: Code) -> str:
    """What the old units and the spare ones read and write, and their biases."""
    old, first, second = groups(code.spare_units(units(code), symbol("M", "d", "d"), c=1))
    up = f"row_mx {printed(old.W_up)} (row_mx {printed(first.W_up)} {printed(second.W_up)})"
    down = f"col_mx {printed(old.W_down)} (col_mx {printed(first.W_down)} {printed(second.W_down)})"
    rows = printed(old.b_up, old.b_down) if (first.b_up, second.b_up) == (None, None) else "spare units have no biases"
    statement = f"(spare_reads U 1%:M, spare_writes 1 W M, (b, e)) = ({up}, {down}, {rows})"
    variables = UNIT.replace("n d", "d", 1).replace(" (phi : R -> R)", "")
    return lemma("bridge_spare_units", f"{variables} (M : 'M[R]_d)", statement, "by rewrite /spare_writes scale1r")


def bridge_spare_units_sharp(code: Code) -> str:
    """As many units as the stream is wide, all of them chosen: the weights and biases of ``spare_units_sharp``."""
    old = replace(units(code), W_up=basis("U"), W_down=symbol("W", "d", "d"), b_up=symbol("bU", "1", "d"))
    new, extra = groups(code.spare_units_sharp(old, symbol("M", "d", "d"), c=1))
    pairs = [(new.W_up, extra.W_up), (new.b_up, extra.b_up), (new.W_down, extra.W_down)]
    made = [f"{kind}_mx {printed(a)} {printed(b)}" for kind, (a, b) in zip(("row", "row", "col"), pairs, strict=True)]
    rest = printed(new.b_down) if extra.b_down is None else "spare units have no output bias"
    proved = "row_mx U (- (U *m p)), row_mx b (- (b *m p)), col_mx (W + p *m s) (- s), e - 1 *: (b *m p *m s)"
    statement = f"let p := picked R id in let s := sharp 1 id U M in\n  ({proved}) = ({', '.join(made)}, {rest})"
    proof = "by rewrite /sharp /= picked_all !mulmx1 !mul1mx invr1 !scale1r mulNmx !mulmxA"
    variables = "d (U W M : 'M[R]_d) (b e : 'rV[R]_d)"
    return lemma("bridge_spare_units_sharp", variables, statement, proof)


# -- networks ----------------------------------------------------------------------------------------------------------


def plain(code: Code, number: int) -> Any:
    """A block with both skips, all biases and plain units."""
    tag, hidden = f"^{number}", f"h{number}"
    old = block(code, True, True, biases=True, square="Q", tag=tag)
    weights = {"W_up": symbol(f"W_up{tag}", "d", hidden), "W_down": symbol(f"W_down{tag}", hidden, "d")}
    rows = {"b_up": symbol(f"b_up{tag}", "1", hidden), "b_down": symbol(f"b_down{tag}", "1", "d")}
    return replace(old, mlp=code.MLP(lambda z: opaque(f"act{tag}", z.cols)(z), **weights, **rows))


def show(word: Any) -> str:
    return atom(rocq(word, NAMES))


def widened(new: Any, number: int) -> str:
    """A block with two groups of spare units as a stage: their activation is that of the others, written ``phi``."""
    old, first, second = groups(new.mlp)
    h, extra = symbol("h", "n", f"h{number}"), symbol("h", "n", "d")
    spare = [rocq(group.act(extra), NAMES | {f"act^{number}": "phi"}) for group in (first, second)]
    if [group.b_up or group.b_down for group in (first, second)] != [None, None] or spare != ["phi h"] * 2:
        raise ValueError("the spare units of the theorem have no biases, and the activation of the others")
    act = f"(both phi (fun h => {rocq(old.act(h), NAMES)}))"
    up = f"(row_mx {show(old.W_up)} (row_mx {show(first.W_up)} {show(second.W_up)}))"
    down = f"(col_mx {show(old.W_down)} (col_mx {show(first.W_down)} {show(second.W_down)}))"
    skips = f"{new.attention_skip} {new.mlp_skip}".lower()
    rows = [show(row) for row in biases_of(replace(new, mlp=old))]
    rows[4] = f"(row_mx {rows[4]} 0)"
    inner = f"Block ({record(new.attention, NAMES)}) {act} {up} {down} {skips}"
    return f"Stage ({inner}) {' '.join(rows)} (fun X => X) (fun X => X) {str(new.parallel).lower()}"


def bridge_spare_network(code: Code) -> str:
    """W_Q = I in two blocks with both skips, which stay."""
    old = network(code, plain(code, 1), plain(code, 2))
    new = code.eliminate_with_spare_units(old, c=1)
    E, P, U = ends(new)
    made = f"Stack {E} {P} [:: {'; '.join(widened(b, i) for i, b in enumerate(new.blocks, 1))}] {U}"
    shapes = variables(("Q", "Q"))
    for i in "12":
        shapes = shapes.replace(f" g{i})", f" h{i})").replace(f" g{i}", "")
    statement = f"{unit(1, 'Q')} -> {unit(2, 'Q')} ->\n  spare_stack phi 1 ({stacked(old)}) = {made}"
    proof = "by move=> *; rewrite /spare_stack /= /repaired /widened /rebase_stage /rebase3 /= /query /projection"
    proof += f" /square /= !conform_mx_id !mulVmx // /spare_writes invr1 !scale1r {UNITS} !opprB ![- 1%:M + _]addrC"
    return lemma("bridge_spare_network", f"{shapes} (phi : R -> R)", statement, proof)


BRIDGES: dict[str, Callable[[Code], str]] = {
    "run_units": bridge_run_units,
    "flip": bridge_flip,
    "onto_identity": bridge_onto_identity,
    "spare_units": bridge_spare_units,
    "spare_units_sharp": bridge_spare_units_sharp,
    "spare_network": bridge_spare_network,
}
