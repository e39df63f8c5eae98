"""Can an MLP absorb its skip?"""

from qkvtheory.claims.absorbing_skips.common import CHAPTER
from qkvtheory.claims.absorbing_skips.figures import BASELINE, COSINE
from qkvtheory.claims.absorbing_skips.flips import ALMOST_SURE, SIGN_FLIP
from qkvtheory.claims.absorbing_skips.homogeneous import DEEP, GATED, HOMOGENEOUS
from qkvtheory.claims.absorbing_skips.kinks import GELU_IFF, RELU_IFF, SMALL
from qkvtheory.claims.absorbing_skips.reduction import REDUCTION
from qkvtheory.claims.absorbing_skips.spare import SHARP, SPARE
from qkvtheory.claims.model import Claim

__all__ = ["CHAPTER", "CLAIMS", "LEFT_OUT"]

LEFT_OUT: dict[str, str] = {}
CLAIMS: tuple[Claim, ...] = (
    REDUCTION,
    HOMOGENEOUS,
    GATED,
    DEEP,
    SIGN_FLIP,
    RELU_IFF,
    GELU_IFF,
    ALMOST_SURE,
    SMALL,
    SPARE,
    SHARP,
    COSINE,
    BASELINE,
)
