r"""Formulas as plain text, for window titles and the table of contents.

>>> plain(r"X\Theta^{-1}W_Q")
'XΘ⁻¹W_Q'
>>> plain(r"\mathrm{MHA}(X)")
'MHA(X)'
"""

from __future__ import annotations

import re

GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "theta": "θ", "lambda": "λ", "mu": "μ",
    "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ", "phi": "φ", "psi": "ψ", "Theta": "Θ", "Lambda": "Λ", "Sigma": "Σ",
    "Phi": "Φ", "Psi": "Ψ", "Omega": "Ω",
}  # fmt: skip
SIGNS = {
    "to": "→", "cdot": "·", "times": "×", "neq": "≠", "ne": "≠", "le": "≤", "ge": "≥", "in": "∈", "approx": "≈",
    "ell": "ℓ", "top": "ᵀ", "infty": "∞", "sum": "Σ", "mapsto": "↦", "quad": " ", "ldots": "…", "dots": "…",
}  # fmt: skip
RAISED = str.maketrans("0123456789-+", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺")


def plain(tex: str) -> str:
    """One line of text close to what the formula says. Superscripts of digits are raised; the rest keeps ^ and _."""
    text = re.sub(r"\\([A-Za-z]+)\*? ?", lambda m: GREEK.get(m[1], SIGNS.get(m[1], "")), tex)
    text = re.sub(r"\^\{?([-+\d]+)\}?", lambda m: m[1].translate(RAISED), text)
    text = re.sub(r"\^(ᵀ)", r"\1", text)
    return re.sub(r"\\.|[{}$]", "", text).strip()
