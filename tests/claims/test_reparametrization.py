"""Chapter 2: every claim is green in every lane that runs anywhere, and every wrong variant is rejected."""

from __future__ import annotations

from tests.claims.chapter import test_claim, test_controls, test_mutants  # noqa: F401

CHAPTER = "reparametrization"
