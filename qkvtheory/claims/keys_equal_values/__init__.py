"""Keys equal to values."""

from qkvtheory.claims.keys_equal_values.downhill import CONVEX_HULL, ENERGY_DESCENT, GRADIENT_MAP
from qkvtheory.claims.keys_equal_values.forms import KEYLESS_BOUND, NAMES_EQUAL, QVV3
from qkvtheory.claims.keys_equal_values.freedom import POSTHOC
from qkvtheory.claims.keys_equal_values.positions import KV_ROPE
from qkvtheory.claims.keys_equal_values.relatives import LATENT, QV_KA, RECURRENCE
from qkvtheory.claims.keys_equal_values.ties import DIMENSION_LOST, LOSSLESS, SINGLE_HEAD

LEFT_OUT: dict[str, str] = {}
CLAIMS = (
    NAMES_EQUAL,
    LOSSLESS,
    SINGLE_HEAD,
    DIMENSION_LOST,
    CONVEX_HULL,
    GRADIENT_MAP,
    ENERGY_DESCENT,
    KV_ROPE,
    QVV3,
    KEYLESS_BOUND,
    QV_KA,
    LATENT,
    RECURRENCE,
    POSTHOC,
)
