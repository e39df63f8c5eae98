"""Does it apply to your model?"""

from qkvtheory.claims.model import Claim

LEFT_OUT: dict[str, str] = {}
CLAIMS: tuple[Claim, ...] = ()
