"""Skipless stacks."""

from qkvtheory.claims.skipless.choices import MIXED, TABLE, VALUES
from qkvtheory.claims.skipless.elimination import ELIMINATION, FREE_BASES
from qkvtheory.claims.skipless.relatives import LIMIT, PARALLEL

CHAPTER = "skipless"
LEFT_OUT: dict[str, str] = {}
CLAIMS = (ELIMINATION, FREE_BASES, TABLE, MIXED, PARALLEL, VALUES, LIMIT)
