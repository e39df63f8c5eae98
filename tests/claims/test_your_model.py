"""The table of features: every row is a network on which all constructions are tried."""

import pytest

from qkvtheory.claims.register import register
from qkvtheory.claims.your_model import every_feature
from qkvtheory.claims.your_model.features import FEATURES, REMARKS
from qkvtheory.lanes.settings import FLOAT
from qkvtheory.lanes.worlds import Floats
from tests.claims.chapter import *  # noqa: F403

CHAPTER = "your-model"
CLAIMS = register()


def test_three_verdicts_for_every_feature():
    assert len(every_feature(Floats(FLOAT[0]))) == 3 * len(FEATURES)
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)


@pytest.mark.parametrize("row", [*FEATURES, *REMARKS], ids=lambda r: r.name)
def test_every_row_names_claims_that_exist(row):
    assert row.claims and set(row.claims) <= set(CLAIMS)


def test_every_kind_of_verdict_occurs():
    found = {feature.expected[which][0] for feature in FEATURES for which in "QKV"}
    assert found == {"I", "S", "R", "no"}
