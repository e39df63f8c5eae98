"""Skip around attention only."""

from qkvtheory.claims.attention_skip.elimination import ELIMINATION, MLP_SKIP, TIED
from qkvtheory.claims.attention_skip.segments import SEGMENTS

CHAPTER = "attention-skip"
LEFT_OUT: dict[str, str] = {}
CLAIMS = (ELIMINATION, TIED, MLP_SKIP, SEGMENTS)
