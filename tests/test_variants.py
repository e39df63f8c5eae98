"""The names of the variants: each is read, written and counted one way, and nothing else is accepted."""

from __future__ import annotations

import numpy as np
import pytest

from qkvtheory.variants import ALIASES, CORRECTED, EXAMPLES, GROUPED, KINDS, Variant, parse, weight_shapes

EVERY = [
    *(Variant(kind) for kind in KINDS),
    *(Variant(kind, groups) for kind in GROUPED for groups in (1, 2, 4)),
    *(Variant(kind, None, True) for kind in CORRECTED),
    *(Variant(kind, groups, True) for kind in CORRECTED if kind in GROUPED for groups in (1, 4)),
]


@pytest.mark.parametrize("variant", EVERY, ids=lambda v: v.name)
def test_a_name_is_read_as_what_it_was_written_for(variant):
    assert parse(variant.name) == variant
    assert parse(f" {variant.name.lower()} ") == variant


def test_no_two_variants_share_a_name():
    assert len({v.name for v in EVERY}) == len(EVERY)


@pytest.mark.parametrize(("text", "name"), [
    ("K=V", "Q-K=V"), ("QV", "Q-K=V"), ("keyless", "Q-K=V"), ("QVV(2)", "Q-K=V"), ("Q=K", "Q=K-V"), ("MHA", "QKV"),
    ("k=v+gqa-4", "Q-GQA-4"), ("Q-K=V + GQA-4", "Q-GQA-4"), ("K=V+MQA", "Q-MQA"), ("q-mqa", "Q-MQA"), ("mqa", "MQA"),
    ("GQA-1", "MQA"), ("Q-GQA-1", "Q-MQA"), ("GTA-4", "GTA-4"), ("QV-Ka", "QV-Ka"), ("SLIM", "slim"),
    ("Q=K-V+", "(Q=K-V)+"), ("(Q=K)+", "(Q=K-V)+"), ("(Q=K=V)+", "(Q=K=V)+"), ("QKV+", "(QKV)+"),
    ("(Q-GQA-2)+", "(Q-GQA-2)+"),
])  # fmt: skip
def test_other_spellings(text, name):
    assert parse(text).name == name


def test_every_alias_and_every_example_is_read():
    assert all(parse(alias).kind in KINDS for alias in ALIASES)
    assert all(parse(example) for example in EXAMPLES.split(", "))


@pytest.mark.parametrize(("text", "message"), [
    ("KV", "'KV' means Q=K-V in some places"),
    ("kv+", "'KV' means Q=K-V in some places"),
    ("Q=K=W", "did you mean 'Q=K=V'"),
    ("slimm", "did you mean 'slim'"),
    ("GQA", "did you mean"),
    ("zzz", "expected one of QKV, Q-K=V"),
    ("", "expected one of QKV"),
    ("GQA-0", "groups must be at least 1, not 0"),
    ("Q-GQA-0", "groups must be at least 1, not 0"),
    ("MLA+", "the 2D correction goes with QKV, Q-K=V, Q=K-V, Q=K=V, not with MLA"),
    ("GQA-x", "did you mean"),
    ("Q=K-V++", "corrected twice"),
    ("(Q=K-V+)+", "corrected twice"),
    ("(Q=K-V+", "there is no variant called"),
    ("+" * 40, "corrected twice"),
    ("(" * 30 + "QKV" + ")+" * 15, "there is no variant called|corrected twice"),
    ("+" * 5000, "no variant has a name of 5000 characters; expected one of QKV"),
    ("(" * 5000, "no variant has a name of 5000 characters"),
    ("GQA-" + "1" * 5000, "no variant has a name of 5004 characters"),
    ("GQA-\uff11", "there is no variant called"),
    ("GTA-\u0664", "there is no variant called"),
])  # fmt: skip
def test_a_name_that_is_not_known_gets_help(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize(("arguments", "message"), [
    (("KV",), "kind must be one of"),
    (("Q=K-V", 2), "Q=K-V has one key head for each query head"),
    (("MLA", 2), "MLA has one key head for each query head"),
    (("QKV", 0), "groups must be at least 1"),
    (("slim", None, True), "the 2D correction goes with"),
    (("QKV", 2.5), "groups must be a whole number, not 2.5"),
    (("QKV", True), "groups must be a whole number, not True"),
    (("QKV", "4"), "groups must be a whole number, not '4'"),
    (("QKV", None, "yes"), "corrected must be True or False, not 'yes'"),
    ((["QKV"],), "kind must be one of"),
])  # fmt: skip
def test_a_combination_without_meaning_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Variant(*arguments)


@pytest.mark.parametrize("name", [None, 4, b"QKV", ["QKV"]])
def test_a_name_is_a_text(name):
    with pytest.raises(TypeError, match="a variant is named by a text, such as 'Q-K=V', not by"):
        parse(name)


def size(name: str, *sizes: int, **options: bool) -> int:
    return sum(int(np.prod(shape)) for shape in weight_shapes(parse(name), *sizes, **options).values())


@pytest.mark.parametrize(("name", "count"), [
    ("QKV", 4 * 64), ("slim", 4 * 64), ("Q-K=V", 3 * 64), ("Q=K-V", 3 * 64), ("Q=K=V", 2 * 64), ("GQA-2", 3 * 64),
    ("MQA", 2 * 64 + 2 * 16), ("Q-GQA-2", 2 * 64 + 32), ("Q-MQA", 2 * 64 + 16), ("GTA-2", 2 * 64 + 32 + 8),
    ("QV-Ka", 3 * 64 + 16 + 16 + 4 * 4), ("MLA", 64 + 8 * 12 + 8 * 8 + 2 * 64 + 8),
])  # fmt: skip
def test_the_weights_of_a_layer_of_width_8_with_four_heads(name, count):
    assert size(name, 8, 4) == count


def test_biases_are_one_row_for_each_weight_of_the_kinds_that_have_them():
    for kind in KINDS:
        plain, shapes = weight_shapes(Variant(kind), 8, 4), weight_shapes(Variant(kind), 8, 4, biases=True)
        rows = {f"b_{name[2:]}": (1, shape[1]) for name, shape in plain.items()}
        assert shapes == (plain if kind in ("MLA", "GTA", "QV-Ka") else plain | rows)


def test_a_head_width_of_its_own():
    assert weight_shapes(parse("Q-MQA"), 10, 4, 3) == {"W_O": (12, 10), "W_Q": (10, 12), "W_Z": (10, 3)}


@pytest.mark.parametrize(("arguments", "message"), [
    ((parse("QKV"), 10, 4), "a width of 10 does not split into 4 heads; pass head_width"),
    ((parse("GQA-3"), 8, 4), "GQA-3: 3 groups do not divide 4 heads"),
    ((parse("QKV"), 8, 0), "heads must be at least 1, not 0"),
    ((parse("QKV"), 8, -2), "heads must be at least 1, not -2"),
    ((parse("QKV"), 0, 4), "d must be at least 1, not 0"),
    ((parse("QKV"), 8.0, 4), "d must be a whole number, not 8.0"),
    ((parse("QKV"), 8, True), "heads must be a whole number, not True"),
    ((parse("QKV"), 8, 4, 0), "head_width must be at least 1, not 0"),
    ((parse("QKV"), 8, 4, -1), "head_width must be at least 1, not -1"),
    ((parse("MLA"), 12, 4), "MLA needs an even head width for its rotary half, not 3"),
    ((parse("GTA-2"), 8, 4, 5), "GTA-2 needs an even head width for its rotary half, not 5"),
])  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        weight_shapes(*arguments)
