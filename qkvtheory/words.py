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
from typing import Any, ClassVar, NamedTuple
from weakref import WeakValueDictionary

from qkvtheory.errors import HypothesisError

Scalar = int | Fraction
SQUARE = frozenset({"invertible", "orthogonal", "symmetric", "diagonal"})  # facts of square letters only
TWO_SIDED = frozenset({"invertible", "orthogonal"})
FACTS = SQUARE | {"full row rank", "rows sum to one", "formal", "entrywise"}
ALL_ONES = frozenset({"all ones"})  # nobody can declare it: only ``ones_letter`` makes such letters
OF_COLUMN = frozenset({"diagonal of its column"})  # nor this: only ``diagonal`` makes such letters
GREEK = {"Theta", "Phi", "Lambda", "Gamma", "Omega", "Sigma", "Pi"}


class Letter:
    """One factor of a word. Interned: equal letters are the same object, so deep expressions compare in one step."""

    __slots__ = ("__weakref__", "_text", "args", "cols", "facts", "inputs", "inverted", "name", "rows", "transposed")
    _text: str  # what __str__ gave: letters of letters are written many times over
    name: str
    rows: str
    cols: str
    args: tuple[Word, ...]
    facts: frozenset[Any]  # names of facts, and Annihilates(letter)
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
        facts: Iterable[Any] = (),
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
            letter._text = ""
            check_letter(letter)
            cls._known[key] = letter
        return letter

    def turned(self, inverted: bool, transposed: bool) -> Letter:
        """This letter with its exponents set, in normal form: orthogonal, symmetric, diagonal and entrywise letters."""
        if "orthogonal" in self.facts and transposed:
            inverted, transposed = not inverted, False
        if "diagonal" in self.facts or ("symmetric" in self.facts and "formal" not in self.facts):
            transposed = False
        if "entrywise" in self.facts and transposed != self.transposed:  # f(S)^T = f(S^T)
            args = tuple(argument.mT for argument in self.args)
            return Letter(self.name, self.cols, self.rows, args, self.facts, inverted, False, self.inputs)
        swapped = inverted != self.inverted, transposed != self.transposed
        rows, cols = (self.cols, self.rows) if swapped[0] != swapped[1] else (self.rows, self.cols)
        return Letter(self.name, rows, cols, self.args, self.facts, inverted, transposed, self.inputs)

    @property
    def mT(self) -> Letter:
        return self.turned(self.inverted, not self.transposed)

    def inverse(self) -> Letter:
        if not self.facts & TWO_SIDED:
            raise HypothesisError("invertible", f"nothing declares {self.name} invertible, so it has no inverse here")
        return self.turned(not self.inverted, self.transposed)

    def __str__(self) -> str:
        if not self._text:
            body = self.name + (f"({', '.join(map(str, self.args))})" if self.args else "")
            exponent = {(0, 0): "", (1, 0): "^-1", (0, 1): "^T", (1, 1): "^-T"}[self.inverted, self.transposed]
            self._text = ("1" if self.name == "ones" else body) + exponent
        return self._text

    __repr__ = __str__

    def latex(self) -> str:
        if self.name == "ones":
            return r"\mathbf{1}" if self.cols == "1" else r"\mathbf{1}^{\top}"
        inverse = "R" if "full row rank" in self.facts else "-1"
        exponents = {(0, 0): "", (1, 0): inverse, (0, 1): r"\top", (1, 1): r"-\top"}
        exponent = exponents[self.inverted, self.transposed]
        if not self.args:
            return latex_name(self.name, exponent)
        parts = [a.latex() for a in self.args]
        return latex_call(self.name, parts, self.inputs) + (f"^{{{exponent}}}" if exponent else "")


class Annihilates(NamedTuple):
    """The fact Z @ of = 0 about a letter Z. It holds the letter itself: another one may be printed the same way."""

    of: Letter

    def __str__(self) -> str:
        return f"annihilates {self.of}"


def check_letter(letter: Letter) -> None:
    """What no letter may claim, however it was made: facts its shape or its arguments exclude, or a reserved name."""
    if (letter.name == "ones") != (letter.facts == ALL_ONES):
        raise ValueError("'ones' is the column of ones; choose another name for this letter")
    if (letter.name == "diag") != (letter.facts >= OF_COLUMN):
        raise ValueError("'diag' is the diagonal matrix of a column; make it with diagonal, or choose another name")
    if letter.name == "diag" and [a.shape for a in letter.args] != [(letter.rows, "1")]:
        raise ValueError("'diag' is the diagonal matrix of one column, and as large as that column is long")
    if "entrywise" in letter.facts:
        check_entrywise(letter)
    impossible = sorted(SQUARE & letter.facts)
    if impossible and letter.rows != letter.cols:
        raise HypothesisError("square", f"{letter.name} is {letter.rows} x {letter.cols} and cannot be {impossible[0]}")


def check_entrywise(letter: Letter) -> None:
    """f(S), a value for each entry of S: as large as S, and without further facts, which no f need keep."""
    if [a.shape for a in letter.args] != [(letter.rows, letter.cols)] or letter.facts != {"entrywise"}:
        raise ValueError(
            f"{letter.name} cannot be entrywise: an entrywise function has one argument, the shape of that argument, "
            "and no other facts"
        )


def latex_call(name: str, arguments: list[str], inputs: int = 0) -> str:
    """f(x; a, b): the first ``inputs`` arguments stand before the semicolon."""
    groups = (arguments[:inputs], arguments[inputs:]) if inputs else (arguments,)
    listed = r";\, ".join(r",\, ".join(group) for group in groups if group)
    return f"{latex_name(name)}({listed})"


def latex_name(name: str, exponent: str = "") -> str:
    """LaTeX for a letter: ``W_Q^1`` has a superscript, ``Theta`` is Greek, longer names are upright."""
    stem, _, upper = name.partition("^")
    stem, _, lower = stem.partition("_")
    if stem in GREEK or stem in {"exp", "phi", "rho", "gamma"}:
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
        return Letter("ones", rows, "1", facts=ALL_ONES)
    return Letter("ones", "1", cols, facts=ALL_ONES, transposed=True) if rows == "1" else None


def ones_word(rows: str, cols: str) -> tuple[Letter, ...]:
    """The same as a word. The column of a single 1 is the identity, the empty word."""
    letter = None if rows == cols else ones_letter(rows, cols)
    return () if letter is None else (letter,)


# -- the named rewrite rules -------------------------------------------------------------------------------------------
# Each rule looks at two neighboring letters and returns the letters that replace them, () for nothing (the identity),
# "zero" if the whole word vanishes, or None if the rule does not apply.


def rule_inverse(a: Letter, b: Letter) -> Any:
    """A A^-1 = I and A^-1 A = I for a letter declared invertible; W W^R = I for one of full row rank."""
    if a.name != b.name or a.inverted == b.inverted or a.transposed != b.transposed or "formal" in a.facts:
        return None
    if a.args != b.args or a.facts != b.facts:
        return None
    right_only = "full row rank" in a.facts and (b.inverted if not a.transposed else a.inverted)
    return () if a.facts & TWO_SIDED or right_only else None


def rule_rows_sum_to_one(a: Letter, b: Letter) -> Any:
    """A 1 = 1, and 1^T A^T = 1^T, if the rows of A sum to one. So do those of a two-sided inverse, but not those of
    a mere right inverse.
    """
    if keeps_ones(a) and b is ones_letter(b.rows, "1"):
        return ones_word(a.rows, "1")
    if a is ones_letter("1", a.cols) and keeps_ones(b.mT):
        return ones_word("1", b.cols)
    return None


def keeps_ones(a: Letter) -> bool:
    if "rows sum to one" not in a.facts or "formal" in a.facts or a.transposed:
        return False
    return not a.inverted or bool(a.facts & TWO_SIDED)


def rule_annihilates(a: Letter, b: Letter) -> Any:
    """Z W = 0 for a Z declared to lie in the left null space of W; and W^T Z^T = 0, which says the same."""
    return "zero" if kills(a, b) or kills(b.mT, a.mT) else None


def kills(a: Letter, b: Letter) -> bool:
    return Annihilates(b) in a.facts and not (a.inverted or a.transposed)


def rule_diagonal(a: Letter, b: Letter) -> Any:
    """diag(v) 1 = v and 1^T diag(v) = v^T, for a column v that is one word."""
    if b is ones_letter(b.rows, "1"):
        return column_of(a)
    if a is ones_letter("1", a.cols):
        column = column_of(b)
        return None if column is None else tuple(letter.mT for letter in reversed(column))
    return None


def column_of(letter: Letter) -> tuple[Letter, ...] | None:
    """The word v of a letter diag(v); None for other letters, and where v is a sum, which no one word can replace."""
    if letter.name != "diag" or letter.inverted or len(letter.args) != 1 or letter.args[0].cols != "1":
        return None
    terms = list(letter.args[0].terms)
    return terms[0][0] if len(terms) == 1 and terms[0][1] == 1 and terms[0][0] else None


RULES: tuple[Callable[[Letter, Letter], Any], ...] = (
    rule_inverse,
    rule_rows_sum_to_one,
    rule_annihilates,
    rule_diagonal,
)


def join(u: tuple[Letter, ...], v: tuple[Letter, ...]) -> tuple[Letter, ...] | None:
    """The normal form of the product of two normal words, or None if it is zero."""
    while u and v:
        for rule in RULES:
            result = rule(u[-1], v[0])
            if result is not None:
                break
        else:
            return normalized(u + v)
        left = None if result == "zero" else join(u[:-1], result)
        if left is None:
            return None
        u, v = left, v[1:]  # what was put in may cancel with its neighbors on either side
    return u + v


def joined(*parts: tuple[Letter, ...]) -> tuple[Letter, ...] | None:
    """The same for several words."""
    total: tuple[Letter, ...] | None = ()
    for part in parts:
        total = None if total is None else join(total, part)
    return total


def normalized(word: tuple[Letter, ...]) -> tuple[Letter, ...] | None:
    """diag(v)^-1 v = 1 and v^T diag(v)^-1 = 1^T, wherever they stand in the word: rule_diagonal read backwards."""
    for at, letter in enumerate(word):
        if letter.name != "diag" or not letter.inverted or "formal" in letter.facts:
            continue
        column = column_of(letter.inverse()) or ()
        row, width = tuple(x.mT for x in reversed(column)), len(column)
        if width and word[at + 1 : at + 1 + width] == column:
            return joined(word[:at], ones_word(letter.rows, "1"), word[at + 1 + width :])
        if width and at >= width and word[at - width : at] == row:
            return joined(word[: at - width], ones_word("1", letter.cols), word[at + 1 :])
    return word


class Word:
    """A sum of words of one shape. Immutable; ``==`` compares normal forms."""

    __slots__ = ("_hash", "cols", "rows", "terms")

    def __init__(self, rows: str, cols: str, terms: Iterable[tuple[tuple[Letter, ...], Scalar]]):
        total: dict[tuple[Letter, ...], Scalar] = {}
        for word, coefficient in terms:
            total[word] = total.get(word, 0) + coefficient
        self.rows, self.cols = rows, cols
        self.terms = frozenset((word, k) for word, k in total.items() if k)
        for word, _ in self.terms:
            check_shapes(rows, cols, word)
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
        if len(word) == 1 and "full row rank" in word[0].facts and not (word[0].inverted or word[0].transposed):
            return Word(self.cols, self.rows, [((word[0].turned(True, False),), Fraction(1) / k)])
        if self.rows != self.cols:
            raise HypothesisError("full row rank", f"nothing declares that {self} has full row rank")
        return self.inverse()

    identity = staticmethod(lambda size: identity(size))
    centering = staticmethod(lambda size: centering(size))

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


def check_shapes(rows: str, cols: str, word: tuple[Letter, ...]) -> None:
    """Neighbors fit, and the ends are those of the sum; products of words fit by construction, other words may not."""
    reached = rows
    for letter in word:
        if letter.rows != reached:
            break
        reached = letter.cols
    else:
        if reached == cols:
            return
    shapes = " @ ".join(f"{letter.rows} x {letter.cols}" for letter in word) or "I"
    raise HypothesisError("shapes agree", f"{shapes} is not {rows} x {cols}")


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


def declared(name: str, facts: dict[str, bool]) -> frozenset[str]:
    """The facts that hold. A name nobody knows is refused even when it is False: it was misspelt."""
    known = {fact.replace("_", " "): holds for fact, holds in facts.items()}
    unknown = sorted(set(known) - FACTS)
    if unknown:
        raise ValueError(f"unknown facts {unknown} about {name}")
    return frozenset(fact for fact, holds in known.items() if holds)


def symbol(name: str, rows: str, cols: str, **facts: bool) -> Word:
    """A matrix about which nothing is known but its shape and the facts declared here.

    Facts: ``invertible``, ``orthogonal``, ``symmetric``, ``diagonal`` (square letters), ``full_row_rank`` (has a right
    inverse), ``rows_sum_to_one``, ``formal`` (an inverse may be written but never cancels, and a symmetric letter is
    not turned: to show where a hypothesis is used). Raises ValueError for other facts, for
    ``entrywise`` (which functions can be) and for the names "ones" and "diag", HypothesisError for a fact of square
    letters about a rectangle.
    """
    return Word(rows, cols, [((Letter(name, rows, cols, facts=declared(name, facts)),), 1)])


def opaque(
    name: str, cols: str | None = None, rows: str | None = None, inputs: int = 0, **facts: bool
) -> Callable[..., Word]:
    """An unknown function of matrices: equal arguments give equal values; only declared facts are assumed besides.

    The facts are those of ``symbol``, and are refused in the same cases; also ``entrywise``, f(S)^T = f(S^T), which
    only a function of one argument, of the shape of its argument and without other facts can be (ValueError).
    """
    known = declared(name, facts)

    def apply(*args: Word) -> Word:
        r, c = rows or args[0].rows, cols or args[0].cols
        return Word(r, c, [((Letter(name, r, c, args, known, inputs=inputs),), 1)])

    return apply


def softmax(scores: Word, name: str = "softmax") -> Word:
    """Row softmax with its two laws: rows sum to one, and a term r 1^T, constant along rows, is invisible."""
    ones_row = ones_letter("1", scores.cols)
    visible = Word(scores.rows, scores.cols, ((w, k) for w, k in scores.terms if not (w and w[-1] is ones_row)))
    return opaque(name, rows_sum_to_one=True)(visible)


def exponential(scores: Word) -> Word:
    """Entrywise exp with its laws exp(S + r 1^T) = diag(exp(r)) exp(S) and exp(S + 1 c^T) = exp(S) diag(exp(c)).

    These diagonal matrices are invertible, since exp > 0.
    """
    if "1" in scores.shape:
        return opaque("exp", entrywise=True)(scores)
    ones_row, ones_column = ones_letter("1", scores.cols), ones_letter(scores.rows, "1")
    along_rows = [(w[:-1], k) for w, k in scores.terms if w and w[-1] is ones_row]
    others = [(w, k) for w, k in scores.terms if not (w and w[-1] is ones_row)]
    along_columns = [(w[1:], k) for w, k in others if w and w[0] is ones_column]
    rest = [(w, k) for w, k in others if not (w and w[0] is ones_column)]
    result = opaque("exp", entrywise=True)(Word(scores.rows, scores.cols, rest))
    if along_rows:
        result = diagonal(exponential(Word(scores.rows, "1", along_rows)), invertible=True) @ result
    if along_columns:
        result = result @ diagonal(exponential(Word("1", scores.cols, along_columns)).mT, invertible=True)
    return result


def diagonal(v: Word, invertible: bool = False, formal: bool = False) -> Word:
    """diag(v) of a column, with the law diag(D v) = D diag(v) for a diagonal D.

    ``invertible``: no entry of v is zero. Then none of the entries of D and w are, where v = D w. ``formal`` as in
    ``symbol``.
    """
    if v.cols != "1":
        raise HypothesisError("shapes agree", f"diag takes a column, not {v.rows} x {v.cols}")
    first = {word[0] if word else None for word, _ in v.terms}
    (lead,) = first if len(first) == 1 else (None,)
    if lead is not None and "diagonal" in lead.facts:
        rest = Word(lead.cols, v.cols, ((word[1:], k) for word, k in v.terms))
        return Word(lead.rows, lead.cols, [((lead,), 1)]) @ diagonal(rest, invertible, formal)
    facts = OF_COLUMN | declared("diag", {"diagonal": True, "invertible": invertible, "formal": formal})
    return Word(v.rows, v.rows, [((Letter("diag", v.rows, v.rows, (v,), facts),), 1)])


def identity(size: str) -> Word:
    return Word(size, size, [((), 1)])


def zero(rows: str, cols: str) -> Word:
    return Word(rows, cols, [])


def ones(size: str) -> Word:
    """The column of ones, size x 1."""
    if size == "1":
        return identity("1")
    return Word(size, "1", [((Letter("ones", size, "1", facts=ALL_ONES),), 1)])


def annihilator(name: str, rows: str, of: Word) -> Word:
    """A matrix Z about which only Z @ of = 0 is known, for a single letter ``of``. Raises ValueError for more."""
    return Word(rows, of.rows, [((Letter(name, rows, of.rows, facts={Annihilates(single_letter(of))}),), 1)])


def centering(size: str) -> Word:
    """C = I - 1 1^T / n, of which only C^T = C and C 1 = 0 are used."""
    (one,) = (letter for letters, _ in ones(size).terms for letter in letters)
    return Word(size, size, [((Letter("C", size, size, facts={"symmetric", Annihilates(one)}),), 1)])


def single_letter(word: Word) -> Letter:
    """The letter of a word that is one letter, once. Raises ValueError for sums, products, multiples and I."""
    found = [letters[0] for letters, k in word.terms if len(letters) == 1 and k == 1]
    if len(word.terms) != 1 or not found:
        raise ValueError(f"only a single letter can be annihilated, not {word.brief()}")
    return found[0]
