"""Training evidence."""

from qkvtheory.claims.training_evidence.neighbors import OTHER, SKIPLESS_VALUES, TRANSLATED
from qkvtheory.claims.training_evidence.queries import IDENTITY_QUERY, NONLINEAR_QUERY, WEIGHT_DECAY
from qkvtheory.claims.training_evidence.recall import ASSOCIATIVE_RECALL, RECALL_DEMO
from qkvtheory.claims.training_evidence.sharing import KEYLESS_LM, SHARING_LM, SYNTHETIC_TASKS
from qkvtheory.claims.training_evidence.vision import DIGITS, SHARING_VISION

LEFT_OUT: dict[str, str] = {}
CLAIMS = (
    IDENTITY_QUERY,
    WEIGHT_DECAY,
    NONLINEAR_QUERY,
    SHARING_LM,
    SYNTHETIC_TASKS,
    SHARING_VISION,
    DIGITS,
    TRANSLATED,
    KEYLESS_LM,
    RECALL_DEMO,
    ASSOCIATIVE_RECALL,
    SKIPLESS_VALUES,
    OTHER,
)
