"""The control plane in PostgreSQL: migrations, collections, partition maps with generations.

Functions on a connection, so that a backend can use them inside its own transactions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import LiteralString

from psycopg import AsyncConnection, sql
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from svr_retrievers.backends.protocol import CollectionConfig, CollectionRef, MapState, NewPartition, StaleMap
from svr_retrievers.control import records
from svr_retrievers.errors import CollectionExists, CollectionNotFound, ConfigError, SchemaTooNew
from svr_retrievers.filters import statistics
from svr_retrievers.filters.statistics import FilterStatistics
from svr_retrievers.model import (
    Partition,
    PartitionMap,
    PartitionStats,
    Vector,
)
from svr_retrievers.routing.probe import Calibration

Connection = AsyncConnection[TupleRow]
_BYTES_AT_ONCE, _PARTITIONS_AT_ONCE = 2**23, 500
"""Centroids of more bytes than this come after the rest of the map, so many partitions at a time."""
MIGRATION_LOCK = 0x5356525F4D4947  # "SVR_MIG": one migration at a time in a database


_TABLES = ("collections", "partitions", "versions", "control_plane")


class Catalog:
    """The control tables in one schema of one database."""

    def __init__(self, schema: str) -> None:
        self.schema = schema

    def statement(self, text: LiteralString, **parts: sql.Composable) -> sql.Composed:
        """The statement with `{collections}`, `{partitions}` and so on, and `parts` filled in as identifiers."""
        tables = {name: self.table(name) for name in _TABLES}
        return sql.SQL(text).format(**(tables | parts))

    def table(self, name: str) -> sql.Identifier:
        return sql.Identifier(self.schema, name)

    # Migrations

    async def migrate(self, conn: Connection) -> None:
        """Brings the schema up to date; does nothing, and needs no rights, where it is.

        Raises:
            SchemaTooNew: the database was migrated by a newer release.
        """
        steps = _migrations()
        if await self._version(conn) == len(steps):
            return
        async with conn.transaction():
            await conn.execute("select pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
            there = await conn.execute("select 1 from pg_namespace where nspname = %s", (self.schema,))
            if (
                await there.fetchone() is None
            ):  # "if not exists" may go by what was so before the wait for the lock
                await conn.execute(sql.SQL("create schema {}").format(sql.Identifier(self.schema)))
            await conn.execute(
                self.statement(
                    "create table if not exists {versions} (version integer primary key, name text not null)"
                )
            )
            done = await self._version(conn)
            if done > len(steps):
                raise SchemaTooNew(
                    f"The schema {self.schema!r} is at version {done}; this release knows {len(steps)}.",
                    hint="Upgrade svr-retrievers, or use another db_schema.",
                )
            before = await (await conn.execute("select current_setting('search_path')")).fetchone()
            await conn.execute("select set_config('search_path', %s, true)", (_quoted(self.schema),))
            for number, (name, body) in enumerate(steps[done:], start=done + 1):
                await conn.execute(sql.SQL(body))
                await conn.execute(
                    self.statement("insert into {versions} (version, name) values (%s, %s)"), (number, name)
                )
            await conn.execute("select set_config('search_path', %s, true)", before)

    async def _version(self, conn: Connection) -> int:
        found = await conn.execute(
            "select to_regclass(%s) is not null", (f"{_quoted(self.schema)}.versions",)
        )
        there = await found.fetchone()
        if there is None or not there[0]:
            return 0
        row = await (
            await conn.execute(self.statement("select coalesce(max(version), 0) from {versions}"))
        ).fetchone()
        return int(row[0]) if row else 0

    # Where the control plane is

    async def control_plane(self, conn: Connection) -> str | None:
        """The id under which a control plane elsewhere keeps this database; None where it is here."""
        cursor = await conn.execute(self.statement("select id from {control_plane}"))
        row = await cursor.fetchone()
        return None if row is None else str(row[0])

    async def admit(self, conn: Connection) -> None:
        """Raises ConfigError where the maps are kept elsewhere, and may not be changed without its knowledge."""
        if await self.control_plane(conn) is not None:
            raise _kept_elsewhere()

    # Collections

    async def insert_collection(self, conn: Connection, config: CollectionConfig) -> CollectionRef:
        ref = await self._insert_collection(conn, config)
        await self.admit(conn)
        return ref

    async def _insert_collection(self, conn: Connection, config: CollectionConfig) -> CollectionRef:
        cursor = await conn.execute(
            self.statement(
                "insert into {collections} (name, config) values (%s, %s) on conflict (name) do nothing returning id"
            ),
            (config.name, Jsonb(records.config_json(config))),
        )
        row = await cursor.fetchone()
        if row is None:
            raise CollectionExists(
                f"The collection {config.name!r} exists already.", hint="Open it with if_exists='open'."
            )
        return CollectionRef(int(row[0]), config)

    async def load_collection(self, conn: Connection, name: str) -> CollectionRef:
        cursor = await conn.execute(
            self.statement("select id, config from {collections} where name = %s"), (name,)
        )
        row = await cursor.fetchone()
        if row is None:
            raise CollectionNotFound(
                f"There is no collection {name!r}.", hint="Create it with create_collection()."
            )
        return CollectionRef(int(row[0]), records.config_of(name, row[1]))

    async def list_collections(self, conn: Connection) -> list[str]:
        cursor = await conn.execute(self.statement("select name from {collections} order by name"))
        return [str(row[0]) for row in await cursor.fetchall()]

    async def delete_collection(self, conn: Connection, name: str) -> int:
        found = await self._delete_collection(conn, name)
        await self.admit(conn)
        return found

    async def _delete_collection(self, conn: Connection, name: str) -> int:
        cursor = await conn.execute(
            self.statement("delete from {collections} where name = %s returning id"), (name,)
        )
        row = await cursor.fetchone()
        if row is None:
            raise CollectionNotFound(f"There is no collection {name!r}.")
        return int(row[0])

    # Partition maps

    async def load_map(self, conn: Connection, ref: CollectionRef) -> MapState:
        """One consistent map: generation and partitions come from a single statement.

        Centroids may be most of what a client holds, so they are decoded into one array, and many of them a
        few at a time; a map that changed meanwhile is read anew.
        """
        cursor = conn.cursor(binary=True)
        await cursor.execute(
            self.statement(
                "select c.generation, c.calibration, p.id, p.parent, p.kind, p.value, p.label, p.path, p.state,"
                " p.indexed, p.row_count, p.rows_at_refresh,"
                " case when sum(length(p.centroids)) over () <= %s then p.centroids end, p.spread, p.leaf,"
                " p.tail, p.tail_rows, p.server, sum(length(p.centroids)) over (),"
                " case when row_number() over (order by p.id) = 1 then c.field_statistics end"
                " from {collections} c left join {partitions} p on p.collection = c.id where c.id = %s order by p.id"
            ),
            (_BYTES_AT_ONCE, ref.id),
        )
        first = await cursor.fetchone()
        if first is None:
            raise dropped(ref)
        generation, size = int(first[0]), int(first[-2] or 0)
        centroids = records.Centroids(size, ref.config.dimensions)
        apart: dict[int, Vector | None] | None = None
        if size > _BYTES_AT_ONCE:
            apart = await self._centroids(conn, ref, centroids)
            if await self.generation(conn, ref) != generation:
                return await self.load_map(conn, ref)
        partitions: list[Partition] = []
        rows: Sequence[TupleRow] = [first]
        while rows:
            partitions += [
                records.partition(row[2:-2], centroids.take(row[12]) if apart is None else apart.pop(row[2]))
                for row in rows
                if row[2] is not None
            ]
            rows = await cursor.fetchmany(_PARTITIONS_AT_ONCE)
        return MapState(
            PartitionMap(generation, partitions),
            records.calibration_of(first[1]),
            records.field_statistics_of(first[-1], ref.config.fields),
        )

    async def _centroids(
        self, conn: Connection, ref: CollectionRef, into: records.Centroids
    ) -> dict[int, Vector | None]:
        """All partitions' centroids by id, some hundred partitions at a time."""
        found: dict[int, Vector | None] = {}
        last = -1
        while True:
            cursor = conn.cursor(binary=True)
            await cursor.execute(
                self.statement(
                    "select id, centroids from {partitions} where collection = %s and id > %s"
                    " order by id limit %s"
                ),
                (ref.id, last, _PARTITIONS_AT_ONCE),
            )
            rows = await cursor.fetchall()
            if not rows:
                return found
            found.update((row[0], into.take(row[1])) for row in rows)
            last = rows[-1][0]

    async def generation(self, conn: Connection, ref: CollectionRef) -> int:
        cursor = await conn.execute(
            self.statement("select generation from {collections} where id = %s"), (ref.id,)
        )
        row = await cursor.fetchone()
        if row is None:
            raise dropped(ref)
        return int(row[0])

    async def fence(
        self, conn: Connection, ref: CollectionRef, known: PartitionMap, *, change: bool = False
    ) -> None:
        """Holds the map still until the transaction ends; with `change`, for this transaction alone.

        Raises StaleMap when it is not the generation the caller planned with.
        """
        how = self.statement("for update") if change else self.statement("for share")
        cursor = await conn.execute(
            self.statement("select generation from {collections} where id = %s {how}", how=how), (ref.id,)
        )
        row = await cursor.fetchone()
        if row is None:
            raise dropped(ref)
        if int(row[0]) != known.generation:
            raise StaleMap

    async def next_generation(self, conn: Connection, ref: CollectionRef) -> None:
        """Raises ConfigError where the maps are kept elsewhere since this client was opened."""
        cursor = await conn.execute(
            self.statement(
                "update {collections} set generation = generation + 1"
                " where id = %s and not exists (select 1 from {control_plane})"
            ),
            (ref.id,),
        )
        if not cursor.rowcount:
            await self.admit(conn)

    async def lock_map(self, conn: Connection, ref: CollectionRef) -> MapState:
        """The newest map, locked against every other change until the transaction ends."""
        await conn.execute(self.statement("select 1 from {collections} where id = %s for update"), (ref.id,))
        return await self.load_map(conn, ref)

    async def insert_partition(self, conn: Connection, ref: CollectionRef, new: NewPartition) -> int:
        stats = new.stats
        cursor = await conn.execute(
            self.statement(
                "insert into {partitions}"
                " (collection, parent, kind, value, label, path, leaf, server, centroids, spread)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) returning id"
            ),
            (
                ref.id, new.parent, new.key.kind, new.key.value, new.key.label, new.path, new.leaf, new.server,
                records.packed(stats.centroids), records.packed(stats.spread),
            ),
        )  # fmt: skip
        row = await cursor.fetchone()
        assert row is not None
        return int(row[0])

    async def add_rows(
        self, conn: Connection, changes: Mapping[int, int], tails: Mapping[int, int]
    ) -> tuple[dict[int, int], dict[int, int]]:
        """Adds to the counts of rows, and of those in tails, locking them in one order; both afterwards."""
        ids = sorted({*changes, *tails})
        cursor = await conn.execute(
            self.statement(
                "with locked as (select id from {partitions} where id = any(%s) order by id for update)"
                " update {partitions} p set row_count = p.row_count + v.change,"
                " tail_rows = greatest(0, p.tail_rows + v.tail)"
                " from locked join unnest(%s::int[], %s::bigint[], %s::bigint[]) v(id, change, tail) using (id)"
                " where p.id = locked.id returning p.id, p.row_count, p.tail_rows"
            ),
            (ids, ids, [changes.get(i, 0) for i in ids], [tails.get(i, 0) for i in ids]),
        )
        found = await cursor.fetchall()
        return {int(row[0]): int(row[1]) for row in found}, {int(row[0]): int(row[2]) for row in found}

    async def set_rows(self, conn: Connection, counts: Mapping[int, int]) -> None:
        await conn.execute(
            self.statement(
                "update {partitions} p set row_count = v.rows"
                " from unnest(%s::int[], %s::bigint[]) v(id, rows) where p.id = v.id"
            ),
            (list(counts), list(counts.values())),
        )

    async def save_statistics(
        self,
        conn: Connection,
        ref: CollectionRef,
        stats: Mapping[int, PartitionStats],
        calibration: Calibration | None,
    ) -> None:
        async with conn.transaction():
            await conn.execute(
                self.statement("select 1 from {collections} where id = %s for update"), (ref.id,)
            )
            cursor = conn.cursor()
            await cursor.executemany(
                self.statement(
                    "update {partitions} set centroids = %s, spread = %s, rows_at_refresh = %s"
                    " where id = %s and collection = %s"
                ),
                [
                    (records.packed(s.centroids), records.packed(s.spread), s.rows_at_refresh, i, ref.id)
                    for i, s in stats.items()
                ],
            )
            if calibration is not None:
                await conn.execute(
                    self.statement("update {collections} set calibration = %s where id = %s"),
                    (Jsonb(records.calibration_json(calibration)), ref.id),
                )
            await self.next_generation(conn, ref)

    async def save_field_statistics(
        self, conn: Connection, ref: CollectionRef, found: FilterStatistics
    ) -> None:
        """Seen with the next map that is loaded; no generation of its own, since no answer depends on it."""
        await conn.execute(
            self.statement("update {collections} set field_statistics = %s where id = %s"),
            (Jsonb(statistics.all_to_json(found)), ref.id),
        )

    async def mark_indexed(self, conn: Connection, partitions: Sequence[int]) -> None:
        await conn.execute(
            self.statement("update {partitions} set indexed = true where id = any(%s)"), (list(partitions),)
        )

    async def mark_unindexed(self, conn: Connection, partitions: Sequence[int]) -> None:
        await conn.execute(
            self.statement("update {partitions} set indexed = false where id = any(%s)"), (list(partitions),)
        )

    async def open_tails(self, conn: Connection, partitions: Sequence[int]) -> list[int]:
        """Lets rows into the tails of those that are indexed still; the caller holds the map. Which were closed."""
        cursor = await conn.execute(
            self.statement(
                "update {partitions} set tail = true where id = any(%s) and indexed and not tail returning id"
            ),
            (list(partitions),),
        )
        return [int(row[0]) for row in await cursor.fetchall()]

    async def close_tails(self, conn: Connection, partitions: Sequence[int]) -> None:
        """Tells readers not to look into these tails; the caller holds the map and has seen that they are empty."""
        await conn.execute(
            self.statement("update {partitions} set tail = false, tail_rows = 0 where id = any(%s)"),
            (list(partitions),),
        )

    async def set_tail_rows(self, conn: Connection, counts: Mapping[int, int]) -> None:
        await conn.execute(
            self.statement(
                "update {partitions} p set tail_rows = v.rows"
                " from unnest(%s::int[], %s::bigint[]) v(id, rows) where p.id = v.id"
            ),
            (list(counts), list(counts.values())),
        )


def dropped(ref: CollectionRef) -> CollectionNotFound:
    return CollectionNotFound(f"The collection {ref.config.name!r} was dropped.", hint="Create it again.")


def _kept_elsewhere() -> ConfigError:
    return ConfigError(
        "The control plane of this PostgreSQL database is elsewhere.",
        hint="Pass its URL: SVRClient('postgresql://...', control='mongodb+srv://...'), or set SVR_CONTROL.",
    )


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _migrations() -> list[tuple[str, str]]:
    folder = resources.files("svr_retrievers.control") / "sql"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return [(f.name, f.read_text(encoding="utf-8")) for f in files]
