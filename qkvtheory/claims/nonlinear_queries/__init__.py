"""Queries that are not linear."""

from __future__ import annotations

from qkvtheory.claims.model import Claim
from qkvtheory.claims.nonlinear_queries.basis import NONLINEAR_QUERY_GAUGE
from qkvtheory.claims.nonlinear_queries.common import CHAPTER
from qkvtheory.claims.nonlinear_queries.disputed import NONLINEAR_QUERY_DISPUTED
from qkvtheory.claims.nonlinear_queries.form import NONLINEAR_QUERY_FORM, QUERY_SCALE_HALF
from qkvtheory.claims.nonlinear_queries.linear import LINEAR_QUERY_ADDS_NOTHING, NONLINEAR_QUERY_BEYOND_ORBIT

__all__ = [
    "CHAPTER",
    "CLAIMS",
    "LEFT_OUT",
    "LINEAR_QUERY_ADDS_NOTHING",
    "NONLINEAR_QUERY_BEYOND_ORBIT",
    "NONLINEAR_QUERY_DISPUTED",
    "NONLINEAR_QUERY_FORM",
    "NONLINEAR_QUERY_GAUGE",
    "QUERY_SCALE_HALF",
]

LEFT_OUT: dict[str, str] = {}
CLAIMS: tuple[Claim, ...] = (
    LINEAR_QUERY_ADDS_NOTHING,
    NONLINEAR_QUERY_BEYOND_ORBIT,
    NONLINEAR_QUERY_FORM,
    NONLINEAR_QUERY_GAUGE,
    QUERY_SCALE_HALF,
    NONLINEAR_QUERY_DISPUTED,
)
