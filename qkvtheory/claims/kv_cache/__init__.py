"""Accounting and the KV cache."""

from qkvtheory.claims.kv_cache.cache import CACHE_COMPOSITION, KV_CACHE
from qkvtheory.claims.kv_cache.costs import MAC_FORMULA, PROJECTION_COST
from qkvtheory.claims.kv_cache.latent import GTA_CACHE, MLA_CACHE
from qkvtheory.claims.kv_cache.slim import SLIM_EXACT, SLIM_OP_COUNT
from qkvtheory.claims.kv_cache.tables import GQA_DOMINATES, PUBLISHED_TABLES
from qkvtheory.claims.kv_cache.weights import PARAM_COUNT, PROJECTION_SHARE

LEFT_OUT: dict[str, str] = {}
CLAIMS = (
    PROJECTION_COST,
    PARAM_COUNT,
    PROJECTION_SHARE,
    MAC_FORMULA,
    KV_CACHE,
    CACHE_COMPOSITION,
    SLIM_EXACT,
    SLIM_OP_COUNT,
    GQA_DOMINATES,
    MLA_CACHE,
    GTA_CACHE,
    PUBLISHED_TABLES,
)
