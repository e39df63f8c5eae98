"""Where it stops."""

from __future__ import annotations

from qkvtheory.claims.model import Claim
from qkvtheory.claims.where_it_stops.grouped import GQA_KV_STOP
from qkvtheory.claims.where_it_stops.layernorm import LAYERNORM_CENTRING, LAYERNORM_FIXES_ONES
from qkvtheory.claims.where_it_stops.norms import GAIN_FOLDING, RMSNORM_ORTHOGONAL_ONLY
from qkvtheory.claims.where_it_stops.post_norm import POST_NORM_GAIN
from qkvtheory.claims.where_it_stops.rounding import CONDITIONING
from qkvtheory.claims.where_it_stops.singular import SINGULAR_WQ
from qkvtheory.claims.where_it_stops.skips import BASIS_SKIP_REPAIR, CHAPTER, MLP_SKIP_DEFECT
from qkvtheory.claims.where_it_stops.tied import TIED_READOUT
from qkvtheory.claims.where_it_stops.triangles import RMS_BLOCK_TRIANGULAR, RMS_SPD, RMS_TRIANGULAR

__all__ = ["CHAPTER", "CLAIMS", "LEFT_OUT"]

LEFT_OUT: dict[str, str] = {}
CLAIMS: tuple[Claim, ...] = (
    MLP_SKIP_DEFECT,
    BASIS_SKIP_REPAIR,
    RMSNORM_ORTHOGONAL_ONLY,
    GAIN_FOLDING,
    RMS_TRIANGULAR,
    RMS_SPD,
    RMS_BLOCK_TRIANGULAR,
    LAYERNORM_CENTRING,
    LAYERNORM_FIXES_ONES,
    POST_NORM_GAIN,
    TIED_READOUT,
    SINGULAR_WQ,
    GQA_KV_STOP,
    CONDITIONING,
)
