"""The induction step of the attention-skip theorem in plain SymPy: expand and doit until nothing changes."""

from __future__ import annotations

import sympy
from sympy import Identity, MatrixSymbol, Symbol, symbols
from sympy.matrices.expressions.matexpr import MatrixExpr

n, d = symbols("n d", integer=True, positive=True)


class Unknown(MatrixExpr):
    """A matrix-valued function about which nothing is known: Unknown(name, rows, cols, *arguments)."""

    shape = property(lambda self: (self.args[1], self.args[2]))

    def doit(self, **hints: bool) -> Unknown:
        return self.func(*self.args[:3], *(settled(a) for a in self.args[3:]))


def settled(expression: MatrixExpr) -> MatrixExpr:
    previous = None
    while expression != previous:
        previous, expression = expression, sympy.expand(expression.doit()).doit()
    return expression


def block(weights: dict[str, MatrixExpr], x: MatrixExpr) -> MatrixExpr:
    core = Unknown(Symbol("g"), n, Symbol("o"), x * weights["Q"], x * weights["K"], x * weights["V"])
    y = x + core * weights["O"]
    return Unknown(Symbol("phi"), n, Symbol("m"), y * weights["U"]) * weights["D"]


def sympy_step() -> None:
    """The same step as ``lines.induction_step``."""
    shapes = {"Q": (d, d), "K": (d, "k"), "V": (d, "v"), "O": ("o", d), "U": (d, "h"), "D": ("m", d)}
    old = {name: MatrixSymbol(name, *map(sympy.sympify, shape)) for name, shape in shapes.items()}
    x, leave, back = MatrixSymbol("X", n, d), MatrixSymbol("N", d, d), old["Q"].I
    new = {"Q": Identity(d), "K": back * old["K"], "V": back * old["V"], "O": old["O"] * old["Q"]}
    new |= {"U": back * old["U"], "D": old["D"] * leave}
    assert settled(block(new, x * old["Q"])) == settled(block(old, x) * leave)
