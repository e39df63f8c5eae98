"""Interactive figures: one Python file, one ES module and one name each; the module runs on a page and in a notebook.

``static_html(name, **state)`` is the figure as HTML: a still painted here with NumPy, which ``mount.mjs`` brings to
life without any kernel. ``BasisChange(...)`` is the same figure as a widget for notebooks; it needs
``pip install "qkvtheory[widgets]"``.

>>> from qkvtheory.widgets import static_html
>>> static_html("basis-change", squeeze=2)[:50]
'<div class="qkv-widget" data-widget="basis-change"'
"""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

from qkvtheory.widgets import asymmetry, basis_change, cache, energy, gauge_counter, telescope, trained_model

__all__ = [
    "WIDGETS",
    "Asymmetry",
    "BasisChange",
    "Cache",
    "Energy",
    "GaugeCounter",
    "Telescope",
    "TrainedModel",
    "bundle",
    "static_html",
    "styles",
]

FOLDER = Path(__file__).parent
WIDGETS = {
    "basis-change": basis_change,
    "asymmetry": asymmetry,
    "telescope": telescope,
    "energy": energy,
    "cache": cache,
    "gauge-counter": gauge_counter,
    "trained-model": trained_model,
}
IMPORT = re.compile(r'^import \{[^}]*\} from "\./qkv\.mjs";\n', re.MULTILINE)


def static_html(name: str, style: bool = True, **state: Any) -> str:
    """The widget as an HTML fragment that is complete without script: picture, table twin, and its state as JSON.

    Parameters: ``name``, a key of WIDGETS; ``state``, what its figure takes (``basis_change.check_state`` lists it);
    ``style=False`` leaves the style sheet out, for a page that links ``widgets.css``.
    Raises ValueError for an unknown name or a bad state.
    """
    widget = find(name)
    full = widget.check_state(**state)
    data = json.dumps(full, allow_nan=False).replace("<", "\\u003c")
    # A style element is allowed anywhere in HTML only inside SVG.
    sheet = f'<svg width="0" height="0" aria-hidden="true" class="qkv-none"><style>{styles()}</style></svg>'
    return (
        f'<div class="qkv-widget" data-widget="{escape(name)}">{sheet if style else ""}{widget.still(full)}'
        f'<script type="application/json">{data}</script></div>'
    )


def styles() -> str:
    return (FOLDER / "widgets.css").read_text(encoding="utf-8")


def bundle(name: str) -> str:
    """The widget and the shared arithmetic as one ES module: a module loaded from a blob has no neighbors to import.

    Raises ValueError for an unknown name, or a module whose import of qkv.mjs cannot be inlined.
    """
    find(name)
    source = (FOLDER / f"{name.replace('-', '_')}.mjs").read_text(encoding="utf-8")
    alone, found = IMPORT.subn("", source)
    if found != 1 or re.search(r"^import\b", alone, re.MULTILINE):
        raise ValueError(f'{name}: expected exactly one import, of the form import {{ ... }} from "./qkv.mjs";')
    shared = (FOLDER / "qkv.mjs").read_text(encoding="utf-8")
    return re.sub(r"^export (?=const|function)", "", shared, flags=re.MULTILINE) + alone


def find(name: str) -> Any:
    if name not in WIDGETS:
        raise ValueError(f"no widget is called {name!r}; there are: {', '.join(WIDGETS)}")
    return WIDGETS[name]


def class_name(name: str) -> str:
    """The widget's class in a notebook.

    >>> class_name("basis-change")
    'BasisChange'
    """
    return name.title().replace("-", "")


def __getattr__(name: str) -> Any:
    if name not in map(class_name, WIDGETS):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from qkvtheory.widgets import notebook
    except ModuleNotFoundError as error:
        if error.name not in ("anywidget", "ipywidgets", "traitlets"):
            raise
        raise ModuleNotFoundError(
            'widgets in a notebook need anywidget: pip install "qkvtheory[widgets]"', name=error.name
        ) from error
    return getattr(notebook, name)
