"""What a backend that can tell of changes must do: whole writes in their order, and row counts that follow them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from svr_retrievers.backends.protocol import CollectionRef
from svr_retrievers.changes import ChangeKind, RowCounts


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One step. `counts` by partition id; `token` resumes behind it."""

    kind: ChangeKind
    token: str
    counts: Mapping[int, RowCounts] = field(default_factory=dict)
    generation: int | None = None


class ChangeStream(Protocol):
    """An open or unopened stream over one collection, for one reader."""

    async def open(self) -> None:
        """From here on nothing is missed. Raises InputError for a token that is none of this collection."""
        ...

    async def next(self) -> StreamEvent | None:
        """Waits for the next event; None once the stream is closed. After `dropped` nothing follows."""
        ...

    @property
    def rows(self) -> Mapping[int, int]:
        """The rows of each partition that has or had any: never behind what `next` has told."""
        ...

    async def recount(self) -> None:
        """Reads `rows` anew, after the backend's own recount."""
        ...

    async def close(self) -> None:
        """Ends the stream, and a `next` that is waiting."""
        ...


@runtime_checkable
class ChangeStreamCapable(Protocol):
    """A backend that tells of changes as they are committed."""

    def changes(self, ref: CollectionRef, after: str | None) -> ChangeStream:
        """A stream behind the token, or from its opening on."""
        ...
