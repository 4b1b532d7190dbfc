"""PostgreSQL whose control plane is elsewhere: each map and each name is told there before it counts and after."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from svr_retrievers.backends.postgres import connection as conns
from svr_retrievers.backends.postgres.connection import borrowed
from svr_retrievers.backends.postgres.spread.backend import SpreadBackend
from svr_retrievers.backends.protocol import (
    Batch,
    CollectionConfig,
    CollectionRef,
    MapState,
    NewPartition,
    Written,
)
from svr_retrievers.control.ledger import Head, Ledger
from svr_retrievers.control.postgres_ledger import ControlledCatalog
from svr_retrievers.errors import CollectionExists, CollectionNotFound, SVRError, WriteConflict
from svr_retrievers.model import PartitionMap, PartitionStats, Vector
from svr_retrievers.routing.probe import Calibration
from svr_retrievers.settings import Settings

_log = logging.getLogger(__name__)
_ATTEMPTS = 5


class ControlledBackend(SpreadBackend):
    """Searches and writes to existing partitions never wait for the control plane; new maps do, and names."""

    def __init__(self, url: str | None, path: Path | None, settings: Settings, ledger: Ledger) -> None:
        super().__init__(url, path, settings)
        self.ledger = ledger
        self.controlled = self._catalog = ControlledCatalog(settings.db_schema, ledger)

    async def open(self) -> None:
        try:
            await self.ledger.open()
            await super().open()
        except BaseException:
            await self.ledger.close()
            raise

    async def close(self) -> None:
        await super().close()
        await self.ledger.close()

    # Collections

    async def create_collection(self, config: CollectionConfig) -> CollectionRef:
        if await self._settled(config.name) is not None:
            raise CollectionExists(
                f"The collection {config.name!r} exists already.", hint="Open it with if_exists='open'."
            )
        ref = await super().create_collection(config)
        self.controlled.step("collection committed")
        try:
            await self.ledger.created(Head(config.name, ref.id, "creating", 1))
        except SVRError as error:
            _log.info("collection %r is confirmed by who uses it next: %s", config.name, error)
        return ref

    async def load_collection(self, name: str) -> CollectionRef:
        head = await self._settled(name)
        if head is not None:
            async with borrowed(self._pool) as conn:
                there = await self.controlled.found(conn, name)
            if there != (head.id, head.generation):  # another client is faster, or the two stores disagree
                head = await self._settle(name)
        if head is None:
            raise CollectionNotFound(
                f"There is no collection {name!r}.", hint="Create it with create_collection()."
            )
        return await super().load_collection(name)

    async def list_collections(self) -> list[str]:
        """As the control plane has them; what was interrupted is brought to an end on the way."""
        found = [
            head if head.life == "active" else await self._settled(head.name)
            for head in await self.ledger.heads()
        ]
        return [head.name for head in found if head is not None]

    async def drop_collection(self, name: str) -> None:
        """Nobody finds it any more before anything of it goes; an interrupted drop is finished by others."""
        for _ in range(_ATTEMPTS):
            head = await self._settled(name)
            if head is None:
                raise CollectionNotFound(f"There is no collection {name!r}.")
            if await self.ledger.begin_drop(head):
                self.controlled.step("drop announced")
                await self._finish_drop(head)
                return
        raise WriteConflict(f"The collection {name!r} keeps changing.", hint="Try again in a moment.")

    async def _finish_drop(self, head: Head) -> None:
        """Under the name's lock, on a connection beside the pool, which the drop itself needs."""
        async with await conns.connect(self._address, self._settings) as guard:
            with conns.translated():
                async with guard.transaction():
                    await self.controlled.lock_name(guard, head.name)
                    now = await self.ledger.find(head.name)
                    if now is None or (now.id, now.life) != (head.id, "dropping"):
                        return
                    there = await self.controlled.found(guard, head.name)
                    if there is not None and there[0] == head.id:
                        await super().drop_collection(head.name)
                    self.controlled.step("dropped")
                    await self.ledger.end_drop(now)

    async def _settled(self, name: str) -> Head | None:
        """What the control plane says of the name, once nothing about it is open."""
        head = await self.ledger.find(name)
        return head if head is None or head.settled else await self._settle(name)

    async def _settle(self, name: str) -> Head | None:
        for _ in range(_ATTEMPTS):
            async with borrowed(self._pool) as conn, conn.transaction():
                head = await self.controlled.settle(conn, name)
            if head is None or head.life == "active":
                return head
            await self._finish_drop(head)
        raise WriteConflict(
            f"The collection {name!r} is being created and dropped all the time.", hint="Try again."
        )

    async def agrees(self, name: str) -> bool:
        """Whether both stores hold the same map of the collection, partition by partition."""
        ref = await self.load_collection(name)
        async with borrowed(self._pool) as conn, conn.transaction():
            head = await self.controlled.settle(conn, name)
            mine = await self.controlled.entries(conn, ref)
            return head is not None and list(await self.ledger.entries(ref)) == mine

    # Maps

    @asynccontextmanager
    async def _confirming(self, ref: CollectionRef) -> AsyncIterator[None]:
        try:
            yield
        finally:
            if ref.id in self.controlled.proposed:
                await self._confirm(ref)

    async def _confirm(self, ref: CollectionRef) -> None:
        """If it was committed. The change stands without this too: the next one confirms it, or who opens it."""
        generation = self.controlled.proposed.pop(ref.id, None)
        if generation is None:
            return
        self.controlled.step("map committed")
        try:
            async with borrowed(self._pool) as conn:
                committed = await self.controlled.generation(conn, ref)
            if committed >= generation:
                await self.ledger.confirm(ref, generation)
        except SVRError as error:
            _log.info("map %d of %r is confirmed by its next user: %s", generation, ref.config.name, error)
        self.controlled.step("map confirmed")

    async def add_partitions(self, ref: CollectionRef, wanted: Sequence[NewPartition]) -> MapState:
        async with self._confirming(ref):
            return await super().add_partitions(ref, wanted)

    async def save_statistics(
        self, ref: CollectionRef, stats: Mapping[int, PartitionStats], calibration: Calibration | None
    ) -> None:
        async with self._confirming(ref):
            await super().save_statistics(ref, stats, calibration)

    async def upsert(
        self, ref: CollectionRef, known: PartitionMap, batch: Batch, partitions: Sequence[int]
    ) -> Written:
        async with self._confirming(ref):
            return await super().upsert(ref, known, batch, partitions)

    async def recluster(
        self, ref: CollectionRef, known: PartitionMap, source: int, targets: Sequence[int], centroids: Vector
    ) -> None:
        async with self._confirming(ref):
            await super().recluster(ref, known, source, targets, centroids)

    async def build_indexes(
        self,
        ref: CollectionRef,
        known: PartitionMap,
        progress: Callable[[int, int], None] | None = None,
        *,
        build_from: int | None = None,
        fold_from: int = 0,
    ) -> int:
        async with self._confirming(ref):
            return await super().build_indexes(
                ref, known, progress, build_from=build_from, fold_from=fold_from
            )
