"""What a backend must do that can use collections of others where they are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from svr_retrievers.backends.indexes import Stored
from svr_retrievers.backends.protocol import Batch, CollectionConfig, CollectionRef, Written
from svr_retrievers.backends.sources import Source
from svr_retrievers.model import Document, PartitionMap


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """How the vectors of a source are stored: their length, number type, and whether as lists of numbers."""

    dimensions: int
    stored: Stored
    lists: bool


@dataclass(frozen=True, slots=True)
class Untaken:
    """Some documents of a source that are not of the collection yet. `keys`: the source's own names for them.

    `faults` says of each position why that one cannot be taken in, after the argument's name and a space.
    """

    keys: Sequence[object]
    documents: Sequence[Document]
    faults: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class TakenIn:
    """What became of a batch: how many documents are of the collection now, and why those at some positions are not.

    Documents that are gone meanwhile, or that somebody else took in, count as neither.
    """

    taken: int
    refused: Mapping[int, str]
    written: Written


@runtime_checkable
class Adopting(Protocol):
    """A backend that can adopt."""

    async def vectors_of(self, source: Source, dimensions: int | None) -> StoredVectors | None:
        """How the vectors are stored, told from one (of these dimensions, if there is one); None without any.

        Raises CollectionNotFound, ConfigError for a collection that cannot be adopted.
        """
        ...

    async def adopt_collection(self, config: CollectionConfig, search_index: str | None) -> CollectionRef:
        """The collection over `config.source`, made if it is not there. `search_index`: one of theirs to extend.

        Raises CollectionExists, ConfigError.
        """
        ...

    async def count_untaken(self, ref: CollectionRef) -> int: ...

    def untaken(self, ref: CollectionRef) -> AsyncGenerator[Untaken, None]: ...

    async def take_in(
        self,
        ref: CollectionRef,
        known: PartitionMap,
        batch: Batch,
        keys: Sequence[object],
        partitions: Sequence[int],
    ) -> TakenIn:
        """Adds what the collection needs to know to documents of the source. Raises StaleMap."""
        ...
