"""Restoring direction."""

from qkvtheory.claims.restoring_direction.correction import CONV_FORM, INITIAL, SKEW_RANK, TEMPERATURE
from qkvtheory.claims.restoring_direction.measures import MEASURES, SKEW_RATIO, WEIGHT_SYMMETRY
from qkvtheory.claims.restoring_direction.positions import RELATIVE_BIAS, ROPE
from qkvtheory.claims.restoring_direction.reversible import INVOLUTION, PAIR_SIGN, PLUS_REVERSIBLE

LEFT_OUT: dict[str, str] = {}
CLAIMS = (
    CONV_FORM,
    TEMPERATURE,
    SKEW_RANK,
    PLUS_REVERSIBLE,
    PAIR_SIGN,
    INVOLUTION,
    INITIAL,
    RELATIVE_BIAS,
    ROPE,
    MEASURES,
    SKEW_RATIO,
    WEIGHT_SYMMETRY,
)
