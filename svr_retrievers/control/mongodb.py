"""The control plane in MongoDB: collections and partition maps with generations, in `svr_metadata.*`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar, cast

import anyio
from bson import Int64
from pymongo import ReturnDocument, UpdateOne
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from svr_retrievers.backends.protocol import CollectionConfig, CollectionRef, MapState, NewPartition, StaleMap
from svr_retrievers.control import records
from svr_retrievers.control.mongodb_fence import Doc, Fence, Session, dropped, patiently
from svr_retrievers.errors import CollectionExists, CollectionNotFound, SchemaTooNew
from svr_retrievers.filters import statistics
from svr_retrievers.filters.statistics import FilterStatistics
from svr_retrievers.model import JsonValue, Partition, PartitionMap, PartitionStats
from svr_retrievers.routing.probe import Calibration

T = TypeVar("T")
COLLECTIONS = "svr_metadata.collections"
_PARTITIONS = "svr_metadata.partitions"
_COUNTERS = "svr_metadata.counters"
_FENCES = "svr_metadata.fences"
_SCHEMA = 1
REPEATED_SECONDS = 30.0
"""So long a write begins again after what an election or another write did to it, before it fails."""
_TRIES_AT_ONCE = 3
_SNAPSHOT = ReadConcern("snapshot")
_MAJORITY = WriteConcern("majority")


class _Enough(Exception):
    """The transaction met the same trouble for too long; `error` is the last of it."""

    def __init__(self, error: PyMongoError) -> None:
        super().__init__()
        self.error = error


class _Repeated(Generic[T]):
    """A transaction's body, which the driver would run again for two minutes: not after `REPEATED_SECONDS`.

    After a few conflicts it takes its turn among those of this client that also keep conflicting: they would
    undo each other's work, while one at a time each of them ends.
    """

    def __init__(self, body: Callable[[Session], Awaitable[T]], turn: anyio.Lock) -> None:
        self._body = body
        self._turn = turn
        self._tries = 0
        self._held = False
        self._until = time.monotonic() + REPEATED_SECONDS
        self._last: PyMongoError | None = None

    async def __call__(self, session: Session) -> T:
        if self._last is not None and time.monotonic() > self._until:
            raise _Enough(self._last)
        self._tries += 1
        if self._tries > _TRIES_AT_ONCE and not self._held:
            await self._turn.acquire()
            self._held, self._until = True, time.monotonic() + REPEATED_SECONDS
        try:
            return await self._body(session)
        except PyMongoError as error:
            self._last = error
            raise

    def end(self) -> None:
        if self._held:
            self._turn.release()


class Catalog:
    """The control collections of one database. `prefix` keeps several installations in it apart."""

    def __init__(self, database: AsyncDatabase[Doc], prefix: str) -> None:
        self._database = database
        self._prefix = prefix
        self.majority = majority = database.with_options(write_concern=_MAJORITY)
        self.collections = majority[self.name(COLLECTIONS)]
        self.partitions = majority[self.name(_PARTITIONS)]
        self.fence = Fence(majority[self.name(_FENCES)])
        self._counters = majority[self.name(_COUNTERS)]
        self._turn = anyio.Lock()

    def name(self, base: str) -> str:
        """The control collection's name: the base itself for the default prefix."""
        return base if self._prefix == "svr" else f"{self._prefix}.{base}"

    async def migrate(self) -> None:
        """Makes the indexes that are missing. Raises SchemaTooNew for a database of a newer release."""
        found = await self._counters.find_one({"_id": "schema"})
        if found is not None and int(str(found["value"])) > _SCHEMA:
            raise SchemaTooNew(
                f"The control collections are at version {found['value']}; this release knows {_SCHEMA}.",
                hint="Upgrade svr-retrievers, or use another db_schema.",
            )
        if found is None:
            await self.partitions.create_index("collection")
            await self._counters.update_one({"_id": "schema"}, {"$set": {"value": _SCHEMA}}, upsert=True)
            for made in (COLLECTIONS, _FENCES):  # a transaction cannot make them on every server
                await self._database[self.name(made)].create_index("_id")

    async def transaction(self, body: Callable[[Session], Awaitable[T]]) -> T:
        """The body's result, committed by a majority; run again where it met another transaction or an election.

        Bodies that meet a closed map are tried again once it is open.
        """

        async def attempt() -> T:
            repeated = _Repeated(body, self._turn)
            async with self._database.client.start_session() as session:
                try:
                    return await session.with_transaction(
                        repeated, read_concern=_SNAPSHOT, write_concern=_MAJORITY
                    )
                except _Enough as enough:
                    raise enough.error from None
                finally:
                    repeated.end()
                    self.fence.release(session)

        return await patiently(attempt)

    async def number(self) -> int:
        """A collection number that was never used before."""
        found = await self._counters.find_one_and_update(
            {"_id": "collections"},
            {"$inc": {"value": 1}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        assert found is not None
        return int(str(found["value"]))

    # Collections

    async def insert_collection(
        self, number: int, config: CollectionConfig, physical: Mapping[str, JsonValue]
    ) -> CollectionRef:
        """Raises CollectionExists."""
        body: Doc = {
            "_id": config.name,
            "id": number,
            "config": records.config_json(config),
            "generation": Int64(1),
            "partitions": 0,
            "physical": dict(physical),
        }

        async def insert(session: Session) -> None:
            await self.collections.insert_one(dict(body), session=session)
            await self.fence.create(number, session)

        try:
            await self.transaction(insert)
        except DuplicateKeyError:
            raise _exists(config.name) from None
        return CollectionRef(number, config)

    async def check_free(self, name: str) -> None:
        """Raises CollectionExists early, before anything is made for the name."""
        if await self.collections.find_one({"_id": name}, {"_id": 1}) is not None:
            raise _exists(name)

    async def load_collection(self, name: str) -> CollectionRef:
        found = await self.collections.find_one({"_id": name}, {"id": 1, "config": 1})
        if found is None:
            raise CollectionNotFound(
                f"There is no collection {name!r}.", hint="Create it with create_collection()."
            )
        return CollectionRef(_int(found["id"]), records.config_of(name, _mapping(found["config"])))

    async def list_collections(self) -> list[str]:
        return [str(found["_id"]) async for found in self.collections.find({}, {"_id": 1}).sort("_id")]

    async def delete_collection(self, ref: CollectionRef) -> None:
        """From here on nobody finds it; what it consisted of goes afterwards."""
        done = await self.collections.delete_one({"_id": ref.config.name, "id": ref.id})
        if not done.deleted_count:
            raise CollectionNotFound(f"There is no collection {ref.config.name!r}.")
        await self.fence.drop(ref.id)
        await self.partitions.delete_many({"collection": ref.id})

    # Partition maps

    async def load_map(
        self, ref: CollectionRef, session: Session | None = None
    ) -> tuple[MapState, Mapping[str, object]]:
        """One consistent map, and how the collection is stored: read from one snapshot."""
        if session is None:
            async with self._database.client.start_session(snapshot=True) as snapshot:
                return await self.load_map(ref, snapshot)
        head = await self.collections.find_one({"_id": ref.config.name, "id": ref.id}, session=session)
        if head is None:
            raise dropped(ref)
        cursor = self.partitions.find({"collection": ref.id}, session=session).sort("number")
        rows = [row async for row in cursor]
        size = sum(len(_bytes(row.get("centroids")) or b"") for row in rows)
        centroids = records.Centroids(size, ref.config.dimensions)
        known = [_partition(row, centroids) for row in rows]
        state = MapState(
            PartitionMap(_int(head["generation"]), known),
            records.calibration_of(_optional(head.get("calibration"))),
            records.field_statistics_of(_optional(head.get("field_statistics")), ref.config.fields),
        )
        return state, _mapping(head["physical"])

    async def generation(self, ref: CollectionRef) -> int:
        found = await self.collections.find_one({"_id": ref.config.name, "id": ref.id}, {"generation": 1})
        if found is None:
            raise dropped(ref)
        return _int(found["generation"])

    def generation_stages(self, ref: CollectionRef) -> list[Doc]:
        """Stages that answer one document with the generation and the physical state, to be united with a search."""
        return [
            {"$match": {"_id": ref.config.name, "id": ref.id}},
            {"$project": {"_id": 0, "generation": 1}},
        ]

    async def changing(
        self,
        ref: CollectionRef,
        body: Callable[[Session, MapState], Awaitable[bool]],
        known: PartitionMap | None = None,
    ) -> tuple[MapState, Mapping[str, object]]:
        """Runs the body alone on the newest map and makes the next generation where it says that it changed something.

        No writer is under way meanwhile. Raises StaleMap when the newest map is not `known`.
        """
        token = await self.fence.close(ref)

        async def change(session: Session) -> bool:
            state, _ = await self.load_map(ref, session)
            if known is not None and state.map.generation != known.generation:
                raise StaleMap
            await self.fence.advance(ref, token, state.map.generation + 1, session)
            if not await body(session, state):
                await session.abort_transaction()
                return False
            await self.collections.update_one(
                {"_id": ref.config.name, "id": ref.id}, {"$inc": {"generation": 1}}, session=session
            )
            return True

        changed = False
        try:
            changed = await self.transaction(change)
        finally:
            if not changed:
                await self.fence.reopen(ref, token)
        return await self.load_map(ref)

    async def insert_partitions(
        self, ref: CollectionRef, new: Sequence[NewPartition], session: Session
    ) -> list[int]:
        """Their numbers, counted up within the collection."""
        head = await self.collections.find_one_and_update(
            {"_id": ref.config.name, "id": ref.id},
            {"$inc": {"partitions": len(new)}},
            session=session,
            return_document=ReturnDocument.AFTER,
        )
        if head is None:
            raise dropped(ref)
        first = _int(head["partitions"]) - len(new) + 1
        made = [_body(ref, first + at, each) for at, each in enumerate(new)]
        await self.partitions.insert_many(made, session=session)
        return [first + at for at in range(len(new))]

    async def add_rows(self, ref: CollectionRef, changes: Mapping[int, int]) -> dict[int, int]:
        """Adds to the counts of rows; the counts afterwards. A count lags behind where this fails: `set_rows`."""
        if not changes:
            return {}
        ids = [_key(ref, number) for number in changes]
        moved = [
            UpdateOne({"_id": _key(ref, n)}, {"$inc": {"rows": Int64(by)}}) for n, by in changes.items() if by
        ]
        if moved:
            await self.partitions.bulk_write(moved, ordered=False)
        found = self.partitions.find({"_id": {"$in": ids}}, {"number": 1, "rows": 1})
        return {_int(row["number"]): max(0, _int(row["rows"])) async for row in found}

    async def set_rows(self, ref: CollectionRef, counts: Mapping[int, int]) -> None:
        if counts:
            await self.partitions.bulk_write(
                [
                    UpdateOne({"_id": _key(ref, n)}, {"$set": {"rows": Int64(rows)}})
                    for n, rows in counts.items()
                ],
                ordered=False,
            )

    async def save_statistics(
        self, ref: CollectionRef, stats: Mapping[int, PartitionStats], calibration: Calibration | None
    ) -> None:
        """Of no concern to writers, whose places do not depend on it: they meet the new generation as stale once."""

        async def save(session: Session, state: MapState) -> bool:  # noqa: ARG001
            if stats:
                await self.partitions.bulk_write(
                    [UpdateOne({"_id": _key(ref, n)}, {"$set": _statistics(s)}) for n, s in stats.items()],
                    session=session,
                )
            if calibration is not None:
                await self.collections.update_one(
                    {"_id": ref.config.name, "id": ref.id},
                    {"$set": {"calibration": records.calibration_json(calibration)}},
                    session=session,
                )
            return True

        await self.changing(ref, save)

    async def save_field_statistics(self, ref: CollectionRef, found: FilterStatistics) -> None:
        """Seen with the next map that is loaded; no generation of its own, since no answer depends on it."""
        await self._set(ref, {"field_statistics": statistics.all_to_json(found)})

    async def save_marks(self, ref: CollectionRef, target: str, marks: Mapping[int, int]) -> None:
        """How far an index has come, slot by slot; never backwards."""
        await self.collections.update_one(
            {"_id": ref.config.name, "id": ref.id},
            {"$max": {f"physical.marks.{target}.{slot}": Int64(n) for slot, n in marks.items()}},
        )

    async def physical(self, ref: CollectionRef, session: Session) -> Mapping[str, object]:
        found = await self.collections.find_one(
            {"_id": ref.config.name, "id": ref.id}, {"physical": 1}, session=session
        )
        if found is None:
            raise dropped(ref)
        return _mapping(found["physical"])

    async def save_physical(
        self, ref: CollectionRef, body: Mapping[str, JsonValue], session: Session
    ) -> None:
        """Everything but the marks, in a change of the map."""
        await self.collections.update_one(
            {"_id": ref.config.name, "id": ref.id},
            {"$set": {f"physical.{name}": value for name, value in body.items()}},
            session=session,
        )

    async def next_index(self, ref: CollectionRef) -> int:
        """A number for an index that no other was given."""
        head = await self.collections.find_one_and_update(
            {"_id": ref.config.name, "id": ref.id},
            {"$inc": {"physical.named": 1}},
            projection={"physical.named": 1},
        )
        if head is None:
            raise dropped(ref)
        return _int(_mapping(head["physical"])["named"])

    async def claim_building(self, ref: CollectionRef, owner: str, seconds: int) -> bool:
        """Whether the owner may build indexes of its own for partitions, alone, for so long by the server's clock."""
        until = {"$dateAdd": {"startDate": "$$NOW", "unit": "second", "amount": seconds}}
        free = {"$or": [{"$eq": ["$building.owner", owner]}, {"$lt": ["$building.until", "$$NOW"]}]}
        unclaimed = {"$or": [{"building": {"$exists": False}}, {"$expr": free}]}
        done = await self.collections.update_one(
            {"_id": ref.config.name, "id": ref.id, **unclaimed},
            [{"$set": {"building": {"owner": owner, "until": until}}}],
        )
        return bool(done.matched_count)

    async def release_building(self, ref: CollectionRef, owner: str) -> None:
        await self.collections.update_one(
            {"_id": ref.config.name, "id": ref.id, "building.owner": owner}, {"$unset": {"building": 1}}
        )

    async def save_target(self, ref: CollectionRef, target: Mapping[str, JsonValue]) -> None:
        """One index's entry of the physical state, if it is still there."""
        await self.collections.update_one(
            {"_id": ref.config.name, "id": ref.id, "physical.targets.name": target["name"]},
            {"$set": {"physical.targets.$": dict(target)}},
        )

    async def marks(self, ref: CollectionRef) -> dict[str, dict[int, int]]:
        found = await self.collections.find_one({"_id": ref.config.name, "id": ref.id}, {"physical.marks": 1})
        kept = _mapping(_mapping(found["physical"]).get("marks") or {}) if found is not None else {}
        return {
            target: {int(slot): _int(n) for slot, n in _mapping(slots).items()}
            for target, slots in kept.items()
        }

    async def _set(self, ref: CollectionRef, values: Mapping[str, object]) -> None:
        await self.collections.update_one({"_id": ref.config.name, "id": ref.id}, {"$set": dict(values)})


def _exists(name: str) -> CollectionExists:
    return CollectionExists(f"The collection {name!r} exists already.", hint="Open it with if_exists='open'.")


def _key(ref: CollectionRef, number: int) -> str:
    return f"{ref.id}/{number}"


def _body(ref: CollectionRef, number: int, new: NewPartition) -> Doc:
    return {
        "_id": _key(ref, number),
        "collection": ref.id,
        "number": number,
        "parent": new.parent,
        "kind": new.key.kind,
        "value": new.key.value,
        "label": new.key.label,
        "path": new.path,
        "state": "active",
        "leaf": new.leaf,
        "indexed": False,
        "rows": Int64(0),
        **_statistics(new.stats),
    }


def _statistics(stats: PartitionStats) -> Doc:
    return {
        "centroids": records.packed(stats.centroids),
        "spread": records.packed(stats.spread),
        "rows_at_refresh": Int64(stats.rows_at_refresh),
    }


def _partition(row: Mapping[str, object], centroids: records.Centroids) -> Partition:
    return records.partition(
        (
            row["number"], row["parent"], row["kind"], row["value"], row["label"], row["path"], row["state"],
            row["indexed"], _int(row["rows"]), _int(row["rows_at_refresh"]), None, _bytes(row.get("spread")),
            row["leaf"], False, 0, None,
        ),
        centroids.take(_bytes(row.get("centroids"))),
    )  # fmt: skip


def _int(value: object) -> int:
    return int(cast("int", value))


def _bytes(value: object) -> bytes | None:
    return None if value is None else bytes(cast("bytes", value))


def _mapping(value: object) -> Mapping[str, JsonValue]:
    return cast("Mapping[str, JsonValue]", value)


def _optional(value: object) -> Mapping[str, JsonValue] | None:
    return None if value is None else _mapping(value)
