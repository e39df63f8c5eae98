"""The widgets as Jupyter widgets. Imported on first use, because it needs anywidget."""

from __future__ import annotations

from typing import Any

import anywidget
import traitlets

from qkvtheory.widgets import WIDGETS, bundle, static_html, styles


def trait(value: Any) -> Any:
    """The trait that holds values like this one; a matrix is a list of lists of numbers."""
    if isinstance(value, list):
        return traitlets.List(trait(value[0]))
    return {bool: traitlets.Bool, int: traitlets.Int, float: traitlets.Float, str: traitlets.Unicode}[type(value)]()


class Figure(anywidget.AnyWidget):
    """What every widget is made of: a still, and one trait per key of its module's DEFAULT.

    Every trait can be linked to other widgets. Raises TraitError for a state that the module's ``check_state`` refuses.
    """

    figure: str
    module: Any
    still = traitlets.Unicode().tag(sync=True)

    def __init__(self, **state: Any) -> None:
        own = {key: state.pop(key) for key in list(state) if key in self.module.DEFAULT}
        full = self.checked(own)
        super().__init__(**full, still=self.module.still(full), **state)

    def checked(self, given: dict[str, Any]) -> dict[str, Any]:
        try:
            return self.module.check_state(**given)
        except ValueError as error:
            raise traitlets.TraitError(str(error)) from error

    def check_one(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        state = {key: getattr(self, key) for key in self.module.DEFAULT}
        old = state[name]
        if isinstance(value, list) and old and len(value) != len(old):
            raise traitlets.TraitError(f"this figure was made for {len(old)} {name}, not {len(value)}; make a new one")
        return self.checked({**state, name: value})[name]

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        made = super()._repr_mimebundle_(**kwargs)
        if made is None:
            return None
        data, metadata = made if isinstance(made, tuple) else (made, {})
        # Where no kernel will ever answer (a static page), the figure is the static one.
        state = {key: getattr(self, key) for key in self.module.DEFAULT}
        return {**data, "text/html": static_html(self.figure, **state)}, metadata


def figure(name: str) -> Any:
    """The base class of the widget of this name: its script and its traits, checked as its module checks them."""
    module = WIDGETS[name]
    traits = {key: trait(value).tag(sync=True) for key, value in module.DEFAULT.items()}
    check = traitlets.validate(*traits)(Figure.check_one)
    own = {"figure": name, "module": module, "_esm": bundle(name), "_css": styles(), "_check": check}
    return type(name, (Figure,), {**traits, **own})


class Asymmetry(figure("asymmetry")):  # type: ignore[misc]
    """Tokens to drag, and what the map of one head loses when its queries are its keys.

    Traits: tokens (3 to 6 rows of 2), mode ("q=k" or "qkv"), correction ("none", "key-bias", "rope", "linear" or
    "cubic"), temperature (-3 to 3), causal (boolean), W_Q, W_K (2 x 2).

    >>> figure = Asymmetry(mode="qkv")
    >>> figure.correction = "rope"
    """


class BasisChange(figure("basis-change")):  # type: ignore[misc]
    """Tokens and basis vectors to drag: X becomes X Theta, the weights Theta^-1 W, and the scores stay.

    Traits: tokens (3 or 4 rows of 2), theta, W_Q, W_K, W_V (2 x 2), squeeze (0 to 12), forget_k, forget_v (booleans).

    >>> from ipywidgets import FloatSlider, VBox, jslink
    >>> figure, slider = BasisChange(), FloatSlider(max=12, description="squeeze")
    >>> _ = jslink((slider, "value"), (figure, "squeeze"))
    >>> box = VBox([slider, figure])
    """


class Energy(figure("energy")):  # type: ignore[misc]
    """Keys and queries to drag: a query that reads again and again rolls downhill, if values are keys.

    Traits: K, V (keys and values, 3 to 6 rows of 2), Q (queries, 1 to 3 rows of 2), alpha (0.2 to 4), tied (boolean).

    >>> figure = Energy(Q=[[0.5, 1.9]])
    >>> figure.tied = False
    """


class Cache(figure("cache")):  # type: ignore[misc]
    """What every variant of attention keeps in memory, in bytes, and what it costs where that was measured.

    Traits: model (a preset of ``qkvtheory.count``), tokens (1024 to 1048576), batch (1 to 256), number ("fp32", "bf16"
    or "fp8"), variant (a name such as "Q-K=V" or "GQA-4"), memory (24, 80 or 141 GB).

    >>> figure = Cache(model="llama-3-8b", variant="Q-GQA-8")
    >>> figure.number = "fp8"
    """


class GaugeCounter(figure("gauge-counter")):  # type: ignore[misc]
    """Every parameter of a small network as a square: which matter, and which a change of basis turns into 0 or 1.

    Traits: topology ("T0", "TA", "TM", "T2"), norm ("none", "RMSNorm", "LayerNorm"), positions ("additive", "RoPE"),
    groups ("own", "one"), activation ("GELU", "ReLU", "SwiGLU"), queries ("own", "shared", "identity"), gains, biases,
    tied (booleans), layers (1 to 3), show ("all" or a part of ``qkvtheory.freedom.PARTS``).

    >>> figure = GaugeCounter(topology="TA")
    >>> figure.norm = "RMSNorm"
    """


class Telescope(figure("telescope")):  # type: ignore[misc]
    """A stack of three layers: which basis every hidden state carries, and which skip, norm or tie breaks it.

    Traits: attention_skip, mlp_skip, norm, tied, shared, singular, norm_repair, tied_repair, singular_repair
    (booleans), mlp_repair ("none", "linear", "spare units", "layer 1", "layer 2", "layer 3").

    >>> figure = Telescope(mlp_skip=True)
    >>> figure.mlp_repair = "linear"
    """


class TrainedModel(figure("trained-model")):  # type: ignore[misc]
    """A small trained layer of attention that reverses eight digits: its answer and the map of every head.

    Traits: sequence (a string of eight digits), variant ("QKV", "Q=K", "Q=K, 2 heads", "(Q=K)+" or "Q=K, skip").

    >>> figure = TrainedModel(sequence="27182818")
    >>> figure.variant = "QKV"
    """
