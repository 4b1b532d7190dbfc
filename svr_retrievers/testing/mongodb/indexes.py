"""What a deployment knows of one search index: the version that answers, the one being built, and its state."""

from __future__ import annotations

import socket
import time
import uuid
from dataclasses import dataclass, field

from bson import Int64

from svr_retrievers.testing.mongodb.documents import Document
from svr_retrievers.testing.mongodb.records import Record
from svr_retrievers.testing.mongodb.replicas import Replica

PENDING, BUILDING, READY = "PENDING", "BUILDING", "READY"
STALE, FAILED, DELETING = "STALE", "FAILED", "DELETING"
_IN_QUERIES = {PENDING: "NOT_STARTED", BUILDING: "INITIAL_SYNC"}


@dataclass(slots=True)
class Index:
    """`main` answers queries; `staged` is the version being built, which takes its place when it is done."""

    record: Record
    status: str = PENDING
    message: str | None = None
    main: Replica | None = None
    staged: Replica | None = None
    _before: Document | None = None
    _changed: float = field(default_factory=time.monotonic)

    def changing(self) -> None:
        """Keeps what is listed now, for those who shall see it for a while yet."""
        self._before, self._changed = self.entry(), time.monotonic()

    def shown(self, lag: float) -> Document | None:
        """The entry, or while a command is younger than `lag` seconds what was listed before it."""
        return self._before if lag and time.monotonic() - self._changed < lag else self.entry()

    @property
    def queryable(self) -> bool:
        return self.main is not None and self.status != DELETING

    @property
    def state_in_queries(self) -> str:
        return _IN_QUERIES.get(self.status, self.status)

    @property
    def described(self) -> str:
        record = self.record
        home = record.home
        collection = f"collection {home.source} ({uuid.UUID(bytes=home.uuid)})" if home.uuid else home.source
        kind = "vector" if record.kind == "vectorSearch" else "search"
        return f"{kind} index {record.ident} ({kind} index {record.name} {collection} in database {home.database})"

    def replicas(self) -> list[Replica]:
        return [each for each in (self.main, self.staged) if each is not None]

    def entry(self) -> Document:
        """As `$listSearchIndexes` shows it."""
        record = self.record
        host: Document = {
            "hostname": socket.gethostname(),
            "status": self.status,
            "queryable": self.queryable,
        }
        host["mainIndex"] = self._version(self.main or self.staged)
        if self.main is not None and self.staged is not None:
            host["stagedIndex"] = self._version(self.staged)
        return {
            "id": str(record.ident),
            "name": record.name,
            "type": record.kind,
            "status": self.status,
            "queryable": self.queryable,
            "latestDefinitionVersion": _version(record),
            "latestDefinition": record.definition,
            "statusDetail": [host],
        }

    def _version(self, replica: Replica | None) -> Document:
        record = replica.record if replica is not None else self.record
        answers = replica is not None and replica is self.main
        shown: Document = {
            "status": READY if answers and self.status == BUILDING else self.status,
            "queryable": answers and self.queryable,
            "definitionVersion": _version(record),
            "definition": record.definition,
        }
        return shown | ({"message": self.message} if self.message else {})


def _version(record: Record) -> Document:
    return {"version": Int64(record.version), "createdAt": record.created}
