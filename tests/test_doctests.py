"""Every public name explains itself, and the examples in docstrings run (pytest collects them from the package)."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest

import qkvtheory

MODULES = ("linalg", "attention", "positions", "gauge", "words", "chains", "patterns", "words_sympy")
WITH_EXAMPLES = ["qkvtheory", *(f"qkvtheory.{m}" for m in MODULES)]


@pytest.mark.parametrize("name", qkvtheory.__all__)
def test_every_public_name_has_a_docstring_of_its_own(name):
    thing = getattr(qkvtheory, name)
    assert thing.__doc__ and not thing.__doc__.startswith(f"{name}("), name
    assert len(inspect.cleandoc(thing.__doc__)) > 30


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_exist_and_run(module):
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
