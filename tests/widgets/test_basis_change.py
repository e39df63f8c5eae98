"""The still, the state and the notebook widget."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from qkvtheory import widgets
from qkvtheory.widgets import WIDGETS, basis_change, bundle, static_html

BAD = [
    ({"theta": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]}, "theta must be 2 rows of 2 finite numbers, not of shape"),
    ({"theta": [[1.0, np.nan], [0.0, 1.0]]}, "theta .* NaN or infinity"),
    ({"theta": [[1.0, 2.0], [2.0, 4.0]]}, "theta must be invertible; its condition number is inf"),
    ({"theta": [[1.0, 1.0], [1.0, 1.0 + 1e-14]]}, "theta must be invertible"),
    ({"theta": "wide"}, "theta must be 2 rows"),
    ({"tokens": [[1.0, 0.0], [0.0]]}, "tokens must be 3 or 4 rows of 2 finite numbers"),
    ({"tokens": [[1.0, 0.0]] * 5}, r"tokens .* not of shape \(5, 2\)"),
    ({"W_K": [[np.inf, 0.0], [0.0, 1.0]]}, "W_K .* NaN or infinity"),
    ({"squeeze": -1}, "squeeze must be a number from 0 to 12, not -1"),
    ({"squeeze": float("nan")}, "squeeze must be a number"),
    ({"squeeze": "2"}, "squeeze must be a number"),
    ({"forget_k": 1}, "forget_k must be True or False, not 1"),
    ({"thetas": 1}, "unknown: thetas; the state has tokens, theta"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_a_bad_state_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        static_html("basis-change", **given)


def test_unknown_widget():
    with pytest.raises(ValueError, match="no widget is called 'basis'; there are: basis-change"):
        static_html("basis")
    with pytest.raises(ValueError, match="no widget"):
        bundle("../qkv")


class Reader(HTMLParser):
    VOID = ("input", "meta", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.open, self.parts, self.ids, self.attributes = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.parts += [named["data-part"]] if "data-part" in named else []
        self.ids += [named["id"]] if "id" in named else []
        self.attributes += attrs
        if tag not in self.VOID and not self.get_starttag_text().endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", WIDGETS)
def test_the_fragment_is_well_formed_and_self_contained(name):
    html = static_html(name)
    seen = Reader(html)
    assert seen.open == []
    assert seen.ids == []  # several of them fit on one page
    assert len(set(seen.parts)) == len(seen.parts) > 20
    assert not [value for key, value in seen.attributes if key in ("href", "src")]
    assert "http" not in re.sub(r"<style>.*?</style>", "", html)
    assert "<style>" not in static_html(name, style=False)


def test_the_state_travels_as_json_and_cannot_close_its_script():
    html = static_html("basis-change", squeeze=2, forget_v=True)
    state = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1])
    assert state == {**basis_change.DEFAULT, "squeeze": 2.0, "forget_v": True}


def test_the_still_shows_what_the_package_computes():
    state = basis_change.check_state(theta=[[0.7, 0.2], [-1.1, 0.9]], forget_k=True)
    html = static_html("basis-change", **state)
    x, t = np.array(state["tokens"]), np.array(state["theta"])
    q, k = x @ np.array(state["W_Q"]), x @ t @ np.array(state["W_K"])
    scores = (q @ k.T) / np.sqrt(2)
    cells = re.search(r'data-part="after scores">(.*?)</div>', html)[1]
    shown = [float(v.replace("−", "-")) for v in re.findall(r">([^<]+)</span>", cells)]
    assert np.allclose(shown, scores.ravel(), atol=0.006)
    assert 'data-part="weight W_K" data-forgot="true"' in html and 'data-part="weight W_V" data-forgot="false"' in html
    size = r"by [1-9\d.]+"
    assert re.search(
        f"Inverse forgotten on W_K. Score matrix moves {size}, attention map {size} and output {size}", html
    )


def test_only_the_output_moves_when_values_forget():
    html = static_html("basis-change", forget_v=True)
    assert re.findall(r'data-part="tag (\w+)" data-state="(\w+)"', html) == [
        ("scores", "stays"),
        ("pattern", "stays"),
        ("output", "moves"),
    ]


def test_with_the_identity_nothing_moves_even_when_forgotten():
    html = static_html("basis-change", theta=[[1.0, 0.0], [0.0, 1.0]], forget_k=True, forget_v=True, style=False)
    assert set(re.findall(r'data-state="(\w+)"', html)) == {"stays"}


def test_bundle_has_no_import_left_and_one_default_export():
    code = bundle("basis-change")
    assert not re.search(r"^\s*import\b|import\(", code, re.M)
    assert code.count("export default") == 1 and "function matmul" in code


def test_bundle_refuses_a_module_it_cannot_inline(tmp_path, monkeypatch):
    monkeypatch.setattr(widgets, "FOLDER", tmp_path)
    (tmp_path / "qkv.mjs").write_text("export const a = 1;\n")
    for source in (
        'import * as q from "./qkv.mjs";\n',
        'import { a } from "./qkv.mjs";\nimport b from "./b.mjs";\n',
        "",
    ):
        (tmp_path / "basis_change.mjs").write_text(source)
        with pytest.raises(ValueError, match="expected exactly one import"):
            bundle("basis-change")


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_importing_widgets_loads_no_notebook_library():
    heavy = {"anywidget", "ipywidgets", "traitlets", "matplotlib", "plotly", "torch"}
    done = run_python(
        f"import sys, qkvtheory.widgets as w; w.static_html('basis-change');print(sorted({heavy} & set(sys.modules)))"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_without_anywidget_the_message_says_what_to_install():
    code = "import sys; sys.modules['anywidget'] = None\nfrom qkvtheory.widgets import BasisChange"
    done = run_python(code)
    assert done.returncode == 1
    assert 'pip install "qkvtheory[widgets]"' in done.stderr.splitlines()[-1]


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="nothing"):
        _ = widgets.nothing


@pytest.fixture
def figure():
    pytest.importorskip("anywidget")
    return widgets.BasisChange(squeeze=1)


def test_the_notebook_widget_holds_the_state(figure):
    assert {key: getattr(figure, key) for key in basis_change.DEFAULT} == {**basis_change.DEFAULT, "squeeze": 1.0}
    assert figure.still == basis_change.still(basis_change.check_state(squeeze=1))
    synced = set(figure.trait_names(sync=True))
    assert synced >= {*basis_change.DEFAULT, "still", "_esm", "_css"}
    assert figure._esm == bundle("basis-change")


@pytest.mark.parametrize(("given", "message"), BAD[:-1])
def test_the_notebook_widget_refuses_too(figure, given, message):
    from traitlets import TraitError

    with pytest.raises(TraitError, match=message):
        widgets.BasisChange(**given)
    [(name, value)] = given.items()
    old = getattr(figure, name)
    if name != "forget_k":  # traitlets itself turns 1 into an error or into True
        with pytest.raises(TraitError):
            setattr(figure, name, value)
        assert getattr(figure, name) == old


def test_the_number_of_tokens_is_fixed(figure):
    from traitlets import TraitError

    figure.tokens = [[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]
    with pytest.raises(TraitError, match="made for 3 tokens, not 4"):
        figure.tokens = [[1.0, 1.0]] * 4


def test_it_links_to_sliders(figure):
    from ipywidgets import Checkbox, FloatSlider, link

    slider, box = FloatSlider(max=12), Checkbox()
    link((slider, "value"), (figure, "squeeze"))
    link((box, "value"), (figure, "forget_v"))
    slider.value, box.value = 4.5, True
    assert figure.squeeze == 4.5 and figure.forget_v is True
    figure.squeeze = 2.0
    assert slider.value == 2.0


def test_a_static_page_gets_the_static_figure_with_the_state_of_the_moment(figure):
    figure.forget_k = True
    data, _ = figure._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["text/html"] == static_html("basis-change", squeeze=1, forget_k=True)
