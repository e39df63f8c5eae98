"""What the tests of the package share: how hypothesis searches, and random layers."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from qkvtheory import Attention, ConditionWarning, Heads

# The same examples in every run, and no deadline: a slow machine is not a bug.
settings.register_profile(
    "book", max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("book")


def weights(rng: np.random.Generator, d: int = 8, **shapes: tuple[int, int]) -> dict[str, Any]:
    """W_Q, W_K, W_V, W_O, all d x d unless a shape is given."""
    named = {f"W_{c}": shapes.get(f"W_{c}", (d, d)) for c in "QKVO"}
    return {name: rng.normal(size=shape) / np.sqrt(shape[0]) for name, shape in named.items()}


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The machine's own Chromium, one for all tests: Playwright allows no second one beside it."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no page is read here")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine: no page is read here")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=program, args=arguments)
        yield running
        running.close()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def layer(rng: np.random.Generator) -> Callable[..., Attention]:
    """A sublayer with two heads and 4 x 4 weights; any field can be given."""
    return lambda **given: Attention(**({"core": Heads(2), **weights(rng, 4)} | given))


@pytest.fixture
def no_condition_warnings():
    """Any ConditionWarning is an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConditionWarning)
        yield
