"""One layer for free with every skip."""

from __future__ import annotations

from qkvtheory.claims.every_skip.bases import GLOBAL_BASIS_ONLY, LEARNED_SKIP_REMOVAL
from qkvtheory.claims.every_skip.conjugation import CHAPTER, ONE_LAYER_FREE
from qkvtheory.claims.every_skip.encoder_decoder import ENCODER_DECODER
from qkvtheory.claims.every_skip.gain import SKIP_GAIN
from qkvtheory.claims.every_skip.parallel import PARALLEL_GLOBAL
from qkvtheory.claims.model import Claim

__all__ = ["CHAPTER", "CLAIMS", "LEFT_OUT"]

LEFT_OUT: dict[str, str] = {}
CLAIMS: tuple[Claim, ...] = (
    ONE_LAYER_FREE,
    GLOBAL_BASIS_ONLY,
    LEARNED_SKIP_REMOVAL,
    SKIP_GAIN,
    PARALLEL_GLOBAL,
    ENCODER_DECODER,
)
