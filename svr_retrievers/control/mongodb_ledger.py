"""The ledger in MongoDB: `svr_metadata.stores`, `.maps` and `.map_partitions`, each change one compare-and-set.

    stores:          {_id: <id of a vectors' database>}
    maps:            {_id: {s: store, n: name}, id, life, generation, proposed, calibration, calibration_proposed}
    map_partitions:  {_id: {s: store, c: collection, p: number, g: since generation}, digest, body}

A partition is there in every version that a confirmed map or a proposed one names; the newest up to a generation is
that generation's. Nothing here needs a transaction: what the proposal of a map writes counts once its head says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import cast

from bson import Int64
from pymongo import ReplaceOne
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from svr_retrievers.backends.protocol import CollectionRef
from svr_retrievers.control import records
from svr_retrievers.control.ledger import Content, Entry, Head, Life
from svr_retrievers.control.mongodb_work import MongoWork
from svr_retrievers.errors import ConfigError
from svr_retrievers.values import JsonValue

Doc = dict[str, object]
Translated = Callable[[], AbstractContextManager[None]]
_AT_ONCE = 500


class MongoLedger:
    """In one database of a replica set, with or without search. `translated` gives the driver's errors our words."""

    def __init__(self, database: AsyncDatabase[Doc], translated: Translated, prefix: str) -> None:
        self._database = database.with_options(
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern("majority"),
        )
        self._translated = translated
        self._store = ""
        name = "svr_metadata" if prefix == "svr" else f"{prefix}.svr_metadata"
        self._stores = self._database[f"{name}.stores"]
        self._maps = self._database[f"{name}.maps"]
        self._partitions = self._database[f"{name}.map_partitions"]
        self.work = MongoWork(database, translated, prefix=prefix)
        """Leases, operations and the outbox beside the maps."""

    async def open(self) -> None:
        with self._translated():
            hello = await self._database.client.admin.command("hello")
            if "setName" not in hello and hello.get("msg") != "isdbgrid":
                raise ConfigError(
                    "The MongoDB server of the control plane is no replica set.",
                    hint="Start it with --replSet and run rs.initiate(): what a server alone has written can be lost.",
                )
            await self._partitions.create_index({"_id.s": 1, "_id.c": 1, "_id.p": 1, "_id.g": 1}, name="map")
        await self.work.prepare()

    async def close(self) -> None:
        await self._database.client.close()

    # Databases

    async def knows(self, store: str) -> bool:
        with self._translated():
            return await self._stores.find_one({"_id": store}) is not None

    async def enter(self, store: str) -> None:
        with self._translated():
            await self._stores.update_one({"_id": store}, {"$set": {"kept": True}}, upsert=True)

    def serve(self, store: str) -> None:
        self._store = store

    # Collections

    async def find(self, name: str) -> Head | None:
        with self._translated():
            found = await self._maps.find_one({"_id": self._key(name)}, _HEAD)
        return None if found is None else _head(found)

    async def heads(self) -> Sequence[Head]:
        with self._translated():
            return [
                _head(found) async for found in self._maps.find({"_id.s": self._store}, _HEAD).sort("_id.n")
            ]

    async def begin(self, ref: CollectionRef, generation: int = 1) -> bool:
        body: Doc = {
            "_id": self._key(ref.config.name),
            "id": Int64(ref.id),
            "life": "creating",
            "generation": Int64(generation),
            "config": records.config_json(ref.config),
        }
        with self._translated():
            try:
                await self._maps.insert_one(body)
            except DuplicateKeyError:
                return False
        return True

    async def created(self, head: Head) -> None:
        with self._translated():
            await self._maps.update_one({**self._exactly(head)}, {"$set": {"life": "active"}})

    async def not_created(self, head: Head) -> None:
        with self._translated():
            await self._maps.delete_one(self._exactly(head))

    async def begin_drop(self, head: Head) -> bool:
        with self._translated():
            done = await self._maps.update_one(self._exactly(head), {"$set": {"life": "dropping"}})
        return done.matched_count == 1

    async def end_drop(self, head: Head) -> None:
        """The head goes last: as long as it is there, the drop is gone on with."""
        with self._translated():
            await self._partitions.delete_many({"_id.s": self._store, "_id.c": head.id})
            await self._maps.delete_one({"_id": self._key(head.name), "id": head.id, "life": "dropping"})

    # Maps

    async def propose(
        self,
        ref: CollectionRef,
        generation: int,
        entries: Sequence[Entry],
        content: Callable[[Sequence[int]], Awaitable[Mapping[int, Content]]],
        calibration: JsonValue,
    ) -> bool:
        before = {
            "_id": self._key(ref.config.name), "id": ref.id, "life": "active",
            "generation": generation - 1, "proposed": None,
        }  # fmt: skip
        with self._translated():
            if await self._maps.find_one(before, {"_id": 1}) is None:
                return False
            await self._partitions.delete_many(
                {"_id.s": self._store, "_id.c": ref.id, "_id.g": {"$gte": generation}}
            )
            known = await self._digests(ref.id, generation - 1)
            changed = [entry for entry in entries if known.get(entry.number) != entry.digest]
            for start in range(0, len(changed), _AT_ONCE):
                await self._put(ref, generation, changed[start : start + _AT_ONCE], content)
            done = await self._maps.update_one(
                before, {"$set": {"proposed": Int64(generation), "calibration_proposed": calibration}}
            )
        return done.matched_count == 1

    async def _put(
        self,
        ref: CollectionRef,
        generation: int,
        entries: Sequence[Entry],
        content: Callable[[Sequence[int]], Awaitable[Mapping[int, Content]]],
    ) -> None:
        bodies = await content([entry.number for entry in entries])
        made: list[Doc] = [
            {
                "_id": {"s": self._store, "c": ref.id, "p": entry.number, "g": generation},
                "digest": entry.digest,
                "body": dict(bodies[entry.number]),
            }
            for entry in entries
        ]
        await self._partitions.bulk_write(
            [ReplaceOne({"_id": each["_id"]}, each, upsert=True) for each in made], ordered=False
        )

    async def confirm(self, ref: CollectionRef, generation: int) -> None:
        with self._translated():
            done = await self._maps.update_one(
                {"_id": self._key(ref.config.name), "id": ref.id, "proposed": generation},
                [
                    {"$set": {"generation": "$proposed", "calibration": "$calibration_proposed"}},
                    {"$unset": ["proposed", "calibration_proposed"]},
                ],
            )
            if done.matched_count:
                await self._forget_older(ref, generation)

    async def _forget_older(self, ref: CollectionRef, generation: int) -> None:
        """What the generation has replaced. Left behind by an interruption, it is in nobody's way."""
        of_map = {"_id.s": self._store, "_id.c": ref.id}
        new = [
            _whole(_mapping(row["_id"])["p"])
            async for row in self._partitions.find({**of_map, "_id.g": generation}, {"_id": 1})
        ]
        for start in range(0, len(new), _AT_ONCE):
            await self._partitions.delete_many(
                {**of_map, "_id.p": {"$in": new[start : start + _AT_ONCE]}, "_id.g": {"$lt": generation}}
            )

    async def take_back(self, ref: CollectionRef, generation: int) -> None:
        with self._translated():
            await self._maps.update_one(
                {"_id": self._key(ref.config.name), "id": ref.id, "proposed": generation},
                {"$unset": {"proposed": 1, "calibration_proposed": 1}},
            )

    async def entries(self, ref: CollectionRef) -> Sequence[Entry]:
        head = await self.find(ref.config.name)
        if head is None:
            return ()
        with self._translated():
            found = await self._digests(ref.id, head.generation)
        return [Entry(number, digest) for number, digest in sorted(found.items())]

    async def _digests(self, collection: int, generation: int) -> dict[int, str]:
        rows = self._partitions.find(
            {"_id.s": self._store, "_id.c": collection, "_id.g": {"$lte": generation}}, {"digest": 1}
        ).sort("_id.g")
        return {_whole(_mapping(row["_id"])["p"]): str(row["digest"]) async for row in rows}

    def _key(self, name: str) -> Doc:
        return {"s": self._store, "n": name}

    def _exactly(self, head: Head) -> Doc:
        return {
            "_id": self._key(head.name), "id": head.id, "life": head.life,
            "generation": head.generation, "proposed": head.proposed,
        }  # fmt: skip


_HEAD: Doc = {"id": 1, "life": 1, "generation": 1, "proposed": 1}


def _head(found: Mapping[str, object]) -> Head:
    proposed = found.get("proposed")
    return Head(
        str(_mapping(found["_id"])["n"]),
        _whole(found["id"]),
        cast("Life", found["life"]),
        _whole(found["generation"]),
        None if proposed is None else _whole(proposed),
    )


def _whole(value: object) -> int:
    return int(cast("int", value))


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value)
