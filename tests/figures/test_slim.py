"""The chart of Slim attention in low precision shows the stored numbers."""

import math

import pytest

from qkvtheory.figures import slim, stored


def test_the_chart_shows_every_stored_error():
    data = stored("slim")
    traces = {trace["name"]: trace for trace in slim.interactive(data)["data"] if trace["mode"] == "markers"}
    assert len(traces) == 3 * len(data["dtypes"])
    for line in data["dtypes"]:
        for kind, told in slim.KINDS.items():
            shown = traces[f"{line['dtype']}, {told}"]
            assert shown["x"] == [row["spread"] for row in line[kind]]
            assert shown["y"] == [row["keys"] for row in line[kind]]
        plain = traces[f"{line['dtype']}, values cached"]["y"]
        assert sorted(plain) == sorted(row["values"] for kind in slim.KINDS for row in line[kind])


def test_the_dotted_line_is_the_law():
    for line in stored("slim")["dtypes"]:
        (x, far), (y, high) = slim.prediction(line)
        assert x == 1 and y == line["constant"] * line["unit"]
        assert high / y == pytest.approx(far) and far == max(row["spread"] for row in slim.rows(line))


def test_everything_lies_inside_the_axes():
    for line in stored("slim")["dtypes"]:
        for row in slim.rows(line):
            assert slim.X_RANGE[0] < math.log10(row["spread"]) < slim.X_RANGE[1]
            assert all(slim.Y_RANGE[0] < math.log10(row[name]) < slim.Y_RANGE[1] for name in ("keys", "values"))


def test_the_alternative_text_follows_the_data():
    data = stored("slim")
    before = slim.alt(data)
    data["dtypes"][0]["gaussian"][-1]["keys"] = 0.0777
    assert "0.078" in slim.alt(data) and slim.alt(data) != before
