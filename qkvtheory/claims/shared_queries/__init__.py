"""Shared query matrix."""

from __future__ import annotations

from qkvtheory.claims.model import Claim
from qkvtheory.claims.shared_queries.heads import HEAD_SPACES
from qkvtheory.claims.shared_queries.loops import LOOPED_BLOCK
from qkvtheory.claims.shared_queries.sharing import CHAPTER, ONLY_WQ, SHARED_WQ

__all__ = ["CHAPTER", "CLAIMS", "LEFT_OUT"]

LEFT_OUT: dict[str, str] = {}
CLAIMS: tuple[Claim, ...] = (SHARED_WQ, ONLY_WQ, HEAD_SPACES, LOOPED_BLOCK)
