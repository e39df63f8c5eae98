"""The bridges of nonlinear queries: what the Python of ``queries`` does, printed as lemmas.

The definitions are those of ``proofs/NonlinearQueries.v``. The norm inside the query is an unknown function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qkvtheory.lanes.rocq import rocq
from qkvtheory.lanes.symbols import Code, basis, lemma
from qkvtheory.words import opaque, symbol

HEADER = "From QKV Require Import NonlinearQueries.\n"

NAMES = {"X": "X", "Theta": "T", "N": "N", "phi": "act", "core": "core", "ones": "ones", "W_1": "W1", "W_2": "W2"}
NAMES |= {f"{kind}_{x}": f"{kind}{x}" for kind in "Wb" for x in "KVO"}

QUERY = (
    "(N : 'M[R]_(n, d) -> 'M[R]_(n, d)) (act : 'M[R]_(n, r) -> 'M[R]_(n, r)) (W1 : 'M[R]_(d, r)) (W2 : 'M[R]_(r, d))"
)
WEIGHTS = (
    "(WK : 'M[R]_d) (WV : 'M[R]_(d, dv)) (WO : 'M[R]_(e, dout)) (bK : 'rV[R]_d) (bV : 'rV[R]_dv) (bO : 'rV[R]_dout)"
)
CORE = "(core : 'M[R]_(n, d) -> 'M[R]_(n, d) -> 'M[R]_(n, dv) -> 'M[R]_(n, e))"


def query(code: Code, normed: bool = True) -> Any:
    norm = opaque("N") if normed else None
    return code.ResidualQuery(opaque("phi"), symbol("W_1", "d", "r"), symbol("W_2", "r", "d"), norm)


def asking(code: Code, normed: bool = True) -> Any:
    """A sublayer of symbols with biases."""
    shapes = {"W_K": ("d", "d"), "W_V": ("d", "v"), "W_O": ("e", "out")}
    weights = {name: symbol(name, *shape) for name, shape in shapes.items()}
    rows = {f"b_{name[2:]}": symbol(f"b_{name[2:]}", "1", weight.cols) for name, weight in weights.items()}
    return code.QueryAttention(opaque("core", "e"), query(code, normed), **weights, **rows)


def bridge_residual_query(code: Code) -> str:
    value = rocq(query(code)(symbol("X", "n", "d")), NAMES)
    return lemma("bridge_residual_query", f"n d r {QUERY} X", f"residual_query N act W1 W2 X = {value}")


def bridge_ask(code: Code) -> str:
    value = rocq(asking(code)(symbol("X", "n", "d")), NAMES)
    variables = f"n d r dv e dout {CORE} {QUERY} {WEIGHTS} X"
    return lemma("bridge_ask", variables, f"ask core N act W1 W2 WK WV WO bK bV bO X = {value}")


def bridge_rebase_query(code: Code) -> str:
    """The weights of the theorem: those of the query, then those of the sublayer and its biases."""
    new = code.rebase_query(asking(code, normed=False), basis("Theta"))
    held = [new.query.W_1, new.query.W_2, new.W_K, new.W_V, new.W_O, new.b_K, new.b_V, new.b_O]
    made = ", ".join(rocq(weight, NAMES) for weight in held)
    proved = "invmx T *m W1, W2 *m T, invmx T *m WK *m (invmx T)^T, invmx T *m WV, WO, bK *m (invmx T)^T, bV, bO"
    variables = f"d r dv e dout (W1 : 'M[R]_(d, r)) (W2 : 'M[R]_(r, d)) {WEIGHTS} (T : 'M[R]_d)"
    return lemma("bridge_rebase_query", variables, f"({proved}) = ({made})")


BRIDGES: dict[str, Callable[[Code], str]] = {
    "residual_query": bridge_residual_query,
    "ask": bridge_ask,
    "rebase_query": bridge_rebase_query,
}
