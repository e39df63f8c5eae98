"""The small tasks: what they ask for, that a batch depends on seed and step only, and how answers are scored."""

import subprocess
import sys

import numpy as np
import pytest

from qkvtheory.experiments import Missing, tasks
from qkvtheory.experiments.tasks import IGNORED, TASKS, Task, accuracy, digits, epoch, patches, solved

PER_TOKEN = TASKS[:-1]
IN_WORDS = {
    "reverse": lambda row: list(reversed(row)),
    "sort": sorted,
    "swap": lambda row: row[len(row) // 2 :] + row[: len(row) // 2],
    "sub": lambda row: [9 - symbol for symbol in row],
    "copy": list,
}
BY_HAND = {
    "reverse": [3, 9, 0, 1, 4, 1],
    "sort": [0, 1, 1, 3, 4, 9],
    "swap": [0, 9, 3, 1, 4, 1],
    "sub": [8, 5, 8, 9, 0, 6],
    "copy": [1, 4, 1, 0, 9, 3],
}


@pytest.mark.parametrize("name", PER_TOKEN)
def test_the_tasks_by_hand(name):
    assert tasks.RULES[name](np.array([[1, 4, 1, 0, 9, 3]]), 10).tolist() == [BY_HAND[name]]


@pytest.mark.parametrize("name", PER_TOKEN)
@pytest.mark.parametrize("length", [2, 16])
def test_the_tasks_on_what_they_draw(name, length):
    task = Task(name, length=length)
    tokens, targets = task.draw(64, seed=1, step=2)
    assert tokens.shape == targets.shape == (64, length) == (64, task.positions)
    assert tokens.dtype == targets.dtype == np.int64
    assert [IN_WORDS[name](row) for row in tokens.tolist()] == targets.tolist()
    assert (task.vocab, task.outputs) == (10, 10)
    assert not np.shares_memory(tokens, targets)


@pytest.mark.parametrize("name", PER_TOKEN)
def test_every_symbol_is_equally_likely_at_every_position(name):
    tokens, _ = Task(name, length=4, symbols=5).draw(5000, 0, 0)
    counts = np.stack([np.bincount(column, minlength=5) for column in tokens.T])
    assert counts.shape == (4, 5)
    assert (((counts - 1000) ** 2 / 1000).sum(axis=1) < 23.5).all()  # chi squared, 4 degrees of freedom, 0.01%


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_depends_on_seed_and_step_only(name):
    first, again = (Task(name).draw(32, seed=3, step=5) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    for seed, step in ((3, 6), (4, 5), (5, 3)):
        assert (Task(name).draw(32, seed, step)[0] != first[0]).any()


# -- recall ------------------------------------------------------------------------------------------------------------


def test_recall_asks_for_the_value_beside_a_key():
    task = Task("recall", length=16, keys=20, values=30)
    tokens, targets = task.draw(200, 0, 0)
    assert tokens.shape == (200, 17, 2) and targets.shape == (200, 17) and tokens.dtype == targets.dtype == np.int64
    assert (task.vocab, task.outputs, task.positions) == (51, 30, 17)
    for row, asked in zip(tokens.tolist(), targets.tolist(), strict=True):
        *pairs, (key, nothing) = row
        held = dict(pairs)
        assert len(held) == 16 and set(held) <= set(range(20)) and set(held.values()) <= set(range(20, 50))
        assert nothing == 50
        assert asked == [IGNORED] * 16 + [held[key] - 20]


def test_recall_draws_keys_values_and_questions_evenly():
    tokens, targets = Task("recall", length=4, keys=5, values=3).draw(6000, 0, 0)
    for found, among, limit in (
        (tokens[:, 0, 0], 5, 23.5),  # chi squared at 0.01%, one degree of freedom fewer than classes
        (tokens[:, 3, 0], 5, 23.5),
        (tokens[:, 2, 1] - 5, 3, 18.4),
        ((tokens[:, :4, 0] == tokens[:, 4:, 0]).argmax(axis=1), 4, 21.1),
        (targets[:, -1], 3, 18.4),
    ):
        counts, expected = np.bincount(found, minlength=among), 6000 / among
        assert len(counts) == among and ((counts - expected) ** 2 / expected).sum() < limit


def test_as_many_keys_as_tokens_is_the_least():
    tokens, _ = Task("recall", length=6, keys=6).draw(10, 0, 0)
    assert (np.sort(tokens[:, :-1, 0], axis=1) == np.arange(6)).all()
    with pytest.raises(ValueError, match="draws 6 different keys and has only 5"):
        Task("recall", length=6, keys=5)


# -- the test set ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_the_test_set_is_fixed_and_met_by_no_training(name):
    task = Task(name)
    tokens, targets = task.test(300)
    assert len(tokens) == len(targets) == 300 and len(task.test()[0]) == 1000
    assert all((a == b).all() for a, b in zip((tokens, targets), task.test(300), strict=True))
    known = {row.tobytes() for row in tokens}
    assert len(known) == 300
    seeds = [(0, 0), (0, 1), (1, 0), (260604032, 0), (260604032, 1), (0, 260604032), (2**32 - 1, 2**32 - 1)]
    for seed, step in seeds:
        assert not known & {row.tobytes() for row in task.draw(300, seed, step)[0]}


def test_no_seed_and_step_start_the_generator_of_the_test_set():
    """A training seed and step are two words of 32 bits, filled up to four by zeros; the test set has a fifth word."""

    def first(seed):
        return np.random.default_rng(seed).integers(2**63, size=4).tolist()

    number = tasks.TEST.entropy
    assert first(tasks.TEST) == first([number, 0, 0, 0, 1]) != first([number, 0, 0, 0])
    assert (
        first([5, 1]) == first([5, 1, 0, 0]) != first([5, 1, 0, 0, 1])
    )  # filling tells nothing apart, a fifth word does
    assert first([2**32, 0]) == first([0, 1])  # and larger numbers are two words: so they are refused
    for seed, step in ((-1, 0), (0, -1), (2**32, 0), (0, 2**32)):
        with pytest.raises(ValueError, match="expected a whole number from 0 to 4294967295"):
            Task("copy").draw(1, seed, step)


def test_the_test_set_leaves_the_training_alone():
    before = Task("sort").draw(4, 0, 0)[0]
    Task("sort").test()
    assert (Task("sort").draw(4, 0, 0)[0] == before).all()


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_tasks_that_cannot_be():
    with pytest.raises(ValueError, match="there is no task 'shuffle'; choose one of reverse, sort"):
        Task("shuffle")
    with pytest.raises(ValueError, match="its length must be even; got 15"):
        Task("swap", length=15)
    for wrong in ({"length": 0}, {"symbols": 1}, {"values": 1}):
        with pytest.raises(ValueError, match="expected a length of at least 1, and at least 2"):
            Task("copy", **wrong)
    with pytest.raises(ValueError, match="0 sequences; expected at least 1"):
        Task("copy").draw(0, 0, 0)


# -- scores ------------------------------------------------------------------------------------------------------------


def test_scores_by_hand():
    targets = np.array([[1, 2, 3], [4, 5, IGNORED], [IGNORED, IGNORED, 6]])
    predicted = np.array([[1, 2, 0], [4, 5, 9], [0, 0, 6]])
    assert accuracy(predicted, targets) == pytest.approx(5 / 6)
    assert solved(predicted, targets) == pytest.approx(2 / 3)
    assert accuracy(targets, targets) == solved(targets, targets) == 1.0
    assert accuracy([1, 2, 3, 4], [1, 2, 0, 0]) == solved([1, 2, 3, 4], [1, 2, 0, 0]) == 0.5


def test_a_row_that_asks_nothing_is_not_solved():
    assert solved([[1], [1]], [[0], [IGNORED]]) == 0.0


def test_predicting_the_ignored_is_not_rewarded():
    assert accuracy([[IGNORED, 1]], [[IGNORED, 0]]) == solved([[IGNORED, 1]], [[IGNORED, 0]]) == 0.0


@pytest.mark.parametrize("score", [accuracy, solved])
def test_scores_that_cannot_be(score):
    with pytest.raises(ValueError, match=r"shape \(2, 3\) for targets of shape \(2,\).*take the argmax"):
        score(np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(ValueError, match="no target is scored"):
        score([1], [IGNORED])


# -- digits ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled():
    return pytest.importorskip("sklearn.datasets").load_digits()


def as_images(inputs):
    return inputs.reshape(-1, 4, 4, 2, 2).swapaxes(2, 3).reshape(-1, 8, 8)


def test_patches_by_hand():
    image = np.arange(64).reshape(1, 8, 8)
    found = patches(image)
    assert found.shape == (1, 16, 4)
    assert found[0, 0].tolist() == [0, 1, 8, 9] and found[0, 1].tolist() == [2, 3, 10, 11]
    assert found[0, 4].tolist() == [16, 17, 24, 25] and found[0, 15].tolist() == [54, 55, 62, 63]
    assert (as_images(found) == image).all()


def test_the_digits_are_all_there_once(bundled):
    found = digits()
    inputs = np.concatenate([found.train_inputs, found.test_inputs])
    labels = np.concatenate([found.train_labels, found.test_labels])
    assert found.train_inputs.shape == (1437, 16, 4) and found.test_inputs.shape == (360, 16, 4)
    assert inputs.dtype == np.float32 and labels.dtype == np.int64
    assert inputs.min() == 0 and inputs.max() == 1
    ours = sorted((*image.ravel(), label) for image, label in zip(as_images(inputs) * 16, labels, strict=True))
    theirs = sorted((*image.ravel(), label) for image, label in zip(bundled.images, bundled.target, strict=True))
    assert ours == theirs


def test_the_split_is_stratified_and_stays(bundled):
    found, again, other = digits(), digits(0), digits(1)
    shares = np.bincount(found.test_labels) / np.bincount(bundled.target)
    assert (abs(shares - 360 / 1797) < 0.006).all()  # less than one image of a class away
    assert (found.test_inputs == again.test_inputs).all() and (found.train_labels == again.train_labels).all()
    assert (found.test_inputs != other.test_inputs).any()


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(Missing, match="pip install scikit-learn"):
        digits()


def test_scikit_learn_is_imported_by_digits_only():
    code = "import sys, qkvtheory.experiments.tasks as t; t.Task('sort').test(); assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_epoch_meets_every_example_once():
    batches = list(epoch(10, 4, seed=1, epoch=2))
    assert [len(rows) for rows in batches] == [4, 4, 2]
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(10))
    assert (np.concatenate(list(epoch(10, 4, seed=1, epoch=2))) == order).all()
    assert (np.concatenate(list(epoch(10, 10, seed=1, epoch=2))) == order).all()  # batches cut one and the same order
    assert (np.concatenate(list(epoch(10, 4, seed=1, epoch=3))) != order).any()
    assert (np.concatenate(list(epoch(10, 4, seed=2, epoch=2))) != order).any()
    for wrong in ((0, 4), (10, 0)):
        with pytest.raises(ValueError, match="expected at least 1 of both"):
            epoch(*wrong, seed=0, epoch=0)


def test_first_places_are_even():
    first = np.array([next(epoch(5, 1, seed=0, epoch=e))[0] for e in range(2000)])
    counts = np.bincount(first, minlength=5)
    assert ((counts - 400) ** 2 / 400).sum() < 23.5  # chi squared, 4 degrees of freedom, 0.01%
