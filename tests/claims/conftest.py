"""Every claim of a chapter, in every lane but the formal one, once."""

from __future__ import annotations

from functools import cache

import pytest

from qkvtheory.claims.register import register
from qkvtheory.lanes import report

pytest.register_assert_rewrite("tests.claims.chapter")  # its tests say what they compared

LANES = ("symbolic", "exact", "numeric", "count", "rank", "experiment")


@cache
def report_of(id: str) -> report.ClaimReport:
    (result,) = report.run([id], LANES)
    return result


def pytest_generate_tests(metafunc):
    """A test that asks for ``checked`` runs for every claim of its module's CHAPTER, with the claim's id as its own."""
    if "checked" in metafunc.fixturenames:
        ids = [c.id for c in register().values() if c.chapter == metafunc.module.CHAPTER]
        metafunc.parametrize("checked", ids, ids=ids, indirect=True)


@pytest.fixture
def checked(request) -> report.ClaimReport:
    return report_of(request.param)
