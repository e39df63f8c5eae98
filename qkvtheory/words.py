"""The symbolic engine: sums of words of matrix letters, for all sizes at once.

A matrix expression is a sum of *words*; a word is a product of *letters*; a letter is a named matrix of symbolic
shape, its
inverse or transpose, or an unknown function applied to other expressions. Sums and products are brought to normal
form as
they are made, so two expressions with equal normal forms are equal matrices for every size, over every commutative
ring.

An inverse exists, and cancels, only under a *declared* hypothesis. Nothing else is ever simplified, apart from the
named
``RULES`` below; each of them is tested on random instances.

>>> X, W = symbol("X", "n", "d"), symbol("W", "d", "p")
>>> Theta = symbol("Theta", "d", "d", invertible=True)
>>> (X @ Theta) @ (Theta.inverse() @ W) == X @ W
True
>>> symbol("A", "d", "d").inverse()
Traceback (most recent call last):
    ...
qkvtheory.errors.HypothesisError: hypothesis 'invertible' fails: nothing declares A invertible...
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from qkvtheory.errors import HypothesisError

Scalar = int | Fraction
GREEK = {"Theta", "Phi", "Lambda", "Gamma", "Omega", "Sigma", "Pi"}


class Letter:
    """One factor of a word. Interned: equal letters are the same object, so deep expressions compare in one step."""

    __slots__ = ("__weakref__", "args", "cols", "facts", "inputs", "inverted", "name", "rows", "transposed")
    name: str
    rows: str
    cols: str
    args: tuple[Word, ...]
    facts: frozenset[str]
    inverted: bool
    transposed: bool
    inputs: int

    _known: ClassVar[WeakValueDictionary[Any, Letter]] = WeakValueDictionary()

    def __new__(
        cls,
        name: str,
        rows: str,
        cols: str,
        args: tuple[Word, ...] = (),
        facts: Iterable[str] = (),
        inverted: bool = False,
        transposed: bool = False,
        inputs: int = 0,
    ) -> Letter:
        key = (name, rows, cols, args, frozenset(facts), inverted, transposed, inputs)
        letter = cls._known.get(key)
        if letter is None:
            letter = object.__new__(cls)
            letter.name, letter.rows, letter.cols, letter.args = name, rows, cols, args
            letter.facts, letter.inverted, letter.transposed, letter.inputs = key[4], inverted, transposed, inputs
            cls._known[key] = letter
        return letter

    def turned(self, inverted: bool, transposed: bool) -> Letter:
        """This letter with its exponents set, in normal form for orthogonal and symmetric letters."""
        if "orthogonal" in self.facts and transposed:
            inverted, transposed = not inverted, False
        if "symmetric" in self.facts:
            transposed = False
        swapped = inverted != self.inverted, transposed != self.transposed
        rows, cols = (self.cols, self.rows) if swapped[0] != swapped[1] else (self.rows, self.cols)
        return Letter(self.name, rows, cols, self.args, self.facts, inverted, transposed, self.inputs)

    @property
    def mT(self) -> Letter:
        return self.turned(self.inverted, not self.transposed)

    def inverse(self) -> Letter:
        if not self.facts & {"invertible", "orthogonal"}:
            raise HypothesisError("invertible", f"nothing declares {self.name} invertible, so it has no inverse here")
        return self.turned(not self.inverted, self.transposed)

    def __str__(self) -> str:
        if self is ones_letter(self.rows, self.cols):
            return "1" if self.cols == "1" else "1^T"
        body = self.name + (f"({', '.join(map(str, self.args))})" if self.args else "")
        exponent = {(0, 0): "", (1, 0): "^-1", (0, 1): "^T", (1, 1): "^-T"}[self.inverted, self.transposed]
        return body + exponent

    __repr__ = __str__

    def latex(self) -> str:
        if self is ones_letter(self.rows, self.cols):
            return r"\mathbf{1}" if self.cols == "1" else r"\mathbf{1}^{\top}"
        inverse = "R" if "full row rank" in self.facts else "-1"
        exponents = {(0, 0): "", (1, 0): inverse, (0, 1): r"\top", (1, 1): r"-\top"}
        exponent = exponents[self.inverted, self.transposed]
        if not self.args:
            return latex_name(self.name, exponent)
        parts = [a.latex() for a in self.args]
        return latex_call(self.name, parts, self.inputs) + (f"^{{{exponent}}}" if exponent else "")


def latex_call(name: str, arguments: list[str], inputs: int = 0) -> str:
    """f(x; a, b): the first ``inputs`` arguments stand before the semicolon."""
    groups = (arguments[:inputs], arguments[inputs:]) if inputs else (arguments,)
    listed = r";\, ".join(r",\, ".join(group) for group in groups if group)
    return f"{latex_name(name)}({listed})"


def latex_name(name: str, exponent: str = "") -> str:
    """LaTeX for a letter: ``W_Q^1`` has a superscript, ``Theta`` is Greek, longer names are upright."""
    stem, _, upper = name.partition("^")
    stem, _, lower = stem.partition("_")
    if stem in GREEK or stem in {"exp", "phi"}:
        stem = "\\" + stem
    elif len(stem) > 1:
        stem = rf"\mathrm{{{stem}}}"
    raised = ",".join(part for part in (upper, exponent) if part)
    return (
        stem
        + (f"_{{{lower}}}" if len(lower) > 1 else f"_{lower}" if lower else "")
        + (f"^{{{raised}}}" if raised else "")
    )


def ones_letter(rows: str, cols: str) -> Letter | None:
    """The all-ones column (size x 1), or its transpose; None for other shapes."""
    if cols == "1":
        return Letter("ones", rows, "1")
    return Letter("ones", "1", cols, transposed=True) if rows == "1" else None


# -- the named rewrite rules -------------------------------------------------------------------------------------------
# Each rule looks at two neighboring letters and returns the letters that replace them, () for nothing (the identity),
# "zero" if the whole word vanishes, or None if the rule does not apply.


def rule_inverse(a: Letter, b: Letter) -> Any:
    """A A^-1 = I and A^-1 A = I for a letter declared invertible; W W^R = I for one of full row rank."""
    if a.name != b.name or a.inverted == b.inverted or a.transposed != b.transposed or "formal" in a.facts:
        return None
    if a.args != b.args or a.facts != b.facts:
        return None
    both_sides = a.facts & {"invertible", "orthogonal"}
    right_only = "full row rank" in a.facts and (b.inverted if not a.transposed else a.inverted)
    return () if both_sides or right_only else None


def rule_rows_sum_to_one(a: Letter, b: Letter) -> Any:
    """A 1 = 1 for a row-stochastic A."""
    if "rows sum to one" in a.facts and not a.transposed and b is ones_letter(b.rows, "1"):
        return (Letter("ones", a.rows, "1"),)
    return None


def rule_annihilates(a: Letter, b: Letter) -> Any:
    """Z W = 0 for a Z declared to lie in the left null space of W."""
    return "zero" if f"annihilates {b}" in a.facts and not (a.inverted or a.transposed) else None


RULES: tuple[Callable[[Letter, Letter], Any], ...] = (rule_inverse, rule_rows_sum_to_one, rule_annihilates)


def join(u: tuple[Letter, ...], v: tuple[Letter, ...]) -> tuple[Letter, ...] | None:
    """The normal form of the product of two normal words, or None if it is zero."""
    while u and v:
        for rule in RULES:
            result = rule(u[-1], v[0])
            if result is not None:
                break
        else:
            break
        if result == "zero":
            return None
        u, v = u[:-1], (*result, *v[1:])
    return u + v


class Word:
    """A sum of words of one shape. Immutable; ``==`` compares normal forms."""

    __slots__ = ("_hash", "cols", "rows", "terms")

    def __init__(self, rows: str, cols: str, terms: Iterable[tuple[tuple[Letter, ...], Scalar]]):
        total: dict[tuple[Letter, ...], Scalar] = {}
        for word, coefficient in terms:
            total[word] = total.get(word, 0) + coefficient
        self.rows, self.cols = rows, cols
        self.terms = frozenset((word, k) for word, k in total.items() if k)
        self._hash = hash((rows, cols, self.terms))

    shape = property(lambda self: (self.rows, self.cols))
    ndim = 2

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Word):
            return NotImplemented
        return self._hash == other._hash and self.shape == other.shape and self.terms == other.terms

    def __matmul__(self, other: Word) -> Word:
        if self.cols != other.rows:
            raise shape_error(self, "@", other)
        products = ((join(u, v), a * b) for u, a in self.terms for v, b in other.terms)
        return Word(self.rows, other.cols, ((word, k) for word, k in products if word is not None))

    def __add__(self, other: Word) -> Word:
        if self.shape != other.shape and other.rows == "1" and self.cols == other.cols:
            other = ones(self.rows) @ other  # a 1 x k row is added to every row, as arrays broadcast it
        if self.shape != other.shape:
            raise shape_error(self, "+", other)
        return Word(self.rows, self.cols, (*self.terms, *other.terms))

    def __rmul__(self, scalar: Scalar) -> Word:
        if not isinstance(scalar, int | Fraction):
            raise TypeError(f"coefficients are whole numbers or fractions, not {type(scalar).__name__}")
        return Word(self.rows, self.cols, ((word, scalar * k) for word, k in self.terms))

    def __neg__(self) -> Word:
        return -1 * self

    def __sub__(self, other: Word) -> Word:
        return self + (-other)

    @property
    def mT(self) -> Word:
        """Transpose: reverse every word and transpose its letters."""
        flipped = ((tuple(letter.mT for letter in reversed(word)), k) for word, k in self.terms)
        return Word(self.cols, self.rows, flipped)

    def inverse(self) -> Word:
        """The inverse of a single word whose letters are all declared invertible. Raises HypothesisError otherwise."""
        if self.rows != self.cols:
            raise HypothesisError("square", f"{self} is {self.rows} x {self.cols}: only a square matrix has an inverse")
        word, k = self.single("an inverse")
        return Word(self.cols, self.rows, [(tuple(letter.inverse() for letter in reversed(word)), Fraction(1) / k)])

    def right_inverse(self) -> Word:
        """R with self @ R = I: the inverse if there is one, else that of a letter declared of full row rank."""
        word, k = self.single("a right inverse")
        if len(word) == 1 and "full row rank" in word[0].facts and not word[0].inverted:
            return Word(self.cols, self.rows, [((word[0].turned(True, False),), Fraction(1) / k)])
        if self.rows != self.cols:
            raise HypothesisError("full row rank", f"nothing declares that {self} has full row rank")
        return self.inverse()

    identity = staticmethod(lambda size: identity(size))

    def single(self, wanted: str) -> tuple[tuple[Letter, ...], Scalar]:
        if len(self.terms) != 1:
            raise HypothesisError(
                "invertible", f"nothing declares the sum {self.brief()} invertible, so it has not {wanted} here"
            )
        ((word, k),) = self.terms
        return word, k

    def letters(self) -> set[Letter]:
        """Every letter in the expression, inside arguments too."""
        found: set[Letter] = set()
        queue = [self]
        while queue:
            for word, _ in queue.pop().terms:
                new = set(word) - found
                found |= new
                queue += [argument for letter in new for argument in letter.args]
        return found

    def brief(self) -> str:
        """The expression for a message; of a deep one only its size, since writing it out doubles with every layer."""
        count = len(self.letters())
        return str(self) if count <= 40 else f"an expression in {count} letters"

    def opaque(self) -> tuple[str, ...]:
        """Names of the functions about which nothing was assumed, beyond their declared laws."""
        return tuple(sorted({letter.name for letter in self.letters() if letter.args}))

    def sorted_terms(self) -> list[tuple[tuple[Letter, ...], Scalar]]:
        return sorted(self.terms, key=lambda term: (len(term[0]), str(term[0])))

    def __str__(self) -> str:
        return join_terms(self, lambda word: " ".join(map(str, word)) or "I") or "0"

    __repr__ = __str__

    def latex(self) -> str:
        return join_terms(self, lambda word: juxtapose(a.latex() for a in word) or "I") or "0"


def juxtapose(factors: Iterable[str]) -> str:
    """Factors side by side, with a space where a control word would swallow the next letter."""
    text = ""
    for factor in factors:
        text += (" " if re.search(r"\\[A-Za-z]+$", text) and factor[:1].isalpha() else "") + factor
    return text


def join_terms(expression: Word, show: Callable[[tuple[Letter, ...]], str]) -> str:
    text = ""
    for word, k in expression.sorted_terms():
        sign = ("-" if k < 0 else "") if not text else (" - " if k < 0 else " + ")
        text += sign + (str(abs(k)) + " " if abs(k) != 1 else "") + show(word)
    return text


def shape_error(a: Word, operation: str, b: Word) -> HypothesisError:
    return HypothesisError(
        "shapes agree", f"{a.rows} x {a.cols} {operation} {b.rows} x {b.cols} ({a.brief()} {operation} {b.brief()})"
    )


# -- making words ------------------------------------------------------------------------------------------------------


def symbol(name: str, rows: str, cols: str, **facts: bool) -> Word:
    """A matrix about which nothing is known but its shape and the facts declared here.

    Facts: ``invertible``, ``orthogonal`` (square letters), ``symmetric``, ``full_row_rank`` (has a right inverse),
    ``rows_sum_to_one``, ``formal`` (an inverse may be written but never cancels: to show where a hypothesis is used).
    """
    if name == "ones":
        raise ValueError("'ones' is the column of ones; choose another name for this letter")
    declared = {fact.replace("_", " ") for fact, holds in facts.items() if holds}
    unknown = declared - {"invertible", "orthogonal", "symmetric", "full row rank", "rows sum to one", "formal"}
    if unknown:
        raise ValueError(f"unknown facts {sorted(unknown)} about {name}")
    if rows != cols and declared & {"invertible", "orthogonal", "symmetric"}:
        raise HypothesisError("square", f"{name} is {rows} x {cols} and cannot be {sorted(declared)[0]}")
    return Word(rows, cols, [((Letter(name, rows, cols, facts=declared),), 1)])


def opaque(
    name: str, cols: str | None = None, rows: str | None = None, inputs: int = 0, **facts: bool
) -> Callable[..., Word]:
    """An unknown function of matrices: equal arguments give equal values; only declared facts are assumed besides."""
    declared = {fact.replace("_", " ") for fact, holds in facts.items() if holds}

    def apply(*args: Word) -> Word:
        r, c = rows or args[0].rows, cols or args[0].cols
        return Word(r, c, [((Letter(name, r, c, args, declared, inputs=inputs),), 1)])

    return apply


def softmax(scores: Word, name: str = "softmax") -> Word:
    """Row softmax with its two laws: rows sum to one, and a term r 1^T, constant along rows, is invisible."""
    ones_row = Letter("ones", "1", scores.cols, transposed=True)
    visible = Word(scores.rows, scores.cols, ((w, k) for w, k in scores.terms if not (w and w[-1] is ones_row)))
    return opaque(name, rows_sum_to_one=True)(visible)


def exponential(scores: Word) -> Word:
    """Entrywise exp with its law exp(S + r 1^T) = diag(exp(r)) exp(S)."""
    ones_row = Letter("ones", "1", scores.cols, transposed=True)
    along_rows = [(w[:-1], k) for w, k in scores.terms if w and w[-1] is ones_row]
    rest = Word(scores.rows, scores.cols, (term for term in scores.terms if not (term[0] and term[0][-1] is ones_row)))
    plain = opaque("exp")(rest)
    return diagonal(opaque("exp")(Word(scores.rows, "1", along_rows))) @ plain if along_rows else plain


def diagonal(v: Word) -> Word:
    """diag(v) of a column without zeros: diagonal and invertible, with the law diag(D v) = D diag(v) for diagonal D."""
    if v.cols != "1":
        raise HypothesisError("shapes agree", f"diag takes a column, not {v.rows} x {v.cols}")
    first = {word[0] if word else None for word, _ in v.terms}
    (lead,) = first if len(first) == 1 else (None,)
    if lead is not None and "diagonal" in lead.facts:
        rest = Word(lead.cols, v.cols, ((word[1:], k) for word, k in v.terms))
        return Word(lead.rows, lead.cols, [((lead,), 1)]) @ diagonal(rest)
    return opaque("diag", cols=v.rows, diagonal=True, invertible=True)(v)


def identity(size: str) -> Word:
    return Word(size, size, [((), 1)])


def zero(rows: str, cols: str) -> Word:
    return Word(rows, cols, [])


def ones(size: str) -> Word:
    """The column of ones, size x 1."""
    if size == "1":
        return identity("1")
    return Word(size, "1", [((Letter("ones", size, "1"),), 1)])


def annihilator(name: str, rows: str, of: Word) -> Word:
    """A matrix Z about which only Z @ of = 0 is known, for a single letter ``of``."""
    ((word, _),) = of.terms
    return Word(rows, of.rows, [((Letter(name, rows, of.rows, facts={f"annihilates {word[0]}"}),), 1)])
