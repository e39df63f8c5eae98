"""One look for all charts: colors for light, dark and interactive use, and SVG that takes a page's colors.

Every color has the name of a CSS variable of the site. In a still it is written ``var(--qkv-q, #1a5fb4)``: on its own
the picture has the theme's color, and placed inside a page it follows the page. Colors never carry meaning alone:
markers and lines differ too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

PALETTES: dict[str, dict[str, str]] = {
    "light": {
        "page": "#fdfcf9", "text": "#24262b", "muted": "#5d6068", "line": "#dcd7ca", "link": "#1f5585",
        "pass": "#1b6b3a", "fail": "#a8200d", "rank": "#8a5a00", "q": "#1a5fb4", "k": "#a8430a", "v": "#1b7340",
    },
    "dark": {
        "page": "#16181d", "text": "#e3e1dc", "muted": "#a5a8b0", "line": "#3a3e48", "link": "#93c0ea",
        "pass": "#7fd19b", "fail": "#ff9d8a", "rank": "#e2b866", "q": "#8ab8f5", "k": "#f0a36b", "v": "#7ccf97",
    },
}  # fmt: skip
# A plotly figure stands on both grounds, so its colors have a contrast of at least 3 with each.
BOTH = {
    "muted": "#8a8d95", "link": "#3f83c4", "pass": "#2f9156", "fail": "#dc5444", "rank": "#b07a1c",
    "q": "#3f83d6", "k": "#c96a28", "v": "#2f9156",
}  # fmt: skip


Canvas = tuple[Any, Any, Mapping[str, str]]


@contextmanager
def canvas(theme: str, width: float = 5.0, height: float = 4.2, **grid: Any) -> Iterator[Canvas]:
    """(figure, axes, colors) of matplotlib in the theme; inches of 72 units. Raises ImportError or ValueError."""
    if theme not in PALETTES:
        raise ValueError(f"theme must be one of {', '.join(PALETTES)}, not {theme!r}")
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('still charts need matplotlib: pip install "qkvtheory[plots]"') from error
    c = PALETTES[theme]
    look: Any = {
        "svg.fonttype": "none", "svg.hashsalt": "qkv", "font.family": "sans-serif", "font.size": 10,
        "text.color": c["text"], "axes.labelcolor": c["text"], "xtick.labelcolor": c["text"],
        "ytick.labelcolor": c["text"],
        "axes.edgecolor": c["muted"], "xtick.color": c["muted"], "ytick.color": c["muted"], "grid.color": c["line"],
        "axes.grid": True, "grid.linewidth": 0.5, "axes.axisbelow": True, "legend.frameon": False,
        "axes.spines.top": False, "axes.spines.right": False, "xtick.minor.size": 0, "ytick.minor.size": 0,
        "figure.facecolor": "none", "axes.facecolor": "none", "mathtext.default": "regular",
    }  # fmt: skip
    with mpl.rc_context(look):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(**grid), c


def to_svg(figure: Any, theme: str) -> str:
    """The figure as SVG text: letters stay letters, colors are variables of the page with a color to fall back on."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", out.getvalue(), flags=re.S)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--sans, system-ui, sans-serif)", svg)
    names = {color: name for name, color in reversed(PALETTES[theme].items())}
    return re.sub(r"#[0-9a-f]{6}\b", lambda m: f"var(--qkv-{names[m[0]]}, {m[0]})" if m[0] in names else m[0], svg)


def spoken(x: float) -> str:
    """A number for a text that is read aloud.

    >>> spoken(2.24e-15), spoken(0.13)
    ('2.2e-15', '0.13')
    """
    return f"{x:.2g}" if 1e-3 <= abs(x) < 1e4 else f"{x:.1e}"


def log_axis(title: str, low: float, high: float, every: int) -> dict[str, Any]:
    """A plotly axis in powers of ten, from 10^low to 10^high."""
    return {
        "type": "log", "title": {"text": title, "standoff": 6},
        "range": [low, high], "dtick": every, "exponentformat": "power",
        "showline": True, "zeroline": False, "automargin": True,
    }  # fmt: skip


def label(text: str, x: float, y: float, side: str = "left", **more: Any) -> dict[str, Any]:
    """A name beside its line, in the color of the page's text: a plotly annotation. On log axes x, y are exponents."""
    return {"text": text, "x": x, "y": y, "xanchor": side, "showarrow": False, "align": "left", **more}


def layout(x: Mapping[str, Any], y: Mapping[str, Any], right: int, **more: Any) -> dict[str, Any]:
    """The common part of a plotly layout. No title: the page's caption says it. ``right``: pixels for names there.

    The space above is for the buttons, which a touch screen always shows.
    """
    buttons = {
        "bgcolor": "rgba(0,0,0,0)", "color": BOTH["muted"], "activecolor": BOTH["link"],
        "remove": ["select2d", "lasso2d", "autoScale2d"],
    }  # fmt: skip
    return {
        "xaxis": dict(x), "yaxis": dict(y), "hovermode": "closest", "font": {"size": 11}, "showlegend": False,
        "margin": {"l": 10, "r": right, "t": 30, "b": 10}, "modebar": buttons, **more,
    }  # fmt: skip
