"""The written world: both sides of a statement as the code computes them, before any simplification.

A page prints a claim's equation from here, so the formula a reader sees is what the checked functions did, in their
order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from qkvtheory import words
from qkvtheory.claims.model import Call, Claim, weights_of
from qkvtheory.lanes.worlds import Words

ATOM, PRODUCT, SUM = 0, 1, 2
WIDE = 47  # of a formula on a line of a page, as `width` counts
T, INVERSE, BOTH = r"\top", "-1", r"-\top"
COMBINED = {(T, T): "", (T, INVERSE): BOTH, (INVERSE, T): BOTH, (BOTH, T): INVERSE, (BOTH, INVERSE): T}


class Written:
    """An expression that only writes itself down: LaTeX, shape, and how tightly it binds."""

    ndim = 2

    def __init__(self, latex: str, rows: str, cols: str, binds: int = ATOM, power: Power | None = None):
        self.text, self.rows, self.cols, self.binds = latex, rows, cols, binds
        self.power = power  # of a letter, or of something in brackets: what it is, and the exponent, which can change

    shape = property(lambda self: (self.rows, self.cols))
    identity = staticmethod(lambda size: Written("I", size, size))
    centering = staticmethod(lambda size: Written("C", size, size, power=("C", "")))

    def latex(self) -> str:
        return self.text

    def inside(self, allowed: int) -> str:
        return self.text if self.binds <= allowed else f"({self.text})"

    def __matmul__(self, other: Written) -> Written:
        if "I" in (self.text, other.text):
            return other if self.text == "I" else self
        factors = words.juxtapose([self.inside(PRODUCT), other.inside(ATOM)])
        return Written(factors, self.rows, other.cols, PRODUCT)

    def __add__(self, other: Written) -> Written:
        if other.rows == "1" != self.rows:
            other = Written(r"\mathbf{1}" + other.inside(ATOM), self.rows, other.cols, PRODUCT)
        added = f"{self.text} - {other.text[1:]}" if other.text.startswith("-") else f"{self.text} + {other.text}"
        return Written(added, self.rows, self.cols, SUM)

    def __sub__(self, other: Written) -> Written:
        return Written(f"{self.text} - {other.inside(PRODUCT)}", self.rows, self.cols, SUM)

    def __rmul__(self, scalar: Any) -> Written:
        factor = "-" if scalar == -1 else f"{scalar}\\,"
        return Written(factor + self.inside(PRODUCT), self.rows, self.cols, SUM)

    def raised(self, exponent: str) -> Written:
        base, old = self.power or (self.inside(ATOM) if self.binds else self.text, "")
        if old and (old, exponent) not in COMBINED:
            base, old = f"({self.text})", ""
        new = COMBINED[old, exponent] if old else exponent
        return Written(with_exponent(base, new), self.cols, self.rows, power=(base, new))

    @property
    def mT(self) -> Written:
        return self.raised(T)

    def inverse(self) -> Written:
        return self.raised(INVERSE)

    def right_inverse(self) -> Written:
        return self.inverse() if self.rows == self.cols else self.raised("R")


Power = tuple[str, str]


def with_exponent(base: str, exponent: str) -> str:
    """The base is the name of a letter, or LaTeX that ends with a bracket."""
    if not exponent:
        return words.latex_name(base) if is_name(base) else base
    return words.latex_name(base, exponent) if is_name(base) else f"{base}^{{{exponent}}}"


def is_name(base: str) -> bool:
    return not base.endswith((")", "}"))


class WrittenWorld(Words):
    """The letters of ``Words`` as written expressions."""

    def letter(self, name: str, rows: str, cols: str) -> Any:
        return Written(words.latex_name(name), rows, cols, power=(name, ""))

    def matrix(self, name: str, rows: str, cols: str) -> Any:
        return self.letter(name, rows, cols)

    def invertible(self, name: str, size: str, hypothesis: str = "H2") -> Any:
        return self.letter(name, size, size)

    def orthogonal(self, name: str, size: str, hypothesis: str = "H1") -> Any:
        return self.letter(name, size, size)

    def fixing_ones(self, name: str, size: str, hypothesis: str = "H1", fixes: str = "H2") -> Any:
        return self.letter(name, size, size)

    def full_row_rank(self, name: str, rows: str, cols: str, hypothesis: str = "H2") -> Any:
        return self.letter(name, rows, cols)

    def annihilator(self, name: str, rows: str, of: Any) -> Any:
        return self.letter(name, rows, of.rows)

    def identity(self, size: str) -> Any:
        return Written("I", size, size)

    def ones(self, size: str) -> Any:
        return Written(r"\mathbf{1}", size, "1")

    def function(self, name: str, cols: str | None = None, rows: str | None = None) -> Callable[..., Any]:
        return lambda *args: applied(name, args, cols, rows)

    def core(self) -> Callable[..., Any]:
        return self.function("g", "o")

    def attention(self, *, square: bool = False, **given: Any) -> Any:
        given.setdefault("core", self.function("g", "d" if square else "o"))
        return super().attention(square=square, **given)

    def softmax(self, scores: Any, law: str = "", rows: str = "") -> Any:
        return applied("softmax", (scores,))

    def exp(self, scores: Any, law: str = "") -> Any:
        return applied("exp", (scores,))

    def diagonal(self, v: Any, hypothesis: str = "H1") -> Any:
        return applied("diag", (v,), cols=v.rows)

    def kernel(self, scores: Any) -> Any:
        return applied("phi", (scores,))

    def symmetric(self, name: str, size: str, hypothesis: str = "H1") -> Any:
        return self.letter(name, size, size)

    def centering(self, size: str) -> Any:
        return self.letter("C", size, size)

    def rotate(self, z: Any) -> Any:
        return applied("R", (z,))


def applied(
    name: str, args: Iterable[Any], cols: str | None = None, rows: str | None = None, inputs: int = 0
) -> Written:
    args = list(args)
    text = words.latex_call(name, [a.latex() for a in args], inputs)
    return Written(text, rows or args[0].rows, cols or args[0].cols)


def written(side: Any) -> str:
    """One side as LaTeX: a call by its name and weights, anything else as it was computed."""
    if isinstance(side, Call):
        value = side.value
        arguments = [*side.inputs, *weights_of(side.layer, Written)]
        return applied(side.name, arguments, value.cols, value.rows, len(side.inputs)).latex()
    return side.latex()


def both_sides(claim: Claim) -> list[tuple[str, str]]:
    """The claim's equations as LaTeX pairs, printed from its own two sides."""
    return [(written(left), written(right)) for left, right in claim.printed_in("symbolic")(WrittenWorld())]


def equations(claim: Claim) -> list[str]:
    """The same as formulas; where a side is exactly the identity matrix there is nothing to print.

    A claim about numbers only, without a symbolic lane, says what it says in its statement.
    """
    if "symbolic" not in claim.lanes:
        return []
    return [set_out(left, right) for left, right in both_sides(claim) if left != right]


def set_out(left: str, right: str) -> str:
    """An equation on one line, or on two or more if it is wider than a page."""
    if width(left + right) <= WIDE:
        return f"{left} = {right}"
    left, right = (r"\\ &\qquad ".join(lines(side)) for side in (left, right))
    return rf"\begin{{aligned}}&{left}\\ &\quad = {right}\end{{aligned}}"


def folded(latex: str, start: str = "") -> str:
    """An expression on one line, or on several if it is wider than a page; ``start`` is what stands before it.

    >>> folded("A + B", "{}= ")
    '{}= A + B'
    """
    first, *more = lines(latex)
    if not more:
        return start + first
    rest = r"\\ &\quad ".join([start + first, *more])
    return rf"\begin{{aligned}}&{rest}\end{{aligned}}"


def width(latex: str) -> int:
    """How many letters one sees, and one more for each plus, minus and comma, which have space around them.

    >>> width(r"\\mathrm{f}(X + Y,\\, W_{up})")
    11
    """
    visible = re.sub(r"\\mathrm|[{}^_,;\\ ]", "", re.sub(r"\\(?!mathrm)[A-Za-z]+", "x", latex))
    return len(visible) + len(re.findall(r" [+-] |,\\,", latex))


def lines(latex: str) -> list[str]:
    """Broken before a plus or minus and after a comma or semicolon, outside all braces, as late as a page allows."""
    found, line = [], ""
    for part in parts(latex):
        if line and width(line + part) > WIDE:
            found.append(line.rstrip())
            line = ""
        line += part
    return [*found, line]


def parts(latex: str) -> list[str]:
    """What may not be broken, in order."""
    found = [""]
    for piece in re.split(r"(?<=,\\, )|(?<=;\\, )|(?= [+-] )", latex):
        if found[-1].count("{") == found[-1].count("}"):
            found.append("")
        found[-1] += piece
    return [part for part in found if part]
