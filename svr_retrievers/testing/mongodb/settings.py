"""What a stand-in can be told: how long things take, what the deployment is, and what shall go wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace

from svr_retrievers.testing.mongodb.documents import Document
from svr_retrievers.testing.mongodb.refusals import Refused

TIERS = {"M0": 3, "FLEX": 10}
"""How many indexes the small tiers of Atlas hold."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Durations are seconds. `listing_lag` is how long `$listSearchIndexes` goes on showing what was before a command.

    `recall` below 1 makes approximate answers miss hits, always the same ones, where `numCandidates` is below
    `recall_share` of the rows: at 0 candidates the share `recall` of the hits would be found, at `recall_share`
    all of them.
    """

    server_version: str = "8.1.0"
    pending: float = 0.0
    build: float = 0.0
    refresh: float = 0.0
    listing_lag: float = 0.0
    deleting: float = 0.0
    paused: bool = False
    max_indexes: int | None = None
    recall: float = 1.0
    recall_share: float = 0.1
    search_delay: float = 0.0
    embed_limited: bool = False
    fail_next_build: str | None = None

    @property
    def version(self) -> tuple[int, int]:
        major, minor = self.server_version.split(".")[:2]
        return int(major), int(minor)

    def changed(self, given: Document) -> Settings:
        """With new values under their wire names. Refuses unknown names and values of another type."""
        changes: dict[str, object] = {}
        for name, value in given.items():
            if name == "tier":
                changes["max_indexes"] = _tier(value)
                continue
            field = _FIELDS.get(name)
            if field is None:
                raise Refused(
                    f"standIn knows no setting {name!r}; it knows {', '.join(sorted(_FIELDS))}, tier", 9
                )
            changes[field] = _checked(name, field, value)
        return replace(self, **changes)  # type: ignore[arg-type]

    def document(self) -> Document:
        return {_wire_name(f.name): getattr(self, f.name) for f in fields(self)}


def _wire_name(field: str) -> str:
    head, *rest = field.split("_")
    return head + "".join(part.capitalize() for part in rest)


_FIELDS = {_wire_name(f.name): f.name for f in fields(Settings)}


def _tier(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, str) or value.upper() not in TIERS:
        raise Refused(f"tier must be one of {', '.join(TIERS)} or null, not {value!r}", 9)
    return TIERS[value.upper()]


def _checked(name: str, field: str, value: object) -> object:
    default = getattr(Settings(), field)
    if field in {"max_indexes", "fail_next_build"}:
        kind = int if field == "max_indexes" else str
        fits = value is None or (isinstance(value, kind) and not isinstance(value, bool))
    elif field == "server_version":
        fits = isinstance(value, str) and re.fullmatch(r"\d+\.\d+(\.\d+)?", value) is not None
    elif isinstance(default, bool):
        fits = isinstance(value, bool)
    else:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        value = float(value) if fits and isinstance(value, int | float) else value
    if not fits:
        raise Refused(f"{name} cannot be {value!r}", 9)
    return value
