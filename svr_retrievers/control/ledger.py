"""What a control plane outside the vectors' database keeps of it: which collections exist, and every map's content.

The vectors' database decides whether a change happened, since its transaction changes map and rows at once. The
ledger is told before that and after it: `propose` within the transaction, `confirm` behind it. What stays proposed,
because somebody died in between, is settled by the next one who meets it, with the map locked in the database, so
that nobody can be in the middle of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from svr_retrievers.backends.protocol import CollectionRef
from svr_retrievers.errors import ConfigError
from svr_retrievers.values import JsonValue

Life: TypeAlias = Literal["creating", "active", "dropping"]
Content: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Head:
    """What the ledger says of a collection. `proposed`: a generation that may or may not have come to be."""

    name: str
    id: int
    life: Life
    generation: int
    proposed: int | None = None

    @property
    def settled(self) -> bool:
        return self.life == "active" and self.proposed is None


@dataclass(frozen=True, slots=True)
class Entry:
    """A partition as the vectors' database has it: its number, and a digest of all but its row counts."""

    number: int
    digest: str


class Ledger(Protocol):
    """Every method changes one thing or nothing, and may be repeated. All may raise ConnectionFailed and its kin."""

    async def open(self) -> None:
        """Raises ConfigError where it cannot keep its promises."""
        ...

    async def close(self) -> None: ...

    async def knows(self, store: str) -> bool:
        """Whether this is the ledger of the database of that id."""
        ...

    async def enter(self, store: str) -> None:
        """From now on keeps the database of that id."""
        ...

    def serve(self, store: str) -> None:
        """All further calls are about the database of that id."""
        ...

    async def find(self, name: str) -> Head | None: ...

    async def heads(self) -> Sequence[Head]:
        """By name."""
        ...

    async def begin(self, ref: CollectionRef, generation: int = 1) -> bool:
        """Proposes a collection; False where the name is there already."""
        ...

    async def created(self, head: Head) -> None: ...

    async def not_created(self, head: Head) -> None: ...

    async def begin_drop(self, head: Head) -> bool:
        """From now on nobody finds it; False where it has changed since `head`."""
        ...

    async def end_drop(self, head: Head) -> None: ...

    async def propose(
        self,
        ref: CollectionRef,
        generation: int,
        entries: Sequence[Entry],
        content: Callable[[Sequence[int]], Awaitable[Mapping[int, Content]]],
        calibration: JsonValue,
    ) -> bool:
        """Takes down the map of the next generation, asking for what it does not know of it.

        False where the ledger's map is not of the generation before, or something else is proposed.
        """
        ...

    async def confirm(self, ref: CollectionRef, generation: int) -> None:
        """The generation has come to be. Nothing where it is no longer proposed."""
        ...

    async def take_back(self, ref: CollectionRef, generation: int) -> None:
        """The generation has not come to be."""
        ...

    async def entries(self, ref: CollectionRef) -> Sequence[Entry]:
        """The confirmed map."""
        ...


class Step(Protocol):
    """Told where in a change the caller is, so that tests can end it there."""

    def __call__(self, where: str) -> None: ...


def nowhere(where: str) -> None:
    """The step of all but tests."""


def disagreement(name: str, theirs: int | None, ours: Head) -> ConfigError:
    """Of the two stores: what no interruption leaves behind."""
    there = "does not hold it" if theirs is None else f"holds generation {theirs} of its map"
    return ConfigError(
        f"Of the collection {name!r} the control plane knows generation {ours.generation}, but PostgreSQL {there}.",
        hint="One of the two was restored from a backup, or changed by other means. Restore both to the same moment.",
    )
