"""The bridges of ties and caches: what the Python of ``tying`` and ``lossless`` does, printed as lemmas.

The definitions are those of ``proofs/DegreesOfFreedom.v``, ``proofs/KeysEqualValues.v`` and ``proofs/KvCache.v``. A
construction on several heads is one head's construction for each of them; it is run on one head here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qkvtheory.lanes.rocq import Term, rocq
from qkvtheory.lanes.symbols import LETTERS, Code, attention, basis, lemma, over, record
from qkvtheory.words import opaque, symbol

HEADER = "From QKV Require Import DegreesOfFreedom KeysEqualValues KvCache.\n"

NAMES = LETTERS | {x: x for x in ("G", "J", "U", "WQ", "WK", "WV", "WO", "WC", "WUK", "WUV")} | {"U^R": "P"}


@dataclass(frozen=True)
class OneHead:
    """The core of a sublayer with a cache: the same function of any number of tokens, with one head."""

    core: Callable[..., Any]
    heads: int = 1
    kv_heads: int = 1

    def at(self, n: int, last: int | None = None) -> Callable[..., Any]:
        return self.core


def single_head(q: Any, k: Any, v: Any) -> Any:
    """An unknown map from scores to patterns."""
    return opaque("A", q.rows)(q @ k.mT) @ v


def head(code: Code, width: str, values: str, biases: bool = False, **weights: Any) -> Any:
    """One head of symbols; its keys are as wide as its queries."""
    shapes = {"W_Q": ("d", width), "W_K": ("d", width), "W_V": ("d", values), "W_O": (values, "out")}
    weights = {name: symbol(name, *shape) for name, shape in shapes.items()} | weights
    rows = {f"b_{w[2:]}": symbol(f"b_{w[2:]}", "1", weights[w].cols) for w in shapes} if biases else {}
    return code.Attention(opaque("core", values), **weights, **rows)


def pairs(made: list[Any], proved: list[str]) -> str:
    return f"({', '.join(rocq(row, NAMES) for row in made)}) = ({', '.join(proved)})"


def biases(widths: str) -> str:
    return " ".join(f"(b{x} : 'rV[R]_{width})" for x, width in zip("QKVO", widths.split(), strict=True))


# -- gauges and ties ---------------------------------------------------------------------------------------------------


def bridge_turn_heads(code: Code) -> str:
    """The weights in other bases inside the heads, and all four biases."""
    new = code.turn_heads(head(code, "p", "v", biases=True), basis("G", "p"), basis("J", "v"))
    rows = pairs([new.b_Q, new.b_K, new.b_V, new.b_O], ["bQ *m G", "bK *m (invmx G)^T", "bV *m J", "bO"])
    variables = over("n n d d p p v v dout", f"{biases('p p v dout')} G J")
    return lemma("bridge_turn_heads", variables, f"turn_heads a G J = {record(new, NAMES)} /\\ {rows}")


def bridge_tie_after(code: Code) -> str:
    """Keys or values in the place of both, with their bias."""
    kept = [code.tie_after(head(code, "p", "p", biases=True), which) for which in "KV"]
    facts = [f"keep_{which} a = {record(new, NAMES)}" for which, new in zip("kv", kept, strict=True)]
    rows = [
        pairs([a.b_Q, a.b_K, a.b_V, a.b_O], ["bQ", *[f"b{which}"] * 2, "bO"])
        for which, a in zip("KV", kept, strict=True)
    ]
    statement = f"[/\\ {', '.join([*facts, rows[0]])} & {rows[1]}]"
    return lemma("bridge_tie_after", over("n n d d p p p p dout", biases("p p p dout")), statement)


def named(code: Code, **weights: Any) -> Any:
    """One head that reads bare scores, with the names of the theorems about ``single_head``."""
    return code.Attention(single_head, **{f"W_{name[1:]}": weight for name, weight in weights.items()})


HEAD = "n d p dout (A : 'M[R]_n -> 'M[R]_n) (WQ WK : 'M[R]_(d, p))"


def bridge_keys_in_values(code: Code) -> str:
    """Narrow values U^T, with P a right inverse of U."""
    WQ, WK, WO = symbol("WQ", "d", "p"), symbol("WK", "d", "p"), symbol("WO", "p", "out")
    new = code.keys_in_values(named(code, WQ=WQ, WK=WK, WV=symbol("U", "p", "d", full_row_rank=True).mT, WO=WO))
    variables = f"{HEAD} (U : 'M[R]_(p, d)) (WO : 'M[R]_(p, dout)) P"
    return lemma("bridge_keys_in_values", variables, f"keys_in_values A WQ WK U WO P = {record(new, NAMES)}")


def bridge_keys_in_square_values(code: Code) -> str:
    """One head of full width: the weights of the theorem ``kv_single_head_lossless``."""
    WQ, WK, WO = symbol("WQ", "d", "p"), symbol("WK", "d", "p"), symbol("WO", "d", "out")
    new = code.keys_in_values(named(code, WQ=WQ, WK=WK, WV=basis("WV"), WO=WO))
    proved = "Attention (@single_head _ n A d d) (WQ *m WK^T *m (invmx WV)^T) WV WV WO"
    variables = f"{HEAD} (WV : 'M[R]_d) (WO : 'M[R]_(d, dout))"
    return lemma("bridge_keys_in_square_values", variables, f"{proved} = {record(new, NAMES)}")


# -- latents -----------------------------------------------------------------------------------------------------------

LATENT = "n d dc w v dout (A : 'M[R]_n -> 'M[R]_n) (WQ : 'M[R]_(d, w)) (WC : 'M[R]_(d, dc)) (WUK : 'M[R]_(dc, w))"
LATENT += " (WUV : 'M[R]_(dc, v)) (WO : 'M[R]_(v, dout))"


def latent(code: Code) -> Any:
    shapes = {"WQ": ("d", "w"), "WC": ("d", "c"), "WUK": ("c", "w"), "WUV": ("c", "v"), "WO": ("v", "out")}
    weights = {f"W_{name[1:]}": symbol(name, *shape) for name, shape in shapes.items()}
    return code.Latent(core=OneHead(single_head), **weights)


def bridge_latent(code: Code) -> str:
    """The plain sublayer that MLA without its rotary part is."""
    plain = "Attention (@single_head _ n A w v) WQ (WC *m WUK) (WC *m WUV) WO"
    return lemma("bridge_latent", LATENT, f"{plain} = {record(latent(code).attention(1), NAMES)}")


def bridge_absorbed(code: Code) -> str:
    new = code.absorbed(latent(code), 1)
    return lemma("bridge_absorbed", LATENT, f"absorbed A WQ WC WUK WUV WO = {record(new, NAMES)}")


# -- caches and recurrences --------------------------------------------------------------------------------------------

SLIM = "n n d d dq d dv e dout"


def bridge_slim(code: Code) -> str:
    """The map from keys to values and its bias; everything else is held as it was."""
    old = attention(code, "K", biases=True)
    held = {name: value for name, value in vars(old).items() if name != "core"}
    new = code.slim(code.Separate(core=OneHead(old.core), **held))
    kept = ["W_Q", "W_K", "W_O", "b_Q", "b_K", "b_O"]
    made = [new.W_KV, new.b_KV, *(getattr(new, name) for name in kept)]
    proved = ["slim_map a", "slim_bias a bK bV", *(NAMES[name] for name in kept)]
    return lemma("bridge_slim", over(SLIM, biases("dq d dv dout")), pairs(made, proved), "by rewrite /slim_bias mulmxA")


def bridge_run_slim(code: Code) -> str:
    """One forward pass: what is stored, what is recalled from it, and what the core makes of that."""
    weights = {f"W_{x}": Term(f"W_{x} a") for x in "QKO"} | {"W_KV": Term("slim_map a")}
    rows = {f"b_{x}": Term(f"b{x}", row=True) for x in "QKO"} | {"b_KV": Term("slim_bias a bK bV", row=True)}
    core, x = OneHead(Term.function("core a")), Term("X")
    layer = code.Slim(core=core, **weights, **rows)
    value = core.at(1)(layer.queries(x), *layer.recalled(layer.stored(x))) @ layer.W_O + layer.b_O
    variables = over(SLIM, f"{biases('dq d dv dout')} X")
    return lemma("bridge_run_slim", variables, f"slim a bQ bK bV bO X = {value}")


def bridge_tied_sums(code: Code) -> str:
    """Three tokens of the recurrence."""
    tokens = [(Term(f"f {t}%N"), Term(f"z {t}%N")) for t in range(3)]
    made = [
        sums
        for t, (S, N) in enumerate(code.tied_sums(tokens))
        for sums in ((f"numerator f z {t}%N", S), (f"denominator f {t}%N", N))
    ]
    facts = " /\\\n  ".join(f"{proved} = {value}" for proved, value in made)
    variables = "p m (f : nat -> 'rV[R]_m) (z : nat -> 'rV[R]_p)"
    return lemma("bridge_tied_sums", variables, facts, "by rewrite /numerator /denominator /= !add0r")


BRIDGES: dict[str, Callable[[Code], str]] = {
    "turn_heads": bridge_turn_heads,
    "tie_after": bridge_tie_after,
    "keys_in_values": bridge_keys_in_values,
    "keys_in_square_values": bridge_keys_in_square_values,
    "latent": bridge_latent,
    "absorbed": bridge_absorbed,
    "slim": bridge_slim,
    "run_slim": bridge_run_slim,
    "tied_sums": bridge_tied_sums,
}
