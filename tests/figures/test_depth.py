"""The chart of rounding and depth shows the stored numbers."""

import math

import pytest

from qkvtheory.figures import depth, stored


def test_the_chart_shows_errors_as_markers_and_predictions_as_lines():
    data = stored("depth")
    traces = depth.interactive(data)["data"]
    markers = [t for t in traces if t["mode"] == "markers"]
    dotted = [t for t in traces if t["mode"] == "lines"]
    assert len(markers) == len(dotted) == len(data["lines"])
    for line, points, prediction in zip(data["lines"], markers, dotted, strict=True):
        assert points["y"] == [row["error"] for row in line["rows"]]
        assert prediction["y"] == points["customdata"] == [row["predicted"] for row in line["rows"]]
        assert points["x"] == prediction["x"] == [row["depth"] for row in line["rows"]]


def test_everything_lies_inside_the_axes():
    for line in stored("depth")["lines"]:
        for row in line["rows"]:
            assert depth.X_RANGE[0] < math.log10(row["depth"]) < depth.X_RANGE[1]
            assert all(depth.Y_RANGE[0] < math.log10(row[k]) < depth.Y_RANGE[1] for k in ("error", "predicted"))


def test_names_stand_at_the_right_end_of_their_lines():
    data = stored("depth")
    placed = depth.labels(data)
    for line in data["lines"]:
        last = line["rows"][-1]
        (place,) = ((x, y) for text, x, y, _ in placed if text == depth.short(line) and y == last["error"])
        assert 1 < place[0] / last["depth"] < 1.5
    assert {"float64", "float32"} < {text for text, *_ in placed}


def test_the_alternative_text_follows_the_data():
    data = stored("depth")
    before = depth.alt(data)
    line = next(line for line in data["lines"] if line["kind"] == "steep")
    line["rows"][-1]["error"] = 7.7e-3
    assert "0.0077" in depth.alt(data) and depth.alt(data) != before


def test_every_line_has_a_look_of_its_own():
    looks = [depth.LOOK[depth.key(line)][1:] for line in stored("depth")["lines"]]
    assert len(set(looks)) == len(looks)
    with pytest.raises(KeyError):
        depth.trace({"kind": "calm", "dtype": "float64", "cond": 7.0, "rows": []})
