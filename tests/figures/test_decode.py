"""The chart of decoding shows the stored measurements, and what bytes alone would promise."""

import copy
from math import log10

import pytest

from qkvtheory.figures import decode, stored

DATA = stored("decode")


def traces(panel):
    drawn = decode.interactive(DATA)["data"]
    return {t["name"]: t for t in drawn if ("xaxis" in t) == (panel == "below")}


def test_the_upper_panel_shows_every_stored_time():
    shown = traces("above")
    assert sum(len(t["x"]) for t in shown.values()) == len(DATA["runs"])
    for row in DATA["runs"]:
        trace = shown[row["model"]]
        at = trace["x"].index(row["context"])
        assert trace["y"][at] == 1e3 * row["seconds_per_token"]
        assert trace["customdata"][at] == [row["tokens_per_second"], row["ratio_to_qkv"], row["cache_bytes"] / 1e6]


def test_the_lower_panel_shows_the_longest_context():
    shown, last = traces("below"), max(DATA["setting"]["contexts"])
    rows = {row["model"]: row for row in DATA["runs"] if row["context"] == last}
    qkv = rows["QKV"]
    for name, row in rows.items():
        assert shown[name]["x"] == [row["cache_bytes"] / qkv["cache_bytes"]]
        assert shown[name]["y"] == [row["ratio_to_qkv"]]
    bars = shown[decode.BARS]
    for (name, row), y in zip(rows.items(), bars["y"], strict=True):
        read = row["cache_bytes"] + row["weight_bytes"]
        assert y == pytest.approx((qkv["cache_bytes"] + qkv["weight_bytes"]) / read), name


def test_shares_are_those_of_the_variants():
    assert {row["model"]: decode.percent(decode.share(DATA, row)) for row in decode.longest(DATA)} == {
        "QKV": "100%", "slim": "50%", "Q-K=V": "50%", "GQA-4": "25%", "Q-GQA-4": "12.5%", "MQA": "6.25%",
        "Q-MQA": "3.125%",
    }  # fmt: skip


def test_everything_lies_inside_the_axes():
    reaches = decode.ranges(DATA)
    for axis in reaches.values():
        assert axis[0] != axis[1]

    def inside(value, axis):
        low, high = sorted(reaches[axis])
        return low < log10(value) < high

    for row in DATA["runs"]:
        assert inside(row["context"], "context") and inside(1e3 * row["seconds_per_token"], "time")
    for row in decode.longest(DATA):
        assert inside(decode.share(DATA, row), "share")
        assert inside(row["ratio_to_qkv"], "speed") and inside(decode.by_bytes(DATA, row), "speed")


def test_names_keep_the_order_of_the_lines():
    names = decode.names(DATA)
    times = {row["model"]: row["seconds_per_token"] for row in decode.longest(DATA)}
    assert [name for name, _ in names] == sorted(times, key=times.__getitem__)
    heights = [height for _, height in names]
    assert heights == sorted(heights) and len(set(heights)) == len(heights)


def test_a_variant_without_a_look_of_its_own_is_drawn():
    data = copy.deepcopy(DATA)
    for row in data["runs"]:
        row["model"] = row["model"].replace("GQA-4", "GQA-8")
    assert any(t["name"] == "GQA-8" for t in decode.interactive(data)["data"])
    assert "GQA-8" in decode.still(data, "light")


def test_the_alternative_text_follows_the_data():
    data = copy.deepcopy(DATA)
    before = decode.alt(data)
    decode.longest(data)[1]["ratio_to_qkv"] = 0.0777
    assert "0.078" in decode.alt(data) and decode.alt(data) != before


def test_a_run_on_an_accelerator_says_so():
    data = copy.deepcopy(DATA)
    data["setting"]["device"], data["provenance"]["machine"] = "cuda", "a fast card"
    assert "measured on a fast card" in decode.alt(data) and "processor" not in decode.alt(data)
