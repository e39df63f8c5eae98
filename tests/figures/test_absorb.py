"""The chart of the trained MLP that should absorb a skip shows the stored numbers."""

import math

import pytest

from qkvtheory.figures import absorb, stored

DATA = stored("absorb")


def test_the_chart_shows_every_stored_point_and_both_maps():
    traces = {trace["name"]: trace for trace in absorb.interactive(DATA)["data"]}
    assert set(traces) == {f"h = {run['h']}" for run in DATA["runs"]} | {told for _, told in absorb.MAPS.values()}
    for run in DATA["runs"]:
        shown = traces[f"h = {run['h']}"]
        assert shown["x"] == [point["step"] for point in run["curve"]]
        assert shown["y"] == [point["error"] for point in run["curve"]]
        assert shown["y"][-1] == run["student"]["error"]


def test_the_bands_are_what_is_published():
    shapes = absorb.interactive(DATA)["layout"]["shapes"]
    assert [[s["y0"], s["y1"]] for s in shapes] == [DATA["published"][name]["error"] for name in absorb.BANDS]


def test_one_level_serves_all_widths():
    """Both maps hardly depend on the width: that is why one line for each is enough."""
    for name, level in absorb.levels(DATA).items():
        assert all(run[name]["error"] == pytest.approx(level, rel=0.05) for run in DATA["runs"])


def test_everything_lies_inside_the_axes():
    for run in DATA["runs"]:
        for point in run["curve"]:
            assert absorb.X_RANGE[0] < math.log10(point["step"]) < absorb.X_RANGE[1]
            assert absorb.Y_RANGE[0] < math.log10(point["error"]) < absorb.Y_RANGE[1]


def test_the_alternative_text_follows_the_data():
    data = stored("absorb")
    before = absorb.alt(data)
    data["runs"][-1]["student"]["error"] = 0.0777
    assert "7.8%" in absorb.alt(data) and absorb.alt(data) != before
