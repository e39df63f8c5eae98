"""The symbolic engine: its normal form obeys the laws of matrices, and nothing but them."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkvtheory import HypothesisError, words
from qkvtheory.attention import softmax as softmax_of_floats
from qkvtheory.lanes.field import Residue
from qkvtheory.lanes.settings import EXACT
from qkvtheory.lanes.worlds import Hashes, Words
from qkvtheory.words import Word, annihilator, diagonal, exponential, identity, ones, opaque, softmax, symbol, zero
from tests.evaluate import FACTS, evaluate, expressions, same

D = symbol("X", "n", "d")
R = symbol("R", "d", "d", orthogonal=True)
T = symbol("Theta", "d", "d", invertible=True)
W = symbol("W", "q", "n", full_row_rank=True)
A = symbol("A", "n", "n", rows_sum_to_one=True)
V = symbol("v", "n", "1")
STOCHASTIC = symbol("P", "n", "n", rows_sum_to_one=True, invertible=True)
ROW = symbol("p", "1", "n", rows_sum_to_one=True)


square_words = st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.booleans(), st.booleans()), min_size=1, max_size=4)


def product_of(choices) -> Word:
    total = identity("d")
    for index, inverted, transposed in choices:
        letter = symbol(f"S_{index}", "d", "d", **FACTS[index])
        letter = letter.inverse() if inverted else letter
        total = total @ (letter.mT if transposed else letter)
    return total


# -- laws --------------------------------------------------------------------------------------------------------------


@given(expressions("n", "d", 2), expressions("d", "p", 2), expressions("p", "n", 2))
def test_products_are_associative(a, b, c):
    assert (a @ b) @ c == a @ (b @ c)


maps = st.sampled_from([A, A.mT, STOCHASTIC, STOCHASTIC.mT, STOCHASTIC.inverse(), STOCHASTIC.inverse().mT, softmax(A),
                        softmax(A).mT, symbol("B", "n", "n"), ones("n") @ ones("n").mT])  # fmt: skip


@given(st.lists(maps, min_size=1, max_size=5))
def test_products_with_columns_and_rows_of_ones_are_associative(factors):
    """From the left or from the right, and turned around: the same normal form, and the value of what was written."""
    row = column = identity("n")
    for f in factors:
        row, column = row @ f, f.mT @ column
    left, right = ones("n").mT, ones("n")
    for f in factors:
        left, right = left @ f, f.mT @ right
    assert left == ones("n").mT @ row == right.mT
    assert right == column @ ones("n") == left.mT
    assert (evaluate(left) == unrewritten(ones("n").mT, *factors)).all()


@given(expressions("n", "d", 2), expressions("n", "d", 2), expressions("d", "p", 2), expressions("p", "n", 2))
def test_products_distribute_over_sums(a, b, c, e):
    assert (a + b) @ c == a @ c + b @ c
    assert e @ (a - b) == e @ a - e @ b


@given(expressions(), expressions(), expressions())
def test_sums_are_a_commutative_group(a, b, c):
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert a - a == zero("n", "d")
    assert a + zero("n", "d") == a
    assert a + a == 2 * a


@given(expressions("n", "d", 2), expressions("d", "p", 2), expressions("d", "p", 2))
def test_transposition_turns_products_around(a, b, c):
    assert (a @ b).mT == b.mT @ a.mT
    assert (b + c).mT == b.mT + c.mT
    assert a.mT.mT == a


@given(square_words, square_words)
def test_inverses(u, v):
    a, b = product_of(u), product_of(v)
    assert (a @ b).inverse() == b.inverse() @ a.inverse()
    assert a @ a.inverse() == identity("d") == a.inverse() @ a
    assert a.mT.inverse() == a.inverse().mT
    assert a.inverse().inverse() == a
    assert (3 * a).inverse() @ (3 * a) == identity("d")


@given(expressions())
def test_the_identity_is_neutral_and_equal_words_have_equal_hashes(a):
    assert identity("n") @ a == a == a @ identity("d")
    assert hash(a.mT.mT) == hash(a)
    assert a != a + symbol("new", "n", "d")


# -- soundness: whatever the engine calls equal is equal in numbers ----------------------------------------------------


@given(expressions(depth=2), expressions("d", "p", 2))
def test_normal_forms_mean_what_was_written(a, b):
    """Products of values are values of products, so no rewriting on the way changed the meaning."""
    assert (evaluate(a @ b) == evaluate(a) @ evaluate(b)).all()
    assert (evaluate(a.mT) == evaluate(a).T).all()
    assert (evaluate(a - 2 * a) == evaluate(a) * -1).all()


@given(square_words)
def test_inverses_mean_what_was_written(u):
    a = product_of(u)
    assert (evaluate(a.inverse()) @ evaluate(a) == evaluate(identity("d"))).all()


def unrewritten(*factors: Word) -> np.ndarray:
    product = evaluate(factors[0])
    for f in factors[1:]:
        product = product @ evaluate(f)
    return product


INSTANCES = {
    "rule_inverse": [
        ((T, T.inverse()), identity("d")), ((T.inverse(), T), identity("d")), ((R.mT, R), identity("d")),
        ((T.mT, T.inverse().mT), identity("d")), ((W, W.right_inverse()), identity("q")),
        ((W.right_inverse().mT, W.mT), identity("q")),
    ],
    "rule_diagonal": [
        ((diagonal(V), ones("n")), V), ((ones("n").mT, diagonal(V)), V.mT),
        ((diagonal(exponential(A) @ ones("n")), ones("n")), exponential(A) @ ones("n")),
        ((ones("n").mT, diagonal(exponential(A) @ ones("n"))), ones("n").mT @ exponential(A).mT),
    ],
    "rule_rows_sum_to_one": [
        ((A, ones("n")), ones("n")), ((softmax(A), ones("n")), ones("n")),
        ((ones("n").mT, A.mT), ones("n").mT), ((ones("n").mT, softmax(A).mT), ones("n").mT),
        ((STOCHASTIC.inverse(), ones("n")), ones("n")), ((ones("n").mT, STOCHASTIC.mT.inverse()), ones("n").mT),
        ((ROW, ones("n")), identity("1")), ((ones("n").mT, ROW.mT), identity("1")),
    ],
}  # fmt: skip


@pytest.mark.parametrize("rule", [rule.__name__ for rule in words.RULES])
def test_every_rule_holds_for_random_numbers(rule):
    if rule == "rule_annihilates":
        z, column = annihilator("Z", "n", D), D
        assert z @ column == zero("n", "d")
        assert column.mT @ z.mT == zero("d", "n")
        return  # no letter by itself has this property; the worlds draw it (see tests/lanes/test_worlds.py)
    for factors, expected in INSTANCES[rule]:
        product = factors[0] @ factors[1]
        assert product == expected
        assert (unrewritten(*factors) == evaluate(expected)).all()


def test_every_rule_has_instances():
    assert {rule.__name__ for rule in words.RULES} == {*INSTANCES, "rule_annihilates"}


def test_what_no_rule_allows_stays():
    assert W.right_inverse() @ W != identity("n")
    assert A.mT @ ones("n") != ones("n")
    assert ones("n").mT @ A != ones("n").mT
    wide = symbol("A", "n", "m", rows_sum_to_one=True, full_row_rank=True)
    assert ones("n").mT @ wide.right_inverse().mT != ones("m").mT
    assert symbol("B", "n", "n") @ ones("n") != ones("n")
    assert D @ annihilator("Z", "d", D) != zero("n", "n")
    assert R.mT != R
    assert T.mT @ T != identity("d")
    formal = symbol("F", "d", "d", invertible=True, formal=True)
    assert formal @ formal.inverse() != identity("d")


def test_the_laws_of_softmax_and_exp_in_floats(rng):
    s, r = rng.normal(size=(3, 3)), rng.normal(size=(3, 1))
    S, column, one = symbol("S", "n", "n"), symbol("r", "n", "1"), ones("n")
    assert softmax(S + column @ one.mT) == softmax(S)
    np.testing.assert_allclose(softmax_of_floats(s + r), softmax_of_floats(s))
    assert softmax(S + one @ column.mT) != softmax(S)
    assert np.abs(softmax_of_floats(s + r.T) - softmax_of_floats(s)).max() > 0.01
    exp = opaque("exp", entrywise=True)
    assert exponential(S + column @ one.mT) == diagonal(exp(column), invertible=True) @ exp(S)
    np.testing.assert_allclose(np.exp(s + r), np.diag(np.exp(r[:, 0])) @ np.exp(s))
    assert exponential(S) == exp(S)
    assert exponential(S + one @ column.mT) == exp(S) @ diagonal(exp(column), invertible=True)
    np.testing.assert_allclose(np.exp(s + r.T), np.exp(s) @ np.diag(np.exp(r[:, 0])))


def test_an_entrywise_function_commutes_with_transposition():
    S, G = symbol("S", "n", "n"), symbol("G", "n", "n", symmetric=True)
    K, f = symbol("K", "n", "d"), opaque("f", entrywise=True)
    for function in (exponential, f):
        assert function(S).mT == function(S.mT) != function(S)
        assert function(G).mT == function(G)
        assert function(K @ K.mT).mT == function(K @ K.mT)
        assert same(function(S).mT, function(S.mT)) and not same(function(S).mT, function(S))
    assert opaque("f")(S).mT != opaque("f")(S.mT)


def test_what_a_rule_puts_in_cancels_on_both_sides():
    c, one = symbol("c", "d", "1"), ones("d")
    D, back = diagonal(T @ c), T.mT.inverse()
    assert one.mT @ (D @ back) == (one.mT @ D) @ back == c.mT
    assert (back.mT @ D) @ one == back.mT @ (D @ one) == c
    P = symbol("P", "d", "d", rows_sum_to_one=True)
    Z = diagonal(T @ c, invertible=True).inverse()
    assert (P @ Z) @ (T @ c) == P @ (Z @ (T @ c)) == one
    assert (T @ c).mT @ (Z @ P.mT) == ((T @ c).mT @ Z) @ P.mT == one.mT


def test_a_normalized_kernel_has_rows_that_sum_to_one():
    E, one = exponential(symbol("S", "n", "n")), ones("n")
    Z = diagonal(E @ one, invertible=True)
    A = Z.inverse() @ E
    assert A @ one == one and (Z.inverse() @ (E @ one)) == one
    assert Z @ (Z.inverse() @ one) == one
    assert (E @ one).mT @ Z.inverse() == one.mT
    assert one.mT @ A != one.mT
    assert diagonal(V).mT @ one == V
    formal = diagonal(E @ one, invertible=True, formal=True)
    assert formal.inverse() @ E @ one != one


def test_centering_takes_means_off_rows_and_columns():
    C, S, r = words.centering("n"), symbol("S", "n", "n"), symbol("r", "n", "1")
    assert C @ (S + r @ ones("n").mT + ones("n") @ r.mT) @ C == C @ S @ C
    assert C @ (S + r @ ones("n").mT) != C @ S
    assert C.mT == C


def test_the_laws_of_diagonal_matrices():
    v, w = opaque("exp")(symbol("v", "n", "1")), symbol("w", "n", "1")
    positive = diagonal(v, invertible=True)
    assert positive.inverse() @ positive == identity("n")
    assert positive.mT == positive
    assert diagonal(v).mT == diagonal(v)
    nonzero = diagonal(w, invertible=True)
    assert diagonal(positive @ w, invertible=True).inverse() == nonzero.inverse() @ positive.inverse()
    assert diagonal(diagonal(v) @ w) == diagonal(v) @ diagonal(w)
    a, b = np.arange(1.0, 4), np.arange(2.0, 5)
    np.testing.assert_allclose(np.diag(np.diag(a) @ b), np.diag(a) @ np.diag(b))
    assert diagonal(symbol("B", "n", "n") @ w) != symbol("B", "n", "n") @ diagonal(w)


def test_a_row_is_added_to_every_row():
    b = symbol("b", "1", "d")
    assert D + b == D + ones("n") @ b
    assert same(D + b, D + ones("n") @ b)


def test_unknown_functions_respect_equality_and_nothing_else():
    f = opaque("f")
    assert f(D @ T @ T.inverse()) == f(D)
    assert f(2 * D) != 2 * f(D)
    assert f(D, T) != f(T, D)
    assert opaque("f")(D) != opaque("g")(D)
    assert (f(D) @ T).opaque() == ("f",)


# -- refusals ----------------------------------------------------------------------------------------------------------

REFUSED = {
    "of a letter": (lambda: symbol("B", "d", "d").inverse(), "invertible", "nothing declares B invertible"),
    "of a product": (lambda: (T @ symbol("B", "d", "d")).inverse(), "invertible", "nothing declares B invertible"),
    "of a sum": (lambda: (T + identity("d")).inverse(), "invertible", "nothing declares the sum"),
    "of zero": (lambda: zero("d", "d").inverse(), "invertible", "nothing declares the sum 0"),
    "of a rectangle": (lambda: D.inverse(), "square", "only a square matrix"),
    "a right inverse": (lambda: D.right_inverse(), "full row rank", "nothing declares that X"),
    "of X X^T": (lambda: (D @ D.mT).inverse(), "invertible", "nothing declares X invertible"),
    "a product of shapes": (lambda: D @ D, "shapes agree", "n x d @ n x d"),
    "a sum of shapes": (lambda: D + D.mT, "shapes agree", r"n x d \+ d x n"),
    "an invertible rectangle": (lambda: symbol("B", "n", "d", invertible=True), "square", "cannot be invertible"),
    "an orthogonal rectangle": (lambda: symbol("B", "n", "d", orthogonal=True), "square", "cannot be orthogonal"),
}


@pytest.mark.parametrize(("act", "hypothesis", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals_name_the_hypothesis(act, hypothesis, message):
    with pytest.raises(HypothesisError, match=message) as refusal:
        act()
    assert refusal.value.hypothesis == hypothesis


def test_unknown_facts_are_refused():
    with pytest.raises(ValueError, match=r"unknown facts.*pretty"):
        symbol("B", "d", "d", pretty=True)


def test_the_name_of_the_all_ones_column_is_taken():
    with pytest.raises(ValueError, match="ones"):
        symbol("ones", "n", "1")


# -- what only looks true ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [("d", "d"), ("q", "n")])
def test_a_transpose_has_no_right_inverse_because_the_letter_has_one(shape):
    S = symbol("S", *shape, full_row_rank=True)
    assert S @ S.right_inverse() == identity(shape[0])
    with pytest.raises(HypothesisError):
        S.mT.right_inverse()  # for S = [[1, 1], [0, 1]], S S^-T is not I; for a wide S no such matrix exists
    both = symbol("S", "d", "d", full_row_rank=True, invertible=True)
    assert both.mT @ both.mT.right_inverse() == identity("d")
    assert both @ both.mT.right_inverse() != identity("d")


def test_words_whose_letters_do_not_fit_are_refused():
    (letter,) = D.letters()
    for rows, cols, product in [
        ("d", "n", (letter,)),
        ("n", "d", (letter, letter)),
        ("n", "d", ()),
        ("n", "n", (letter,)),
    ]:
        with pytest.raises(HypothesisError) as refusal:
            Word(rows, cols, [(product, 1)])
        assert refusal.value.hypothesis == "shapes agree"


def test_only_a_two_sided_inverse_of_a_stochastic_matrix_fixes_the_column_of_ones():
    a = np.array([[1 / 3, 2 / 3]])
    assert not np.allclose(np.linalg.pinv(a) @ np.ones(1), 1)  # it is (3/5, 6/5)
    wide = symbol("A", "n", "m", rows_sum_to_one=True, full_row_rank=True)
    assert wide @ ones("m") == ones("n")
    assert wide.right_inverse() @ ones("n") != ones("m")
    square = symbol("A", "n", "n", rows_sum_to_one=True, invertible=True)
    assert square.inverse() @ ones("n") == ones("n")
    assert square.mT.inverse() @ ones("n") != ones("n")
    formal = symbol("A", "n", "n", rows_sum_to_one=True, invertible=True, formal=True)
    assert formal.inverse() @ ones("n") != ones("n")


def test_an_annihilator_knows_its_letter_and_not_the_text_of_it():
    P = symbol("P", "s", "d")
    Z = annihilator("Z", "n", P)
    assert (Z @ P).terms == frozenset()
    for other in (symbol("P", "s", "q"), symbol("P", "s", "d", full_row_rank=True), opaque("P", "d", "s")(P)):
        assert Z @ other != zero("n", other.cols)
    assert annihilator("Z", "n", symbol("P^T", "d", "s")) @ P.mT != zero("n", "s")
    assert annihilator("Z", "n", P.mT) @ P.mT == zero("n", "s")
    assert annihilator("Z", "n", P.mT) @ symbol("P^T", "d", "s") != zero("n", "s")


@pytest.mark.parametrize("of", [D @ T, D + D @ T, 2 * D, identity("d"), zero("n", "d")], ids=str)
def test_an_annihilator_is_of_one_letter(of):
    with pytest.raises(ValueError, match="single letter"):
        annihilator("Z", "q", of)


def test_the_values_of_functions_have_the_facts_that_their_shape_allows():
    for fact in ("invertible", "orthogonal", "symmetric", "diagonal"):
        assert opaque("h", "n", **{fact: True})(D).shape == ("n", "n")
        for make in (
            lambda fact=fact: opaque("h", "d", **{fact: True})(D),
            lambda fact=fact: words.Letter("h", "n", "d", facts={fact}),
        ):
            with pytest.raises(HypothesisError) as refusal:
                make()
            assert refusal.value.hypothesis == "square"


@pytest.mark.parametrize("holds", [True, False])
def test_misspelt_facts_are_refused_when_they_are_declared(holds):
    with pytest.raises(ValueError, match=r"unknown facts \['invertable'\] about h"):
        opaque("h", invertable=holds)
    with pytest.raises(ValueError, match=r"unknown facts \['invertable'\] about h"):
        symbol("h", "d", "d", invertable=holds)


def test_a_diagonal_matrix_is_invertible_only_if_somebody_says_so():
    v = symbol("v", "n", "1")
    for column in (v, zero("n", "1"), diagonal(v) @ v):
        with pytest.raises(HypothesisError) as refusal:
            diagonal(column).inverse()
        assert refusal.value.hypothesis == "invertible"
    shown = diagonal(v, invertible=True, formal=True)
    assert shown.inverse() @ shown != identity("n")


def test_the_diagonal_of_a_world_rests_on_the_hypothesis_named():
    v, nothing = symbol("v", "n", "1"), frozenset[str]()
    cancelled = Words().diagonal(v)
    assert cancelled.inverse() @ cancelled == identity("n")
    written = Words(apply=nothing).diagonal(v)
    assert written.inverse() @ written != identity("n")
    with pytest.raises(HypothesisError):
        Words(assume=nothing).diagonal(v).inverse()
    assert Words({"H3"}, {"H3"}).diagonal(v, "H3") == Words().diagonal(v)
    with pytest.raises(HypothesisError):
        Words({"H3"}, {"H3"}).diagonal(v).inverse()


def test_nobody_else_makes_the_column_of_ones():
    for make in (
        lambda: opaque("ones", "1", rows="n")(),
        lambda: opaque("ones")(D),
        lambda: annihilator("ones", "1", D),
        lambda: words.Letter("ones", "n", "1"),
        lambda: symbol("J", "n", "1", all_ones=True),
    ):
        with pytest.raises(ValueError, match=r"'ones' is the column of ones|all ones"):
            make()


def test_nobody_else_makes_a_diagonal_of_a_column():
    assert diagonal(V).letters() > V.letters()
    for make in (
        lambda: symbol("diag", "n", "n"),
        lambda: symbol("diag", "n", "n", diagonal=True),
        lambda: opaque("diag", "n", diagonal=True)(V),
        lambda: annihilator("diag", "n", D),
        lambda: words.Letter("diag", "n", "n"),
        lambda: words.Letter("D", "n", "n", (V,), words.OF_COLUMN),
    ):
        with pytest.raises(ValueError, match="'diag' is the diagonal matrix of a column; make it with diagonal"):
            make()
    for rows, args in (("n", ()), ("n", (D,)), ("d", (V,)), ("n", (V, V))):
        with pytest.raises(ValueError, match="of one column"):
            words.Letter("diag", rows, rows, args, words.OF_COLUMN)
    with pytest.raises(ValueError, match="diagonal of its column"):
        symbol("D", "n", "n", diagonal_of_its_column=True)


def test_only_functions_of_one_argument_are_entrywise():
    square = symbol("S", "n", "n")
    for make in (
        lambda: symbol("A", "n", "n", entrywise=True),
        lambda: opaque("f", entrywise=True)(square, square),
        lambda: opaque("f", "n", entrywise=True)(D),
        *(
            lambda fact=fact: opaque("f", entrywise=True, **{fact: True})(square)
            for fact in ("symmetric", "invertible")
        ),
        lambda: opaque("f", entrywise=True, rows_sum_to_one=True)(square),
    ):
        with pytest.raises(ValueError, match="cannot be entrywise"):
            make()
    assert opaque("f", entrywise=True)(D).shape == D.shape


def test_the_random_functions_of_the_re_evaluation_see_shapes_and_boundaries():
    world = Hashes(EXACT[0])
    f, r, s = world.function("f", "d", "n"), world.matrix("r", "1", "d"), world.matrix("s", "1", "d")
    assert (f(r) == f(r.copy())).all()
    assert not (f(r) == f(r.T)).any()
    assert not (f(r, s) == f(np.concatenate([r, s]))).any()
    assert not (f(r, s) == f(np.concatenate([r, s], axis=1))).any()
    assert not (world.function("f", "d", "1")(r)[0] == f(r)[0]).any()
    flat, tall = (world.softmax(np.full(shape, Residue(0), dtype=object)) for shape in [(2, 4), (4, 2)])
    assert flat[0, 0] / flat[0, 1] != tall[0, 0] / tall[0, 1]


# -- depth and printing ------------------------------------------------------------------------------------------------


def deep(layers: int, name: str = "X") -> Word:
    """Skips around attention only, as in the book's loop: the text of such an expression doubles at every layer."""
    x, g, act = symbol(name, "n", "d"), opaque("g"), opaque("phi")
    for i in range(layers):
        W_Q, W_K, W_V, W_O, W_up, W_down = (symbol(f"W_{c}^{i}", "d", "d") for c in "QKVOUD")
        x = act((x + g(x @ W_Q, x @ W_K, x @ W_V) @ W_O) @ W_up) @ W_down
    return x


def test_a_thousand_layers_compare_at_once():
    start = time.perf_counter()
    one = deep(1000)
    assert one == deep(1000)
    assert one != deep(1000, "Y")
    assert one.opaque() == ("g", "phi")
    assert one.mT.mT == one
    assert time.perf_counter() - start < 30  # a walk over all paths would take 2^1000 steps


def test_text_and_latex():
    expression = D @ T.inverse() - 2 * (symbol("W_Q^1", "n", "d") @ T.mT)
    assert str(expression) == "-2 W_Q^1 Theta^T + X Theta^-1"
    assert expression.latex() == r"-2 W_Q^{1}\Theta^{\top} + X\Theta^{-1}"
    assert str(zero("n", "d")) == "0"
    assert identity("n").latex() == "I"
    assert (ones("n") @ ones("d").mT).latex() == r"\mathbf{1}\mathbf{1}^{\top}"
    assert str(opaque("g", "o")(D, T)) == "g(X, Theta)"
    assert opaque("MHA", inputs=1)(D, T).latex() == r"\mathrm{MHA}(X;\, \Theta)"
    assert str(T.mT.inverse()) == "Theta^-T"
