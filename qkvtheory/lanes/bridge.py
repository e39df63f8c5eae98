"""From the Python of ``network`` and ``gauge`` to Rocq: what the code does to words, printed as lemmas.

Each bridge runs a construction on symbols and prints what came out as a Rocq term, beside the definition of the same
name in ``proofs/Reparametrization.v``. Rocq decides whether the two are equal; a damaged construction is rejected.
The bridges of whole networks, with biases, norms and every kind of skip, are in ``bridge_stacks``; those of tied
projections and of caches in ``bridge_tying``, those of nonlinear queries in ``bridge_queries``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from qkvtheory.lanes import bridge_absorption, bridge_norms, bridge_queries, bridge_stacks, bridge_tying
from qkvtheory.lanes.columns import Columns
from qkvtheory.lanes.rocq import atom, rocq
from qkvtheory.lanes.symbols import (
    IN_BLOCK,
    LETTERS,
    ROWS,
    SELF,
    SQUARE,
    Code,
    attention,
    basis,
    biases_of,
    block,
    changed_block,
    inside,
    lemma,
    over,
    record,
)
from qkvtheory.words import identity, opaque, symbol

HEADER = """(* Generated from the Python of qkvtheory. *)
From mathcomp Require Import all_ssreflect all_algebra.
From QKV Require Import ThreeProducts Reparametrization.
Import GRing.Theory.
Local Open Scope ring_scope.

"""


# -- the bridges -------------------------------------------------------------------------------------------------------


def bridge_mha(code: Code) -> str:
    X = symbol("X", "n", "d")
    return lemma("bridge_mha", over(SELF + " dout", "X"), f"mha a X = {rocq(attention(code)(X), LETTERS)}")


def bridge_cross(code: Code) -> str:
    X, Z = symbol("X", "n", "d"), symbol("Z", "m", "z")
    value = rocq(attention(code, memory="z")(X, Z), LETTERS)
    return lemma("bridge_cross", over("n m d dz dq dk dv e dout", "X Z"), f"cross a X Z = {value}")


def bridge_mha_biased(code: Code) -> str:
    X = symbol("X", "n", "d")
    value = rocq(attention(code, biases=True)(X), LETTERS)
    return lemma("bridge_mha_biased", over(SELF + " dout", "bQ bK bV bO X"), f"mha_biased a bQ bK bV bO X = {value}")


def bridge_change_basis(code: Code) -> str:
    new = code.change_basis(attention(code), basis("Theta"))
    return lemma("bridge_change_basis", over(SELF + " dout", "T"), f"change_basis a T = {record(new)}")


def bridge_reads(code: Code) -> str:
    """Two reads of one stream: the terms of the theorem ``r_products``."""
    new = code.reads(basis("Theta").inverse(), symbol("V", "d", "v"), symbol("W", "d", "w"))
    made, names = ", ".join(rocq(weight, LETTERS | {"V": "V", "W": "W"}) for weight in new), "d v w (T : 'M[R]_d)"
    return lemma("bridge_reads", f"{names} (V : 'M_(d, v)) (W : 'M_(d, w))", f"({made}) = (invmx T *m V, invmx T *m W)")


def bridge_positions(code: Code) -> str:
    """The stream of a network whose embedding and position table are in the basis T: ``lemma_position_schemes``."""
    theta, tokens = basis("Theta"), symbol("tokens", "n", "v")
    table = code.carried(symbol("P", "n", "d"), theta)
    stream = code.Network(symbol("E", "v", "d") @ theta, (), identity("d"), table)(tokens)
    made = rocq(stream, LETTERS | {"tokens": "tokens", "E": "E", "P": "P"})
    variables = "n v d (tokens : 'M[R]_(n, v)) (E : 'M_(v, d)) (P : 'M_(n, d)) (T : 'M_d)"
    return lemma("bridge_positions", variables, f"tokens *m (E *m T) + P *m T = {made}", "by rewrite mulmxA addrC")


def bridge_biases(name: str, change: Callable[[Code, Any], Any], **shape: Any) -> Callable[[Code], str]:
    """The biases of the new layer are the old ones, all four."""

    def bridge(code: Code) -> str:
        new = change(code, attention(code, biases=True, **shape))
        rows = [f"{rocq(getattr(new, f'b_{x}'), LETTERS)} = b{x}" for x in "QKVO"]
        widths = zip(("dq", "dk", "dv", "dout"), "QKVO", strict=True)
        variables = "dq dk dv dout " + " ".join(f"(b{x} : 'rV[R]_{width})" for width, x in widths)
        return lemma(f"bridge_{name}", variables, f"[/\\ {', '.join(rows[:-1])} & {rows[-1]}]")

    return bridge


def bridge_change_bases(code: Code) -> str:
    new = code.change_basis(attention(code, memory="z"), basis("Theta"), basis("Phi", "z"))
    return lemma("bridge_change_bases", over("n m d dz dq dk dv e dout", "T P"), f"change_bases a T P = {record(new)}")


def bridge_eliminate(which: str) -> Callable[[Code], str]:
    def bridge(code: Code) -> str:
        theta, new = code.reparametrize(attention(code, which), which)
        statement = f"without_{which.lower()} a = {record(new)} /\\ W_{which} a = {rocq(theta, LETTERS)}"
        return lemma(f"bridge_eliminate_{which.lower()}", over(SQUARE[which]), statement)

    return bridge


def bridge_wide_query(code: Code) -> str:
    theta, new = code.reparametrize(attention(code, wide=True), "Q")
    statement = f"without_wide_q a P = {record(new)} /\\ W_Q a = {rocq(theta, LETTERS)}"
    return lemma("bridge_wide_query", over(SELF + " dout", "P"), statement)


def bridge_cross_eliminate(which: str) -> Callable[[Code], str]:
    def bridge(code: Code) -> str:
        theta, phi, new = code.reparametrize_cross(attention(code, f"Q{which}", memory="z"), which)
        bases = f"W_Q a = {rocq(theta, LETTERS)} & W_{which} a = {rocq(phi, LETTERS)}"
        name = f"q{which.lower()}"
        dims = {"K": "n m d dz d dz dv e dout", "V": "n m d dz d dk dz e dout"}[which]
        return lemma(f"bridge_cross_{name}", over(dims), f"[/\\ without_{name} a = {record(new)}, {bases}]")

    return bridge


def bridge_eliminate_biases(which: str) -> Callable[[Code], str]:
    name = f"eliminate_{which.lower()}_biases"
    return bridge_biases(name, lambda code, a: code.reparametrize(a, which)[-1], square=which)


def bridge_cross_biases(which: str) -> Callable[[Code], str]:
    name = f"cross_q{which.lower()}_biases"
    return bridge_biases(name, lambda code, a: code.reparametrize_cross(a, which)[-1], square=f"Q{which}", memory="z")


UNITS = "lsubmx (1%:M : 'M_(s + u + t))"
SELECTED = {  # per choice: the sizes there, the basis, and what the columns of the identity are called there
    "K": ("(s + t) (s + t) dq s dv", "row_mx (W_K a) U'", {"I[0:2]": "lsubmx 1%:M"}),
    "KV": (
        "(s + u + t) (s + u + t) dq s u",
        "row_mx (row_mx (W_K a) (W_V a)) U'",
        {"I[0:2]": f"lsubmx ({UNITS})", "I[2:5]": f"rsubmx ({UNITS})"},
    ),
}


def bridge_select(which: str) -> Callable[[Code], str]:
    """The columns named by ``which``, completed by U' to a basis, become unit columns."""
    widths, d = {"Q": 4, "K": 2, "V": 3}, 7
    sizes, theta, units = SELECTED[which]
    joined = " | ".join([*(f"W_{x}" for x in which), f"U[{sum(widths[x] for x in which)}:{d}]"])
    names = LETTERS | units | {joined: theta}

    def bridge(code: Code) -> str:
        weights: dict[str, Any] = {f"W_{x}": Columns(f"W_{x}", d, width) for x, width in widths.items()}
        old = code.Attention(opaque("core", "e"), **weights, W_O=symbol("W_O", "e", "out"))
        basis, new = code.select_columns(old, which)
        name = f"select_{which.lower()}"
        variables = (
            " ".join(sorted(set(re.findall("[a-z]+", sizes)))) + f" n e dout (a : attention R n n {sizes} e dout)"
        )
        statement = f"{name} a U' = {record(new, names)} /\\ {theta} = {rocq(basis, names)}"
        return lemma(f"bridge_{name}", f"{variables} U'", statement)

    return bridge


def bridge_merge_single_head(code: Code) -> str:
    shapes = {"W_Q": ("d", "p"), "W_K": ("d", "p"), "W_V": ("d", "v"), "W_O": ("v", "out")}
    weights = {name: symbol(name, *shape) for name, shape in shapes.items()}
    one_head = code.Attention(lambda q, k, v: opaque("A", q.rows)(q @ k.mT) @ v, **weights)
    names = LETTERS | {f"W_{x}": f"W{x}" for x in "QKVO"}
    variables = (
        "n d p dv dout (A : 'M[R]_n -> 'M[R]_n) (WQ WK : 'M[R]_(d, p)) (WV : 'M[R]_(d, dv)) (WO : 'M[R]_(dv, dout))"
    )
    merged = f"merge_single_head A WQ WK WV WO = {record(code.merge_single_head(one_head), names)}"
    return lemma("bridge_merge_single_head", variables, merged)


BLOCK = "n d dq dk dv e h1 h2 (b : block R n d dq dk dv e h1 h2)"


def block_record(attention_skip: bool, mlp_skip: bool, b: str = "b") -> str:
    return f"Block (attn {b}) (act {b}) (W_up {b}) (W_down {b}) " + f"{attention_skip} {mlp_skip}".lower()


def bridge_run_block(attention_skip: bool, mlp_skip: bool) -> Callable[[Code], str]:
    """One forward pass. Words multiply sums out, so Rocq is told to: mulmxDl."""

    def bridge(code: Code) -> str:
        value = rocq(block(code, attention_skip, mlp_skip)(symbol("X", "n", "d")), IN_BLOCK)
        statement = f"run_block ({block_record(attention_skip, mlp_skip)}) X = {value}"
        proof = "by rewrite /run_block /mha /cross /= ?mulmxDl ?mulmxA"
        return lemma(f"bridge_run_block_{attention_skip}_{mlp_skip}".lower(), f"{BLOCK} X", statement, proof)

    return bridge


def bridge_run_block_biased(code: Code) -> str:
    value = rocq(block(code, True, False, biases=True)(symbol("X", "n", "d")), IN_BLOCK)
    rows = " ".join(LETTERS[name] for name in ROWS)
    statement = f"run_block_biased ({block_record(True, False)}) {rows} X = {value}"
    proof = "by rewrite /run_block_biased /mha_biased /= ?mulmxDl ?mulmxA ?addrA"
    return lemma("bridge_run_block_biased", f"{BLOCK} {rows} X", statement, proof)


def bridge_rebase(code: Code) -> str:
    new = code.rebase(block(code, True, False), basis("enter"), basis("leave"))
    statement = f"rebase ({block_record(True, False)}) enter leave = {changed_block(new)}"
    return lemma("bridge_rebase", f"{BLOCK} enter leave", statement)


def bridge_rebase_biases(code: Code) -> str:
    """The biases after the change: only those of the two writes move."""
    new = code.rebase(block(code, True, False, biases=True), basis("enter"), basis("leave"))
    proved = [LETTERS[name] for name in ROWS]
    proved[ROWS.index("b_O")] += " *m enter"
    proved[ROWS.index("b_down")] += " *m leave"
    made = [rocq(row, LETTERS) for row in biases_of(new)]
    widths = zip(ROWS, ("dq", "dk", "dv", "d", "h1", "d"), strict=True)
    variables = " ".join(f"({LETTERS[name]} : 'rV[R]_{width})" for name, width in widths)
    return lemma(
        "bridge_rebase_biases",
        f"d dq dk dv h1 {variables} (enter leave : 'M[R]_d)",
        f"({', '.join(made)}) = ({', '.join(proved)})",
    )


TWO_BLOCKS = (
    "n d v w k1 v1 e1 h1 g1 k2 v2 e2 h2 g2 (b1 : block R n d d k1 v1 e1 h1 g1) (b2 : block R n d d k2 v2 e2 h2 g2) "
    "(E : 'M[R]_(v, d)) (P : 'M[R]_(n, d)) (U : 'M[R]_(d, w))"
)
IN_NETWORK = LETTERS | inside("b1", "^1") | inside("b2", "^2") | {x: x for x in ("tokens", "E", "P", "U")}


def two_blocks(code: Code, biases: bool = False) -> Any:
    """A network with a skip around each of its two attentions, and square W_Q."""
    blocks = [block(code, True, False, biases, square="Q", tag=tag) for tag in ("^1", "^2")]
    return code.Network(symbol("E", "v", "d"), blocks, symbol("U", "d", "w"), symbol("P", "n", "d"))


def stack(*blocks: str) -> str:
    return f"[:: {'; '.join(f'Layer ({b})' for b in blocks)}]"


OLD_NETWORK = f"Network E P {stack(*(block_record(True, False, b) for b in ('b1', 'b2')))} U"


def bridge_run_network(code: Code) -> str:
    value = rocq(two_blocks(code)(symbol("tokens", "n", "v")), IN_NETWORK)
    proof = "by rewrite /run_network /= /run_block /mha /cross /= [tokens *m E + P]addrC ?mulmxDl ?mulmxA"
    return lemma("bridge_run_network", f"{TWO_BLOCKS} tokens", f"run_network ({OLD_NETWORK}) tokens = {value}", proof)


def bridge_eliminate_queries(code: Code) -> str:
    new = code.eliminate_queries(two_blocks(code))
    E, P, U = (atom(rocq(word, IN_NETWORK)) for word in (new.embedding, new.positions, new.readout))
    changed = f"Network {E} {P} {stack(*(changed_block(b, IN_NETWORK) for b in new.blocks))} {U}"
    statement = f"network_without_q ({OLD_NETWORK}) = {changed}"
    proof = "by rewrite /network_without_q /= /layer_without_q /= mulmx1"  # the basis at the readout
    return lemma("bridge_eliminate_queries", TWO_BLOCKS, statement, proof)


def bridge_eliminate_queries_biases(code: Code) -> str:
    """The biases of the two writes of a block move: by its own W_Q, and by that of the next block, if there is one."""
    new = code.eliminate_queries(two_blocks(code, biases=True))
    own = {f"{name}^{i}": f"{LETTERS[name]}{i}" for name in ROWS for i in (1, 2)}
    made = [rocq(row, IN_NETWORK | own) for b in new.blocks for row in biases_of(b)]
    proved = [f"{LETTERS[name]}{i}" for i in (1, 2) for name in ROWS]
    for name, b in (("bO1", "b1"), ("bD1", "b2"), ("bO2", "b2")):
        proved[proved.index(name)] += f" *m W_Q (attn {b})"
    widths = [width for i in (1, 2) for width in ("d", f"k{i}", f"v{i}", "d", f"h{i}", "d")]
    order = [f"({LETTERS[name]}{i} : 'rV[R]_" for i in (1, 2) for name in ROWS]
    variables = " ".join(f"{row}{width})" for row, width in zip(order, widths, strict=True))
    statement = f"({', '.join(made)}) = ({', '.join(proved)})"
    return lemma("bridge_eliminate_queries_biases", f"{TWO_BLOCKS} {variables}", statement)


LAYERS: dict[str, Callable[[Code], str]] = {
    "mha": bridge_mha,
    "cross": bridge_cross,
    "mha_biased": bridge_mha_biased,
    "change_basis": bridge_change_basis,
    "change_bases": bridge_change_bases,
    "reads": bridge_reads,
    "positions": bridge_positions,
    "eliminate_q": bridge_eliminate("Q"),
    "eliminate_k": bridge_eliminate("K"),
    "eliminate_v": bridge_eliminate("V"),
    "wide_query": bridge_wide_query,
    "cross_qk": bridge_cross_eliminate("K"),
    "cross_qv": bridge_cross_eliminate("V"),
    "select_k": bridge_select("K"),
    "select_kv": bridge_select("KV"),
    "merge_single_head": bridge_merge_single_head,
    "run_block": bridge_run_block(True, False),
    "run_block_no_skips": bridge_run_block(False, False),
    "run_block_mlp_skip": bridge_run_block(False, True),
    "run_block_both_skips": bridge_run_block(True, True),
    "run_block_biased": bridge_run_block_biased,
    "rebase": bridge_rebase,
    "rebase_biases": bridge_rebase_biases,
    "run_network": bridge_run_network,
    "eliminate_queries": bridge_eliminate_queries,
    "eliminate_queries_biases": bridge_eliminate_queries_biases,
    "change_basis_biases": bridge_biases("change_basis_biases", lambda code, a: code.change_basis(a, basis("Theta"))),
    "change_bases_biases": bridge_biases(
        "change_bases_biases", lambda code, a: code.change_basis(a, basis("Theta"), basis("Phi", "z")), memory="z"
    ),
    **{f"eliminate_{x.lower()}_biases": bridge_eliminate_biases(x) for x in "QKV"},
    "wide_query_biases": bridge_biases("wide_query_biases", lambda code, a: code.reparametrize(a, "Q")[-1], wide=True),
    **{f"cross_q{x.lower()}_biases": bridge_cross_biases(x) for x in "KV"},
}
PARTS = (
    (LAYERS, ""),
    (bridge_stacks.BRIDGES, bridge_stacks.HEADER),
    (bridge_norms.BRIDGES, bridge_norms.HEADER),
    (bridge_tying.BRIDGES, bridge_tying.HEADER),
    (bridge_absorption.BRIDGES, bridge_absorption.HEADER),
    (bridge_queries.BRIDGES, bridge_queries.HEADER),
)
BRIDGES = {name: bridge for bridges, _ in PARTS for name, bridge in bridges.items()}


def bridge_text(names: Iterable[str] | None = None, code: Code | None = None) -> str:
    """The Rocq file of the named bridges (default: all), for the given Python (default: the package's own)."""
    return assembled({name: printed(name, code) for name in names or BRIDGES})


def printed(name: str, code: Code | None = None) -> str:
    """One bridge as a Rocq lemma. Raises whatever damaged Python raises."""
    return BRIDGES[name](code or Code())


def assembled(lemmas: Mapping[str, str]) -> str:
    """The Rocq file of some printed bridges. Each part comes after what it imports, the layers first: so no name of a
    later part stands in the way of an earlier one."""
    text = HEADER
    for bridges, header in PARTS:
        chosen = [printed for name, printed in lemmas.items() if name in bridges]
        text += "\n".join([header, *chosen] if chosen and header else chosen)
    return text
