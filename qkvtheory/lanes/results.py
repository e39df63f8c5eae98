"""What a lane reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

PASS, FAIL, NOT_RUN = "pass", "fail", "not-run"
REJECTED, ACCEPTED = "rejected", "accepted"


@dataclass
class LaneResult:
    """One claim in one lane. ``worst``: largest relative difference seen; ``tolerance``: what was allowed;
    ``reason``: why not.
    """

    status: str = PASS
    comparisons: int = 0
    worst: float = 0.0
    tolerance: float = 0.0
    seconds: float = 0.0
    opaque: list[str] = field(default_factory=list)
    reason: str = ""
    mutants: dict[str, int] = field(default_factory=dict)

    def fail(self, reason: str) -> None:
        """Red, and why; the first reason is kept."""
        self.reason = self.reason or reason
        self.status = FAIL

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class ControlResult:
    """One control in the lanes it names. ``size``: relative difference in the numeric lane (exact lane if that did
    not run).
    """

    hypothesis: str
    what: str
    lanes: dict[str, str] = field(default_factory=dict)
    size: float | None = None
    reason: str = ""

    @property
    def status(self) -> str:
        if ACCEPTED in self.lanes.values():
            return ACCEPTED
        return REJECTED if REJECTED in self.lanes.values() else NOT_RUN

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "status": self.status, "lane": ", ".join(self.lanes)}
