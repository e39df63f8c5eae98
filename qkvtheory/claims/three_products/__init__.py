"""Attention sees X only through three products."""

from qkvtheory.claims.three_products.bilinear import SCORES_BILINEAR, VALUE_PATH
from qkvtheory.claims.three_products.reads import R_PRODUCTS, THREE_PRODUCTS
from qkvtheory.claims.three_products.softmax import KEY_BIAS, PATTERN_RANK, ROW_CONSTANTS, VALUE_BIAS

LEFT_OUT: dict[str, str] = {}
CLAIMS = (THREE_PRODUCTS, R_PRODUCTS, SCORES_BILINEAR, VALUE_PATH, ROW_CONSTANTS, KEY_BIAS, VALUE_BIAS, PATTERN_RANK)
