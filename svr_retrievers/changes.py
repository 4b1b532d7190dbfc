"""What a change stream tells: rows that came, changed, moved and went, new maps, lost history, the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

ChangeKind: TypeAlias = Literal["rows", "map", "dropped", "history_lost"]


@dataclass(frozen=True, slots=True)
class RowCounts:
    """What happened to the rows of one partition. A replaced row that stays where it is counts as updated only, one
    that changes its partition as moved only: out of one, into the other.
    """

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    moved_in: int = 0
    moved_out: int = 0

    @property
    def growth(self) -> int:
        return self.inserted + self.moved_in - self.deleted - self.moved_out

    def __add__(self, other: RowCounts) -> RowCounts:
        return RowCounts(
            self.inserted + other.inserted,
            self.updated + other.updated,
            self.deleted + other.deleted,
            self.moved_in + other.moved_in,
            self.moved_out + other.moved_out,
        )


@dataclass(frozen=True, slots=True)
class PartitionChange:
    """What happened to the rows of the partition of this id and path."""

    id: int
    path: str
    counts: RowCounts


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a collection, as `watch()` tells it; `token` resumes behind it.

    `rows`: whole writes, one or several, in `partitions`; empty when nothing happened for a while and only the token
    is new. `map`: a new map, `generation`, which the collection holds already. `dropped`: there is no more to come.
    `history_lost`: changes are missing, since the server has forgotten them; map, row counts and statistics were
    verified against the database, and the stream goes on from before that.
    """

    kind: ChangeKind
    token: str
    partitions: tuple[PartitionChange, ...] = ()
    generation: int | None = None

    @property
    def counts(self) -> RowCounts:
        """Over all partitions."""
        return sum((each.counts for each in self.partitions), RowCounts())
