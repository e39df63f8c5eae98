"""The register: every claim of the book, one module per chapter, in the order of the chapters."""

from __future__ import annotations

from typing import Any

from qkvtheory.claims import (
    absorbing_skips,
    attention_skip,
    degrees_of_freedom,
    every_skip,
    keys_equal_values,
    kv_cache,
    nonlinear_queries,
    queries_equal_keys,
    reparametrization,
    restoring_direction,
    shared_queries,
    skipless,
    three_products,
    training_evidence,
    where_it_stops,
    your_model,
)
from qkvtheory.claims.model import Claim

CHAPTERS: dict[str, Any] = {
    "three-products": three_products,
    "reparametrization": reparametrization,
    "degrees-of-freedom": degrees_of_freedom,
    "skipless": skipless,
    "attention-skip": attention_skip,
    "every-skip": every_skip,
    "shared-queries": shared_queries,
    "where-it-stops": where_it_stops,
    "absorbing-skips": absorbing_skips,
    "queries-equal-keys": queries_equal_keys,
    "restoring-direction": restoring_direction,
    "keys-equal-values": keys_equal_values,
    "kv-cache": kv_cache,
    "nonlinear-queries": nonlinear_queries,
    "training-evidence": training_evidence,
    "your-model": your_model,
}


def register() -> dict[str, Claim]:
    """All claims by id. Raises ValueError if two share an id, or one uses a claim that does not exist."""
    claims: dict[str, Claim] = {}
    for chapter, module in CHAPTERS.items():
        for claim in module.CLAIMS:
            if claim.id in claims:
                raise ValueError(f"two claims are called {claim.id}")
            if claim.chapter != chapter:
                raise ValueError(f"{claim.id} says chapter {claim.chapter} but stands in {chapter}")
            claims[claim.id] = claim
    for claim in claims.values():
        validate(claim, claims)
    return claims


def validate(claim: Claim, claims: dict[str, Claim]) -> None:
    missing = [use for use in claim.uses if use not in claims]
    if missing:
        raise ValueError(f"{claim.id} uses unknown claims {missing}")
    named = {h.id for h in claim.hypotheses}
    bare = named - {c.hypothesis for c in claim.controls}
    if bare:
        raise ValueError(f"{claim.id}: no control drops {sorted(bare)}")
    stray = {c.hypothesis for c in claim.controls} - named - {"construction"}
    if stray:
        raise ValueError(f"{claim.id}: controls for hypotheses it does not have: {sorted(stray)}")


def left_out() -> dict[str, str]:
    """Statements of these chapters that are not in the register, each with the reason."""
    return {id: reason for module in CHAPTERS.values() for id, reason in module.LEFT_OUT.items()}
