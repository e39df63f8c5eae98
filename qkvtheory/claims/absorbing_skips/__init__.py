"""Can an MLP absorb its skip?"""

from qkvtheory.claims.model import Claim

LEFT_OUT: dict[str, str] = {}
CLAIMS: tuple[Claim, ...] = ()
