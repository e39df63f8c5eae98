"""The map of where the eliminations stop: every boundary points to what exists, ran, and was rejected."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qkvtheory.claims.register import register
from qkvtheory.claims.where_it_stops.boundaries import BOUNDARIES, NO_REPAIR, Boundary, resolve
from qkvtheory.lanes.check import run_control

NAMES = [boundary.name for boundary in BOUNDARIES]
EXPECTED = (
    "mlp-skip-defect", "rmsnorm-orthogonal-only", "gain-folding", "layernorm-centring", "post-norm-gain",
    "tied-readout-orthogonal", "singular-wq-counterexample", "gqa-kv-stop", "conditioning", "wide-query",
    "learned-skip-removal",
)  # fmt: skip


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=NAMES)
def test_its_counterexample_is_rejected_and_has_a_size(boundary: Boundary):
    claim, control = resolve(boundary, register())
    result = run_control(claim, control, ("exact", "numeric"))
    assert set(result.lanes.values()) == {"rejected"}
    assert result.size is not None and result.size > 0


def test_every_boundary_is_there_once():
    assert len(set(NAMES)) == len(NAMES)
    assert set(EXPECTED) <= {boundary.broken[0] for boundary in BOUNDARIES}


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=NAMES)
def test_no_repair_is_said_plainly(boundary: Boundary):
    assert boundary.by or boundary.repair.startswith(NO_REPAIR.split()[0])
    assert boundary.price and boundary.says.endswith(".")


def without(name: str, what: str) -> dict:
    """The register with one control taken out."""
    claims = register()
    kept = tuple(control for control in claims[name].controls if control.what != what)
    assert len(kept) == len(claims[name].controls) - 1
    return claims | {name: replace(claims[name], controls=kept)}


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=NAMES)
def test_a_removed_control_is_noticed(boundary: Boundary):
    with pytest.raises(ValueError, match="has no control"):
        resolve(boundary, without(*boundary.broken))


def test_a_removed_claim_is_noticed():
    claims = register()
    del claims["basis-skip-repair"]
    with pytest.raises(ValueError, match="claims that do not exist: basis-skip-repair"):
        resolve(BOUNDARIES[0], claims)


@pytest.mark.parametrize(
    "what", ["asking for every layer with both skips", "no skip around the MLP: two different bases keep the function"]
)
def test_a_control_that_measures_nothing_is_refused(what):
    claims = register()
    claim = claims["mlp-skip-defect"]
    bare = tuple(replace(c, sides=None) if c.what == what and c.witness else c for c in claim.controls)
    with pytest.raises(ValueError, match="measures nothing"):
        boundary = replace(BOUNDARIES[0], broken=(claim.id, what))
        resolve(boundary, claims | {claim.id: replace(claim, controls=bare)})
