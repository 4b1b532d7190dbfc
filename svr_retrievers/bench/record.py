"""What a row of the benchmark reports: values against goals, with the raw medians behind them. PURE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from svr_retrievers.model import JsonValue


@dataclass(frozen=True, slots=True)
class Check:
    """One figure. `least` or `most` is its goal; a figure without either is shown for information."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def goal(self) -> str | None:
        parts = [f">= {self.least:g}"] if self.least is not None else []
        parts += [f"<= {self.most:g}"] if self.most is not None else []
        return " and ".join(parts) or None

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        low = self.least is None or self.value >= self.least
        return low and (self.most is None or self.value <= self.most)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one row measured. `absent` names each store that is not here to compare with, `missing` each other
    part that could not be measured, and why.
    """

    checks: Sequence[Check] = ()
    medians: Mapping[str, JsonValue] = field(default_factory=dict)
    notes: Sequence[str] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def gaps(self) -> dict[str, str]:
        return {**self.absent, **self.missing}


@dataclass(frozen=True, slots=True)
class Record:
    """A row of the table: what was to be shown, what was found, on which machine."""

    id: str
    what: str
    finding: Finding
    machine: Mapping[str, JsonValue]
    seconds: float
    information: bool = False
    """Shown beside the table: no goal is set for it, and a run is complete without it."""

    def measured(self, *, without_peers: bool = False) -> bool:
        """Whether all of it was; with `without_peers`, all but the stores that are not here."""
        return not (self.finding.missing if without_peers else self.finding.gaps)

    @property
    def met(self) -> bool | None:
        """None where not every part could be measured and none of the others failed."""
        verdicts = [check.met for check in self.finding.checks if check.met is not None]
        if not all(verdicts):
            return False
        return True if verdicts and self.measured() else None

    def to_json(self) -> dict[str, JsonValue]:
        checks = self.finding.checks
        return {
            "id": self.id,
            "what": self.what,
            "value": {c.name: rounded(c.value) for c in checks},
            "goal": {c.name: c.goal for c in checks if c.goal is not None},
            "met": self.met,
            "checks": {c.name: c.met for c in checks if c.met is not None},
            "not_measured": dict(self.finding.gaps),
            "information": self.information,
            "medians": dict(self.finding.medians),
            "notes": list(self.finding.notes),
            "machine": dict(self.machine),
            "seconds": round(self.seconds, 1),
        }


def rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")
