"""From the Python of ``network`` and ``gauge`` to Rocq: what the code does to words, printed as lemmas.

Each bridge runs a construction on symbols and prints what came out as a Rocq term, beside the definition of the same
name in ``proofs/Reparametrization.v``. Rocq decides whether the two are equal; a damaged construction is rejected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from qkvtheory import gauge, network
from qkvtheory.words import Letter, Scalar, Word, opaque, symbol

HEADER = """(* Generated from qkvtheory.network and qkvtheory.gauge. *)
From mathcomp Require Import all_ssreflect all_algebra.
From QKV Require Import ThreeProducts Reparametrization.
Import GRing.Theory.
Local Open Scope ring_scope.
"""


@dataclass(frozen=True)
class Code:
    """The Python that is compared with the proofs. A test hands in a damaged one."""

    Attention: Any = network.Attention
    MLP: Any = network.MLP
    Block: Any = network.Block
    change_basis: Any = gauge.change_basis
    reparametrize: Any = gauge.reparametrize
    reparametrize_cross: Any = gauge.reparametrize_cross
    merge_single_head: Any = gauge.merge_single_head
    rebase: Any = gauge.rebase


# -- words as Rocq terms -----------------------------------------------------------------------------------------------


def rocq(word: Word, names: Mapping[str, str]) -> str:
    """A word as a MathComp term. ``names`` says what each letter is called there; an unknown letter is a KeyError.

    >>> X, W = symbol("X", "n", "d"), symbol("W", "d", "d", invertible=True)
    >>> rocq(X @ W.inverse() + X, {"X": "X", "W": "W_Q a"})
    'X + X *m invmx (W_Q a)'
    """
    text = ""
    for letters, k in sorted(word.terms, key=reading_order):
        product = " *m ".join(factor(letter, names) for letter in letters) or "1%:M"
        text += (" - " if k < 0 else " + ") if text else "- " if k < 0 else ""
        text += scaled(product, k)
    return text or "0"


def reading_order(term: tuple[tuple[Letter, ...], Scalar]) -> tuple[bool, int, int, str]:
    """Inputs before what is computed from them, biases last, oldest first: the order of the definitions."""
    letters, _ = term
    if letters and letters[0].name == "ones":
        return True, 0, -len(letters), str(letters)
    return False, depth(letters), len(letters), str(letters)


def depth(letters: tuple[Letter, ...]) -> int:
    return max((1 + depth(word) for a in letters for x in a.args for word, _ in x.terms), default=0)


def scaled(product: str, k: Scalar) -> str:
    if Fraction(k).denominator != 1:
        raise ValueError(f"the coefficient {k} is not an integer: the proofs hold over any commutative ring")
    return product if abs(k) == 1 else f"({product}) *+ {abs(int(k))}"


def factor(letter: Letter, names: Mapping[str, str]) -> str:
    right = letter.inverted and "full row rank" in letter.facts
    text = names[letter.name + "^R" if right else letter.name]
    text = " ".join([text, *(atom(rocq(argument, names)) for argument in letter.args)])
    if letter.inverted and not right:
        text = f"invmx {atom(text)}"
    return f"{atom(text)}^T" if letter.transposed else text


def atom(text: str) -> str:
    return f"({text})" if " " in text else text


# -- the layers of the statements --------------------------------------------------------------------------------------

LETTERS = {f"W_{x}": f"W_{x} a" for x in "QKVO"} | {f"b_{x}": f"b{x}" for x in "QKVO"}
LETTERS |= {"core": "core a", "ones": "ones", "A": "A", "act": "act b", "W_up": "W_up b", "W_down": "W_down b"}
LETTERS |= {"X": "X", "Z": "Z", "Theta": "T", "Phi": "P", "enter": "enter", "leave": "leave", "W_Q^R": "P"}
LETTERS |= {name: name for name in "qkvh"} | {"b_up": "bU", "b_down": "bD"}

SELF = "n n d d dq dk dv e"
SQUARE = {"Q": "n n d d d dk dv e dout", "K": "n n d d dq d dv e dout", "V": "n n d d dq dk d e dout"}


def attention(
    code: Code, square: str = "", memory: str = "d", biases: bool = False, out: str = "out", wide: bool = False
) -> Any:
    """An attention of symbols. Projections in ``square`` are square and invertible; a wide W_Q has a right inverse."""

    def weight(x: str, rows: str, cols: str) -> Word:
        if x in square:
            return symbol(f"W_{x}", rows, rows, invertible=True)
        return symbol(f"W_{x}", rows, cols, full_row_rank=wide and x == "Q")

    weights = {
        f"W_{x}": weight(x, rows, cols) for x, rows, cols in (("Q", "d", "p"), ("K", memory, "k"), ("V", memory, "v"))
    }
    weights["W_O"] = symbol("W_O", "e", out)
    rows = {f"b_{w[2:]}": symbol(f"b_{w[2:]}", "1", weight.cols) for w, weight in weights.items()} if biases else {}
    return code.Attention(opaque("core", "e"), **weights, **rows)


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


def bridge_change_basis_biases(code: Code) -> str:
    """The biases of the new layer are the old ones."""
    new = code.change_basis(attention(code, biases=True), basis("Theta"))
    rows = [f"{rocq(getattr(new, f'b_{x}'), LETTERS)} = b{x}" for x in "QKVO"]
    widths = zip(("dq", "dk", "dv", "dout"), "QKVO", strict=True)
    variables = "dq dk dv dout " + " ".join(f"(b{x} : 'rV[R]_{width})" for width, x in widths)
    return lemma("bridge_change_basis_biases", variables, f"[/\\ {', '.join(rows[:-1])} & {rows[-1]}]")


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
IN_BLOCK = LETTERS | {name: f"{LETTERS[name][:-1]}(attn b)" for name in ("W_Q", "W_K", "W_V", "W_O", "core")}
ROWS = ("b_Q", "b_K", "b_V", "b_O", "b_up", "b_down")


def block(code: Code, attention_skip: bool, mlp_skip: bool, biases: bool = False) -> Any:
    rows = {"b_up": symbol("b_up", "1", "h1"), "b_down": symbol("b_down", "1", "d")} if biases else {}
    mlp = code.MLP(opaque("act", "h2"), symbol("W_up", "d", "h1"), symbol("W_down", "h2", "d"), **rows)
    return code.Block(attention(code, biases=biases, out="d"), mlp, attention_skip, mlp_skip)


def block_record(attention_skip: bool, mlp_skip: bool) -> str:
    return f"Block (attn b) (act b) (W_up b) (W_down b) {attention_skip} {mlp_skip}".replace("T", "t").replace("F", "f")


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
    h = symbol("h", "n", new.mlp.W_up.cols)
    act = f"(fun h => {rocq(new.mlp.act(h), IN_BLOCK)})"
    mlp = f"{act} {atom(rocq(new.mlp.W_up, IN_BLOCK))} {atom(rocq(new.mlp.W_down, IN_BLOCK))}"
    skips = f"{new.attention_skip} {new.mlp_skip}".lower()
    changed = f"Block ({record(new.attention, IN_BLOCK)}) {mlp} {skips}"
    return lemma(
        "bridge_rebase", f"{BLOCK} enter leave", f"rebase ({block_record(True, False)}) enter leave = {changed}"
    )


def bridge_rebase_biases(code: Code) -> str:
    """The biases after the change: only those of the two writes move."""
    new = code.rebase(block(code, True, False, biases=True), basis("enter"), basis("leave"))
    proved = [LETTERS[name] for name in ROWS]
    proved[ROWS.index("b_O")] += " *m enter"
    proved[ROWS.index("b_down")] += " *m leave"
    made = [rocq(getattr(new.mlp if name in ("b_up", "b_down") else new.attention, name), LETTERS) for name in ROWS]
    widths = zip(ROWS, ("dq", "dk", "dv", "d", "h1", "d"), strict=True)
    variables = " ".join(f"({LETTERS[name]} : 'rV[R]_{width})" for name, width in widths)
    return lemma(
        "bridge_rebase_biases",
        f"d dq dk dv h1 {variables} (enter leave : 'M[R]_d)",
        f"({', '.join(made)}) = ({', '.join(proved)})",
    )


BRIDGES: dict[str, Callable[[Code], str]] = {
    "mha": bridge_mha,
    "cross": bridge_cross,
    "mha_biased": bridge_mha_biased,
    "change_basis": bridge_change_basis,
    "change_basis_biases": bridge_change_basis_biases,
    "change_bases": bridge_change_bases,
    "eliminate_q": bridge_eliminate("Q"),
    "eliminate_k": bridge_eliminate("K"),
    "eliminate_v": bridge_eliminate("V"),
    "wide_query": bridge_wide_query,
    "cross_qk": bridge_cross_eliminate("K"),
    "cross_qv": bridge_cross_eliminate("V"),
    "merge_single_head": bridge_merge_single_head,
    "run_block": bridge_run_block(True, False),
    "run_block_no_skips": bridge_run_block(False, False),
    "run_block_mlp_skip": bridge_run_block(False, True),
    "run_block_both_skips": bridge_run_block(True, True),
    "run_block_biased": bridge_run_block_biased,
    "rebase": bridge_rebase,
    "rebase_biases": bridge_rebase_biases,
}


def bridge_text(names: tuple[str, ...] | None = None, code: Code | None = None) -> str:
    """The Rocq file of the named bridges (default: all), for the given Python (default: the package's own)."""
    return HEADER + "\n".join(BRIDGES[name](code or Code()) for name in names or tuple(BRIDGES))
