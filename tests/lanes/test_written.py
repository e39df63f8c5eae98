"""What a page prints is what the code computed."""

from __future__ import annotations

import pytest

from qkvtheory import HypothesisError, gauge
from qkvtheory.claims.register import register
from qkvtheory.lanes.written import WIDE, Written, WrittenWorld, both_sides, equations, folded, lines, width

W = WrittenWorld()
A, B, C = (W.matrix(name, "d", "d") for name in "ABC")


@pytest.mark.parametrize(("expression", "latex"), [
    (A @ B, "AB"), (A @ (B + C), "A(B + C)"), ((A + B) @ C, "(A + B)C"), (A @ (B @ C), "A(BC)"), (A @ B @ C, "ABC"),
    (A + B @ C, "A + BC"), (A - (B + C), "A - (B + C)"), (A.mT, r"A^{\top}"), ((A @ B).mT, r"(AB)^{\top}"),
    (A.inverse(), "A^{-1}"), (A.inverse().mT, r"A^{-\top}"), (A.mT.inverse(), r"A^{-\top}"),
    ((A + B).inverse(), "(A + B)^{-1}"), (W.identity("d") @ A, "A"), (W.function("f")(A, B), r"f(A,\, B)"),
    (W.softmax(A @ B.mT), r"\mathrm{softmax}(AB^{\top})"), (W.matrix("W", "d", "p").right_inverse(), "W^{R}"),
    (A + W.matrix("b", "1", "d"), r"A + \mathbf{1}b"), (A + -1 * B, "A - B"), (A + -1 * (B + C), "A - (B + C)"),
    (A.mT.mT, "A"), (A.inverse().mT.mT, "A^{-1}"), (A.mT.inverse().inverse(), r"A^{\top}"),
    ((A + B).inverse().mT, r"(A + B)^{-\top}"), ((A @ B).mT.mT, "(AB)"),
    (W.matrix("W", "d", "p").right_inverse().mT, r"(W^{R})^{\top}"),
])  # fmt: skip
def test_latex(expression, latex):
    assert expression.latex() == latex


SYMBOLIC = [claim for claim in register().values() if "symbolic" in claim.lanes]


@pytest.mark.parametrize("claim", SYMBOLIC, ids=lambda c: c.id)
def test_every_claim_prints_its_equations(claim):
    assert equations(claim)
    for left, right in both_sides(claim):
        assert left.count("{") == left.count("}")
        assert right.count("(") == right.count(")")


def test_a_claim_about_numbers_only_prints_none():
    assert equations(register()["two-tokens-reversible"]) == []


def test_the_lemma_reads_as_in_the_book():
    (equation,) = equations(register()["reparam-lemma"])
    assert r"X\Theta" in equation
    assert r"\Theta^{-1}W_K" in equation
    assert equation.endswith(r"\mathrm{MHA}(X;\, W_Q,\, W_K,\, W_V,\, W_O)")


def test_the_printed_equation_follows_the_construction(monkeypatch):
    """Prose cannot drift: another construction prints another equation."""
    before = equations(register()["reparam-lemma"])
    monkeypatch.setattr(gauge, "reads", lambda back, *weights: tuple(weight @ back for weight in weights))
    try:
        assert equations(register()["reparam-lemma"]) != before
    except HypothesisError:
        pytest.fail("a written expression has no shapes to refuse")


def test_written_has_a_shape():
    assert (A @ W.matrix("M", "d", "p")).shape == ("d", "p")
    assert Written("x", "n", "d").mT.shape == ("d", "n")


def test_what_is_wider_than_a_page_is_folded():
    long = r"f(A_{1},\, " + r"A_{1, 2},\, " * 30 + "B) + C - D"
    found = lines(long)
    assert len(found) > 2 and all(width(line) <= WIDE and line.count("{") == line.count("}") for line in found)
    assert " ".join(line.strip() for line in found) == long
    assert folded(long, "{}= ").startswith(r"\begin{aligned}&{}= f(A_{1}") and folded("A + B") == "A + B"
