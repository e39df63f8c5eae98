"""Queries equal to keys."""

from qkvtheory.claims.queries_equal_keys.balance import BALANCE_IFF, DETAILED_BALANCE, SPECTRUM, TWO_TOKENS
from qkvtheory.claims.queries_equal_keys.bound import EQUAL_NORMS, PAIR_BOUND, REVERSE_SWAP
from qkvtheory.claims.queries_equal_keys.causal import NORM_GROWTH, ONE_WAY, UNIVERSAL
from qkvtheory.claims.queries_equal_keys.cycles import CONVERSE, GENERAL, NECESSARY
from qkvtheory.claims.queries_equal_keys.forms import GRAM, PATTERNS
from qkvtheory.claims.queries_equal_keys.left import PROJECTIONS_LEFT
from qkvtheory.claims.queries_equal_keys.scores import NOT_SYMMETRIC, QK_SYMMETRIC, ROW_STOCHASTIC

LEFT_OUT: dict[str, str] = {}
CLAIMS = (
    QK_SYMMETRIC,
    NOT_SYMMETRIC,
    ROW_STOCHASTIC,
    DETAILED_BALANCE,
    BALANCE_IFF,
    NECESSARY,
    CONVERSE,
    TWO_TOKENS,
    GENERAL,
    SPECTRUM,
    PAIR_BOUND,
    REVERSE_SWAP,
    EQUAL_NORMS,
    GRAM,
    PATTERNS,
    ONE_WAY,
    NORM_GROWTH,
    UNIVERSAL,
    PROJECTIONS_LEFT,
)
