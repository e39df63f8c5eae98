"""The layers that the bridges run, made of symbols, and how they are printed for Rocq."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qkvtheory import absorption, gauge, lossless, network, norms, queries, rotations, stacks, tying
from qkvtheory.lanes.rocq import atom, rocq
from qkvtheory.words import Word, opaque, symbol


@dataclass(frozen=True)
class Code:
    """The Python that is compared with the proofs. A test hands in a damaged one."""

    Attention: Any = network.Attention
    MLP: Any = network.MLP
    Block: Any = network.Block
    Network: Any = network.Network
    reads: Any = gauge.reads
    carried: Any = gauge.carried
    change_basis: Any = gauge.change_basis
    reparametrize: Any = gauge.reparametrize
    reparametrize_cross: Any = gauge.reparametrize_cross
    select_columns: Any = gauge.select_columns
    merge_single_head: Any = gauge.merge_single_head
    rebase: Any = gauge.rebase
    eliminate_queries: Any = stacks.eliminate_queries
    carry: Any = stacks.carry
    conjugate: Any = stacks.conjugate
    eliminate: Any = stacks.eliminate
    merge_outputs: Any = stacks.merge_outputs
    remove_learned_skips: Any = stacks.remove_learned_skips
    learned_skips: Any = stacks.learned_skips
    align_heads: Any = gauge.align_heads
    turn_heads: Any = gauge.turn_heads
    slim: Any = lossless.slim
    keys_in_values: Any = lossless.keys_in_values
    absorbed: Any = lossless.absorbed
    tie_after: Any = tying.tie_after
    tied_sums: Any = tying.tied_sums
    Separate: Any = tying.Separate
    Slim: Any = tying.Slim
    Latent: Any = tying.Latent
    RMSNorm: Any = norms.RMSNorm
    LayerNorm: Any = norms.LayerNorm
    fold_gains: Any = norms.fold_gains
    center: Any = norms.center
    rotate: Any = rotations.rotate
    to_triangular: Any = rotations.to_triangular
    to_block_triangular: Any = rotations.to_block_triangular
    flip: Any = absorption.flip
    onto_identity: Any = absorption.onto_identity
    spare_units: Any = absorption.spare_units
    spare_units_sharp: Any = absorption.spare_units_sharp
    eliminate_with_spare_units: Any = absorption.eliminate_with_spare_units
    ResidualQuery: Any = queries.ResidualQuery
    QueryAttention: Any = queries.QueryAttention
    rebase_query: Any = queries.rebase_query


# -- the layers of the statements --------------------------------------------------------------------------------------

LETTERS = {f"W_{x}": f"W_{x} a" for x in "QKVO"} | {f"b_{x}": f"b{x}" for x in "QKVO"}
LETTERS |= {"core": "core a", "ones": "ones", "A": "A", "act": "act b", "W_up": "W_up b", "W_down": "W_down b"}
LETTERS |= {"X": "X", "Z": "Z", "Theta": "T", "Phi": "P", "enter": "enter", "leave": "leave", "W_Q^R": "P"}
LETTERS |= {name: name for name in "qkvh"} | {"b_up": "bU", "b_down": "bD"}

SELF = "n n d d dq dk dv e"
SQUARE = {"Q": "n n d d d dk dv e dout", "K": "n n d d dq d dv e dout", "V": "n n d d dq dk d e dout"}


def attention(
    code: Code,
    square: str = "",
    memory: str = "d",
    biases: bool = False,
    out: str = "out",
    wide: bool = False,
    tag: str = "",
) -> Any:
    """An attention of symbols. Projections in ``square`` are square and invertible; a wide W_Q has a right inverse.

    ``tag`` ends every name: the layers of a network have letters of their own.
    """

    def weight(x: str, rows: str, cols: str) -> Word:
        if x in square:
            return symbol(f"W_{x}{tag}", rows, rows, invertible=True)
        return symbol(f"W_{x}{tag}", rows, cols, full_row_rank=wide and x == "Q")

    weights = {
        f"W_{x}": weight(x, rows, cols) for x, rows, cols in (("Q", "d", "p"), ("K", memory, "k"), ("V", memory, "v"))
    }
    weights["W_O"] = symbol(f"W_O{tag}", "e", out)
    rows = {f"b_{w[2:]}": symbol(f"b_{w[2:]}{tag}", "1", weight.cols) for w, weight in weights.items()}
    return code.Attention(opaque(f"core{tag}", "e"), **weights, **(rows if biases else {}))


def basis(name: str, size: str = "d") -> Word:
    return symbol(name, size, size, invertible=True)


def record(a: Any, names: Mapping[str, str] = LETTERS) -> str:
    """An attention as a Rocq record. The core is printed by what it does to its arguments."""
    q, k, v = (symbol(name, "n", weight.cols) for name, weight in zip("qkv", (a.W_Q, a.W_K, a.W_V), strict=True))
    weights = " ".join(atom(rocq(w, names)) for w in (a.W_Q, a.W_K, a.W_V, a.W_O))
    return f"Attention (fun q k v => {rocq(a.core(q, k, v), names)}) {weights}"


def lemma(name: str, variables: str, statement: str, proof: str = "by []") -> str:
    return f"Lemma {name} (R : comUnitRingType) {variables} :\n  {statement}.\nProof. {proof}. Qed.\n"


def over(dims: str, extra: str = "") -> str:
    names = " ".join(dict.fromkeys(dims.split()))
    return f"{names} (a : attention R {dims}) {extra}".strip()


# -- blocks ------------------------------------------------------------------------------------------------------------


def inside(b: str, tag: str = "") -> dict[str, str]:
    """What the letters of the block ``b`` are called."""
    names = {f"W_{x}{tag}": f"W_{x} (attn {b})" for x in "QKVO"} | {f"core{tag}": f"core (attn {b})"}
    return names | {f"{name}{tag}": f"{name} {b}" for name in ("act", "W_up", "W_down")}


IN_BLOCK = LETTERS | inside("b")
ROWS = ("b_Q", "b_K", "b_V", "b_O", "b_up", "b_down")


def block(
    code: Code,
    attention_skip: Any,
    mlp_skip: Any,
    biases: bool = False,
    square: str = "",
    tag: str = "",
    **others: Any,
) -> Any:
    """A block of symbols; ``others``: norms, ``parallel``, ``cross``."""
    rows = {"b_up": symbol(f"b_up{tag}", "1", "h1"), "b_down": symbol(f"b_down{tag}", "1", "d")} if biases else {}
    mlp = code.MLP(
        opaque(f"act{tag}", "h2"), symbol(f"W_up{tag}", "d", "h1"), symbol(f"W_down{tag}", "h2", "d"), **rows
    )
    inner = attention(code, square, biases=biases, out="d", tag=tag)
    return code.Block(inner, mlp, attention_skip, mlp_skip, **others)


def changed_block(new: Any, names: Mapping[str, str] = IN_BLOCK) -> str:
    """A block as a Rocq record, its activation by what it does to its argument."""
    h = symbol("h", "n", new.mlp.W_up.cols)
    act = f"(fun h => {rocq(new.mlp.act(h), names)})"
    mlp = f"{act} {atom(rocq(new.mlp.W_up, names))} {atom(rocq(new.mlp.W_down, names))}"
    return f"Block ({record(new.attention, names)}) {mlp} " + f"{new.attention_skip} {new.mlp_skip}".lower()


def biases_of(new: Any) -> list[Any]:
    return [getattr(new.mlp if name in ("b_up", "b_down") else new.attention, name) for name in ROWS]
