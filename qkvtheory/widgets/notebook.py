"""The widgets as Jupyter widgets. Imported on first use, because it needs anywidget."""

from __future__ import annotations

from typing import Any

import anywidget
import traitlets

from qkvtheory.widgets import basis_change, bundle, static_html, styles


def matrix() -> Any:
    return traitlets.List(traitlets.List(traitlets.Float())).tag(sync=True)


class BasisChange(anywidget.AnyWidget):
    """Tokens and basis vectors to drag: X becomes X Theta, the weights Theta^-1 W, and the scores stay.

    Traits: tokens (3 or 4 rows of 2), theta, W_Q, W_K, W_V (2 x 2), squeeze (0 to 12), forget_k, forget_v (booleans);
    every one can be linked to other widgets. Raises TraitError for a state that ``basis_change.check_state`` refuses.

    >>> from ipywidgets import FloatSlider, VBox, jslink
    >>> figure, slider = BasisChange(), FloatSlider(max=12, description="squeeze")
    >>> _ = jslink((slider, "value"), (figure, "squeeze"))
    >>> box = VBox([slider, figure])
    """

    _esm = bundle("basis-change")
    _css = styles()
    still = traitlets.Unicode().tag(sync=True)
    tokens = matrix()
    theta = matrix()
    W_Q = matrix()
    W_K = matrix()
    W_V = matrix()
    squeeze = traitlets.Float().tag(sync=True)
    forget_k = traitlets.Bool().tag(sync=True)
    forget_v = traitlets.Bool().tag(sync=True)

    def __init__(self, **state: Any) -> None:
        own = {key: state.pop(key) for key in list(state) if key in basis_change.DEFAULT}
        try:
            full = basis_change.check_state(**own)
        except ValueError as error:
            raise traitlets.TraitError(str(error)) from error
        super().__init__(**full, still=basis_change.still(full), **state)

    @traitlets.validate(*basis_change.DEFAULT)
    def _check(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        try:
            checked = basis_change.check_state(**{name: value})[name]
        except ValueError as error:
            raise traitlets.TraitError(str(error)) from error
        if name == "tokens" and self.tokens and len(checked) != len(self.tokens):
            raise traitlets.TraitError(
                f"this figure was made for {len(self.tokens)} tokens, not {len(checked)}; make a new one"
            )
        return checked

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        made = super()._repr_mimebundle_(**kwargs)
        if made is None:
            return None
        data, metadata = made if isinstance(made, tuple) else (made, {})
        # Where no kernel will ever answer (a static page), the figure is the static one.
        state = {key: getattr(self, key) for key in basis_change.DEFAULT}
        return {**data, "text/html": static_html("basis-change", **state)}, metadata
