"""The bridges of norms and of what stops the eliminations: what ``norms``, ``rotations`` and ``stacks`` do, as lemmas.

The definitions are those of ``proofs/WhereItStops.v``. A norm is run on symbols, with an unknown function of the inner
products of the rows in the place of the inverse roots; gains are diagonal matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qkvtheory.lanes.bridge_stacks import (
    CHOSEN,
    NAMES,
    SHORT,
    UNITS,
    conjunction,
    ends,
    layer,
    network,
    stage,
    unchanged,
    unit,
    variables,
    written,
)
from qkvtheory.lanes.rocq import Term, rocq
from qkvtheory.lanes.symbols import Code, lemma
from qkvtheory.rotations import Factors
from qkvtheory.words import diagonal, opaque, symbol

HEADER = "From QKV Require Import Skipless AttentionSkip EverySkip SharedQueries WhereItStops.\n"
ALL = NAMES | {name: name for name in ("O", "O1", "O2", "B", "B1", "B2", "D", "X", "b", "rho1", "rho2", "rho3")}
ALL |= {"C": "mean_free R d", "diag": "diag_mx"} | {f"{x}{i}": f"{x}{i}" for x in ("gamma", "c") for i in (1, 2, 3)}
SCALES = "(rho1 rho2 rho3 : 'M[R]_n -> 'M[R]_n)"
GAINS = f"{SCALES} (gamma1 gamma2 gamma3 c1 c2 c3 : 'rV[R]_d) (b : 'rV[R]_w)"


def show(word: Any) -> str:
    return rocq(word, ALL)


def norm(make: Callable[..., Any], number: int, gained: bool = False, biased: bool = False) -> Any:
    """A norm of symbols with a number of its own. The letter of a gain is a column, printed only inside diag_mx."""
    given: dict[str, Any] = {"scale": opaque(f"rho{number}")}
    if gained:
        given["gain"] = diagonal(symbol(f"gamma{number}", "d", "1"))
    if biased:
        given["bias"] = symbol(f"c{number}", "1", "d")
    return make(**given)


def normed(block: Any, make: Callable[..., Any], first: int = 1, **given: bool) -> Any:
    return replace(block, attention_norm=norm(make, first, **given), mlp_norm=norm(make, first + 1, **given))


def bare(block: Any) -> Any:
    return replace(block, attention_norm=None, mlp_norm=None)


def function(norm: Any, width: str = "d") -> str:
    return f"(fun X : 'M[R]_(n, {width}) => {show(norm(symbol('X', 'n', 'd')))})"


# -- norms -------------------------------------------------------------------------------------------------------------


def bridge_rms_norm(code: Code) -> str:
    """RMSNorm of many rows, with a gain and without."""
    X = symbol("X", "n", "d")
    plain, gained = (show(norm(code.RMSNorm, 1, gained)(X)) for gained in (False, True))
    facts = [f"normed rho1 X = {plain}", f"run_gained (Gained (normed rho1) gamma1 0) X = {gained}"]
    proof = "by split; rewrite // /run_gained /normed /= mulmx0 addr0"
    return lemma("bridge_rms_norm", "n d rho1 (gamma1 : 'rV[R]_d) (X : 'M[R]_(n, d))", conjunction(facts), proof)


def bridge_layer_norm(code: Code) -> str:
    """LayerNorm of many rows, with a bias; C takes off the mean, and is its own transpose."""
    value = show(norm(code.LayerNorm, 1, biased=True)(symbol("X", "n", "d")))
    old = "Gained (layer_normed rho1) (const_mx 1) c1"
    proof = "by rewrite /run_gained /= /layer_normed /normed diag_const_mx mulmx1 trmx_mul mean_free_sym !mulmxA"
    names = "n d rho1 (c1 : 'rV[R]_d) (X : 'M[R]_(n, d))"
    return lemma("bridge_layer_norm", names, f"run_gained ({old}) X = {value}", proof)


def bridge_run_last(code: Code) -> str:
    """A network with a norm before its readout and a bias after it."""
    blocks = [written(code, 1, "T2", norms=True)]
    net = code.Network(Term("E"), blocks, Term("U"), Term("P"), Term.function("last"), Term("b", row=True))
    old = f"Stack E P [:: {unchanged(1, 'T2', norms=True)}] U"
    extra = "(last : 'M[R]_(n, d) -> 'M[R]_(n, d)) (b : 'rV[R]_w) tokens"
    statement = f"run_last last b ({old}) tokens = {net(Term('tokens'))}"
    return lemma("bridge_run_last", f"{variables(norms=True)} {extra}", statement)


# -- gains and means ---------------------------------------------------------------------------------------------------


def with_last(net: Any, norm: Any) -> Any:
    return replace(net, norm=norm, readout_bias=symbol("b", "1", "w"))


def bridge_fold_gains(code: Code) -> str:
    """What becomes of weights, biases and norms: for RMSNorms, and for LayerNorms with biases of their own."""
    facts = []
    for make, row, biased in ((code.RMSNorm, "0", False), (code.LayerNorm, "", True)):
        old = normed(layer(code, 1, "T2"), make, gained=True, biased=biased)
        new = code.fold_gains(with_last(network(code, old), norm(make, 3, gained=True, biased=biased)))
        (block,) = new.blocks
        parts = " ".join(f"(Gained id gamma{i} {row or f'c{i}'})" for i in (1, 2))
        facts.append(f"fold_gains ({stage(bare(old))}) {parts} = {shown(bare(block))}")
        after = show(new.readout_bias)
        facts.append(f"(diag_mx gamma3 *m U, b + {row or 'c3'} *m U) = ({show(new.readout)}, {after})")
        facts.append(f"(E, P) = ({show(new.embedding)}, {show(new.positions)})")
        plain = [function(norm(make, i)) for i in (1, 2, 3)]
        left = [function(n) for n in (block.attention_norm, block.mlp_norm, new.norm)]
        facts += [f"{before} = {after}" for before, after in zip(plain, left, strict=True)]
    proof = "by do ?split; rewrite /fold_gains /= ?mul0mx ?addr0"
    return lemma("bridge_fold_gains", f"{variables()} {GAINS}", conjunction(facts), proof)


def shown(block: Any) -> str:
    """A block without norms as a stage, with the names of gains."""
    return stage(block, ALL)


def bridge_center(code: Code) -> str:
    """Writes without means, and RMSNorms with the gains that the LayerNorms had."""
    old = normed(layer(code, 1, "T2"), code.LayerNorm, gained=True)
    net = with_last(network(code, old), norm(code.LayerNorm, 3, gained=True))
    new = code.center(net)
    (block,) = new.blocks
    one, two, three = (function(norm(code.RMSNorm, i, gained=True)) for i in (1, 2, 3))
    E, P, U = map(show, (new.embedding, new.positions, new.readout))
    facts = [f"center ({stage(bare(old))}) {one} {two} = {shown(block)}", f"{three} = {function(new.norm)}"]
    facts += [f"(E *m mean_free R d, P *m mean_free R d, U, b) = ({E}, {P}, {U}, {show(new.readout_bias)})"]
    return lemma("bridge_center", f"{variables()} {GAINS}", conjunction(facts), "by do ?split")


# -- rotations ---------------------------------------------------------------------------------------------------------


def rotation(name: str) -> Any:
    return symbol(name, "d", "d", orthogonal=True)


def bridge_rotate(code: Code) -> str:
    """One rotation everywhere, past RMSNorms."""
    blocks = [normed(layer(code, 1, "TA", parallel=True), code.RMSNorm), normed(layer(code, 2, "T2"), code.RMSNorm)]
    last = norm(code.RMSNorm, 3)
    old = with_last(network(code, *blocks), last)
    new = code.rotate(old, rotation("O"))
    facts = [f"conjugate_stack O ({stacked(old)}) = {stacked(new)}"]
    facts.append(f"({function(last)}, b) = ({function(new.norm)}, {show(new.readout_bias)})")
    return lemma("bridge_rotate", f"{variables()} {SCALES} (b : 'rV[R]_w) (O : 'M[R]_d)", conjunction(facts))


def stacked(net: Any) -> str:
    E, P, U = ends(net, ALL)
    return f"Stack {E} {P} [:: {'; '.join(map(shown, net.blocks))}] {U}"


def bridge_rotate_tied(code: Code) -> str:
    """Any skips, and a readout that stays the transposed embedding."""
    old = network(code, layer(code, 1, "T2"), tied=True)
    new = code.conjugate(old, rotation("O"))
    if new.readout is not None:
        raise ValueError("a tied network stays tied in a rotated basis")
    made = f"let new := conjugate_stack O ({stacked(old)}) in\n  "
    made += f"Stack (embed new) (shift new) (stages new) (embed new)^T = {stacked(new)}"
    proof = "by move=> O_ort; rewrite /conjugate_stack /= trmx_mul -orthogonal_inv"
    return lemma("bridge_rotate_tied", f"{variables(readout='v')} (O : 'M[R]_d)", f"orthogonal O ->\n  {made}", proof)


def bridge_to_triangular(code: Code) -> str:
    """W_Q = O B in both layers, with a skip around attention only; and with every skip in the second one."""
    parts, facts = [Factors(rotation(f"O{i}"), symbol(f"B{i}", "d", "d")) for i in (1, 2)], []
    for skips, layers in (("TA", (0, 1)), ("T2", (1,))):
        blocks = [normed(layer(code, i, skips), code.RMSNorm) for i in (1, 2)]
        for i in layers:
            inner = replace(blocks[i].attention, W_Q=parts[i].basis @ parts[i].query)
            blocks[i] = replace(blocks[i], attention=inner)
        old = network(code, *blocks)
        new = stacked(code.to_triangular(old, factors={i: parts[i] for i in layers}))
        if skips == "T2":
            facts.append(f"conjugate_stack O2 ({stacked(old)}) = {new}")
            continue
        plan = "; ".join(f"({shown(b)}, (O{i}, B{i}))" for i, b in enumerate(blocks, 1))
        T = f"entering (rotated [:: {plan}]) 1%:M"
        facts.append(f"Stack (E *m {T}) (P *m {T}) (carry (rotated [:: {plan}]) 1%:M) U = {new}")
    statement = f"orthogonal O1 -> orthogonal O2 ->\n  {conjunction(facts)}"
    proof = (
        "move=> /orthogonal_unit O1_inv /orthogonal_unit O2_inv; "
        "by split; rewrite /rotated /conjugate_stack /= /conjugate /rebase_stage /rebase3 /dictated /= "
        f"!mulKmx // {UNITS}"
    )
    names = f"{variables(('Q', 'Q'))} {SCALES} (O1 O2 B1 B2 : 'M[R]_d)"
    return lemma("bridge_to_triangular", names, statement, proof)


HEADS = (
    "n H (p : 'I_H -> nat) v w dv e h1 h2 (g : 'M[R]_(n, \\sum_(h < H) n) -> 'M[R]_(n, dv) -> 'M[R]_(n, e)) "
    "(O B : 'M[R]_(\\sum_h p h)) (D : forall h, 'M[R]_(p h)) (WK : 'M[R]_(\\sum_h p h)) WV WO "
    "(act : 'M[R]_(n, h1) -> 'M[R]_(n, h2)) up down bK bV bO bU bD (rho1 rho2 : 'M[R]_n -> 'M[R]_n) "
    "(E : 'M[R]_(v, _)) P (U : 'M[R]_(_, w))"
)
IN_HEADS = {"W_K^1": "WK", "W_V^1": "WV", "W_O^1": "WO", "W_up^1": "up", "W_down^1": "down", "act^1": "act"}
IN_HEADS |= {f"{name}^1": short for name, short in SHORT.items()}
IN_HEADS |= {"core^1": "score_core g", "D": "(\\mxdiag_h D h)"}


def bridge_to_block_triangular(code: Code) -> str:
    """W_Q = O B D with one block of D for each head: D goes to the keys and their bias, O to the stream."""
    old = normed(layer(code, 1, "T2", square="K"), code.RMSNorm)
    part = Factors(rotation("O"), symbol("B", "d", "d"), symbol("D", "d", "d", invertible=True))
    inner = replace(old.attention, W_Q=part.basis @ part.query @ part.heads, b_Q=None)
    new = code.to_block_triangular(network(code, replace(old, attention=inner)), factors={0: part})
    names = ALL | IN_HEADS
    before = "Headed g D WK WV WO act up down bK bV bO bU bD true true"
    norms = " ".join(function(norm(code.RMSNorm, i), "_") for i in (1, 2))
    E, P, U = ends(new, names)
    after = f"Stack {E} {P} [:: {stage(new.blocks[0], names, '_')}] {U}"
    made = f"conjugate_stack O (Stack E P [:: with_norms (aligned (O *m B) ({before})) {norms}] U) = {after}"
    proof = "move=> /orthogonal_unit O_inv; "
    proof += "by rewrite /conjugate_stack /= /conjugate /rebase_stage /rebase3 /= !mulKmx // !mulmxA"
    return lemma("bridge_to_block_triangular", HEADS, f"orthogonal O ->\n  {made}", proof)


# -- linear skips ------------------------------------------------------------------------------------------------------


def bridge_repaired(code: Code) -> str:
    """Every skip is there; those around the MLPs are written out, as large as the stream whatever the width of the
    queries, and both layers lose their W_Q."""
    written_out = code.learned_skips(network(code, layer(code, 1, "T2"))).blocks[0].mlp_skip
    old = network(code, *(layer(code, i, "T2", square="Q") for i in (1, 2)))
    new = code.eliminate(code.learned_skips(old))
    one, two = map(stage, old.blocks)
    made = "; ".join(f"({stage(replace(b, mlp_skip=True))}, {show(b.mlp_skip)})" for b in new.blocks)
    E, P, U = ends(new)
    facts = [f"1%:M = {show(written_out)} :> 'M[R]_{written_out.rows}"]
    facts.append(f"repaired [:: {one}; {two}] = [:: {made}]")
    facts.append(f"(E *m first_query [:: {one}; {two}], P *m first_query [:: {one}; {two}], U) = ({E}, {P}, {U})")
    proof = f"by move=> *; do ?split; rewrite // /repaired /first_query /linear_skip {CHOSEN} ?mulVmx // {UNITS}"
    statement = f"{unit(1, 'Q')} -> {unit(2, 'Q')} ->\n  {conjunction(facts)}"
    return lemma("bridge_repaired", variables(("Q", "Q")), statement, proof)


def bridge_run_linear(code: Code) -> str:
    """One block with the matrix A around its MLP."""
    value = replace(written(code, 1, "T2"), mlp_skip=Term("A"))(Term("X"))
    statement = f"run_linear ({unchanged(1, 'T2')}) A X = {value}"
    return lemma("bridge_run_linear", f"{variables()} (A : 'M[R]_d) X", statement)


BRIDGES: dict[str, Callable[[Code], str]] = {
    "rms_norm": bridge_rms_norm,
    "layer_norm": bridge_layer_norm,
    "run_last": bridge_run_last,
    "fold_gains": bridge_fold_gains,
    "center": bridge_center,
    "rotate": bridge_rotate,
    "rotate_tied": bridge_rotate_tied,
    "to_triangular": bridge_to_triangular,
    "to_block_triangular": bridge_to_block_triangular,
    "repaired": bridge_repaired,
    "run_linear": bridge_run_linear,
}
