"""The PostgreSQL side of a control plane elsewhere: proposes each new map there before its transaction commits.

Whoever changes a map holds the collection's row, and whoever creates or drops a collection its name. So what the
ledger still has proposed when that lock is held comes from a transaction that has ended, and PostgreSQL says how.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from svr_retrievers.backends.protocol import CollectionConfig, CollectionRef
from svr_retrievers.control.ledger import Content, Entry, Head, Ledger, Step, disagreement, nowhere
from svr_retrievers.control.postgres import MIGRATION_LOCK, Catalog, Connection, dropped
from svr_retrievers.errors import CollectionExists, ConfigError, WriteConflict

_CONTENT = "parent, kind, value, label, path, state, leaf, indexed, tail, server, rows_at_refresh"


class ControlledCatalog(Catalog):
    """The control tables as the local copy of what the ledger holds."""

    def __init__(self, schema: str, ledger: Ledger) -> None:
        super().__init__(schema)
        self.ledger = ledger
        self.step: Step = nowhere
        self.proposed: dict[int, int] = {}
        """The newest generation proposed by this client, by collection: committed or not."""

    async def admit(self, conn: Connection) -> None:
        """Joins what the database belongs to, or takes it over with all that is there.

        Raises ConfigError when it belongs to another control plane.
        """
        async with conn.transaction():
            await conn.execute("select pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
            store = await self.control_plane(conn)
            if store is None:
                await self._take_over(conn)
                return
            if not await self.ledger.knows(store):
                raise ConfigError(
                    "Another control plane keeps the collections of this PostgreSQL database.",
                    hint="Pass the control= with which they were made.",
                )
            self.ledger.serve(store)

    async def _take_over(self, conn: Connection) -> None:
        """Until the commit nobody knows of the new id, and what was written under it is nobody's."""
        store = uuid.uuid4().hex
        await conn.execute(self.statement("lock table {collections} in exclusive mode"))
        await conn.execute(self.statement("insert into {control_plane} (id) values (%s)"), (store,))
        self.ledger.serve(store)
        for name in await self.list_collections(conn):
            ref = await self.load_collection(conn, name)
            generation = await self.generation(conn, ref)
            await self.ledger.begin(ref, generation - 1)
            await self.ledger.created(Head(name, ref.id, "creating", generation - 1))
            await self._propose(conn, ref, generation)
            await self.ledger.confirm(ref, generation)
        await self.ledger.enter(store)

    # Collections

    async def lock_name(self, conn: Connection, name: str) -> None:
        """Until the transaction ends nobody else creates or drops a collection of this name."""
        await conn.execute(
            "select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"svr/{self.schema}/{name}",)
        )

    async def insert_collection(self, conn: Connection, config: CollectionConfig) -> CollectionRef:
        await self.lock_name(conn, config.name)
        ref = await self._insert_collection(conn, config)
        self.step("collection written")
        if not await self.ledger.begin(ref):
            await self._make_way(config.name)
            if not await self.ledger.begin(ref):
                raise WriteConflict(
                    f"The collection {config.name!r} is being created by others.", hint="Try again."
                )
        self.step("collection proposed")
        return ref

    async def _make_way(self, name: str) -> None:
        """Removes what a creation that never was has left; PostgreSQL has no collection of that name."""
        head = await self.ledger.find(name)
        if head is None:
            return
        if head.life == "creating":
            await self.ledger.not_created(head)
        elif head.life == "dropping":
            raise CollectionExists(
                f"The collection {name!r} is being dropped.", hint="Try again in a moment."
            )
        else:
            raise disagreement(name, None, head)

    async def delete_collection(self, conn: Connection, name: str) -> int:
        return await self._delete_collection(conn, name)

    async def found(self, conn: Connection, name: str, *, lock: bool = False) -> tuple[int, int] | None:
        """Number and generation of the collection as PostgreSQL has it; with `lock`, until the transaction ends."""
        how = self.statement("for update") if lock else self.statement("")
        cursor = await conn.execute(
            self.statement("select id, generation from {collections} where name = %s {how}", how=how), (name,)
        )
        row = await cursor.fetchone()
        return None if row is None else (int(row[0]), int(row[1]))

    async def settle(self, conn: Connection, name: str) -> Head | None:
        """Brings the ledger's word on a name to what PostgreSQL has committed; what it says then.

        In a transaction, which holds name and row from here on. A drop that was begun is left for who can finish it.
        """
        await self.lock_name(conn, name)
        there = await self.found(conn, name, lock=True)
        head = await self.ledger.find(name)
        if head is None or head.life == "dropping":
            return head
        if there is None or there[0] != head.id:
            if head.life == "active":
                raise disagreement(name, None, head)
            await self.ledger.not_created(head)
        else:
            await self._settle_map(CollectionRef(head.id, await self._config(conn, name)), head, there[1])
        return await self.ledger.find(name)

    async def _config(self, conn: Connection, name: str) -> CollectionConfig:
        return (await self.load_collection(conn, name)).config

    # Maps

    async def next_generation(self, conn: Connection, ref: CollectionRef) -> None:
        """The map of this transaction becomes the next generation, and is taken down before it can be committed."""
        cursor = await conn.execute(
            self.statement(
                "update {collections} set generation = generation + 1 where id = %s returning generation"
            ),
            (ref.id,),
        )
        row = await cursor.fetchone()
        if row is None:
            raise dropped(ref)
        generation = int(row[0])
        head = await self.ledger.find(ref.config.name)
        if head is None or head.id != ref.id or head.life == "dropping":
            raise dropped(ref)
        await self._settle_map(ref, head, generation - 1)
        self.step("map changed")
        await self._propose(conn, ref, generation)
        self.step("map proposed")
        self.proposed[ref.id] = generation

    async def _settle_map(self, ref: CollectionRef, head: Head, committed: int) -> None:
        """With the collection's row held. Raises ConfigError for what no interruption can have left."""
        if head.life == "creating":
            await self.ledger.created(head)
        if head.proposed == committed:
            await self.ledger.confirm(ref, committed)
        elif head.generation != committed:
            raise disagreement(ref.config.name, committed, head)
        elif head.proposed is not None:
            await self.ledger.take_back(ref, head.proposed)

    async def _propose(self, conn: Connection, ref: CollectionRef, generation: int) -> None:
        async def content(numbers: Sequence[int]) -> Mapping[int, Content]:
            return await self._content(conn, numbers)

        cursor = await conn.execute(
            self.statement("select calibration from {collections} where id = %s"), (ref.id,)
        )
        row = await cursor.fetchone()
        calibration = row[0] if row is not None else None
        entries = await self.entries(conn, ref)
        if not await self.ledger.propose(ref, generation, entries, content, calibration):
            head = await self.ledger.find(ref.config.name)
            if head is None or head.life == "dropping":
                raise dropped(ref)
            raise WriteConflict("The control plane has another map than PostgreSQL.", hint="Try again.")

    async def entries(self, conn: Connection, ref: CollectionRef) -> list[Entry]:
        """The map as this transaction sees it."""
        cursor = await conn.execute(
            self.statement(
                "select id, encode(sha256(convert_to(row(parent, kind, value, label, path, state, leaf, indexed, tail,"
                " server, rows_at_refresh, encode(centroids, 'base64'), encode(spread, 'base64'))::text, 'UTF8')),"
                " 'hex') from {partitions} where collection = %s order by id"
            ),
            (ref.id,),
        )
        return [Entry(int(row[0]), str(row[1])) for row in await cursor.fetchall()]

    async def _content(self, conn: Connection, numbers: Sequence[int]) -> dict[int, Content]:
        cursor = conn.cursor(binary=True)
        await cursor.execute(
            self.statement(
                "select parent, kind, value, label, path, state, leaf, indexed, tail, server, rows_at_refresh,"
                " centroids, spread, id from {partitions} where id = any(%s)"
            ),
            (list(numbers),),
        )
        names = [*_CONTENT.split(", "), "centroids", "spread"]
        return {int(row[-1]): dict(zip(names, row[:-1], strict=True)) for row in await cursor.fetchall()}
