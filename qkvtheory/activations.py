"""Activations of MLPs, on floats, on complex numbers (for the complex step of ``redundancy``) and, ReLU, on fractions.

Gated ones take both their inputs side by side, as ``network.MLP`` holds them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

SLOPE = math.sqrt(2 / math.pi)


def relu(z: Any) -> Any:
    """max(z, 0), by the sign of the real part: analytic where no entry is 0."""
    return np.where(z.real > 0, z, 0 * z)


def relu_squared(z: Any) -> Any:
    """max(z, 0)^2, by the sign of the real part: analytic where no entry is 0."""
    return relu(z) ** 2


def reglu(z: Any) -> Any:
    """ReGLU of both inputs side by side: max(a, 0) b for z = [a | b]."""
    a, b = np.split(z, 2, axis=-1)
    return relu(a) * b


def gelu_tanh(z: Any) -> Any:
    """GELU in its tanh form, z (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))) / 2. Hendrycks and Gimpel (1606.08415)."""
    return z * (1 + np.tanh(SLOPE * z * (1 + 0.044715 * z * z))) / 2


def silu(z: Any) -> Any:
    """z / (1 + exp(-z)), written so that nothing overflows. Ramachandran, Zoph and Le (1710.05941)."""
    return z * (1 + np.tanh(z / 2)) / 2


def swiglu(z: Any) -> Any:
    """SiLU(a) b for z = [a | b]. Shazeer 2020 (2002.05202)."""
    a, b = np.split(z, 2, axis=-1)
    return silu(a) * b
