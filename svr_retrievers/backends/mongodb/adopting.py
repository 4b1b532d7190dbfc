"""Collections of others, used where they are: made known, taken in some at a time, and given back as they were."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final, cast

from bson import encode
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError

from svr_retrievers.backends.adopting import StoredVectors, TakenIn, Untaken
from svr_retrievers.backends.mongodb import examining, foreign, targets, writing
from svr_retrievers.backends.mongodb import layout as lay
from svr_retrievers.backends.mongodb.connection import Doc, translated
from svr_retrievers.backends.mongodb.foreign import ForeignLayout
from svr_retrievers.backends.mongodb.indexing import SearchIndexes
from svr_retrievers.backends.mongodb.targets import Physical, Target, index_name
from svr_retrievers.backends.protocol import Batch, CollectionConfig, CollectionRef, Written
from svr_retrievers.backends.sources import OWN, Source
from svr_retrievers.control.mongodb import COLLECTIONS
from svr_retrievers.control.mongodb_fence import Session
from svr_retrievers.errors import (
    CollectionExists,
    CollectionMismatch,
    CollectionNotFound,
    ConfigError,
    InputError,
)
from svr_retrievers.model import PartitionMap

_AT_ONCE: Final = 1_000
_LOOKED_AT: Final = 100
"""Documents that are looked at for a first vector."""
_NOT_TAKEN: Final[Doc] = {OWN: {"$exists": False}}
_DUPLICATE: Final = 11000
_CANNOT_INDEX: Final = 67


class Adoptions(SearchIndexes):
    """The calls about collections of others."""

    async def vectors_of(self, source: Source, dimensions: int | None) -> StoredVectors | None:
        with translated():
            await self._check_source(source)
            is_vector: Doc = {source.vector: {"$type": ["array", "binData"]}}
            documents = self.source_documents(source.collection)
            first: StoredVectors | None = None
            async for each in documents.find(is_vector, {source.vector: 1}).limit(_LOOKED_AT):
                found = examining.stored_vectors(foreign.at(each, source.vector))
                if found is not None and dimensions in (None, found.dimensions):
                    return found
                first = first or found
        return first

    async def _check_source(self, source: Source) -> None:
        """Raises for what cannot be adopted."""
        name = source.collection
        if self._is_own(name):
            raise InputError(f"{name!r} holds what SVR itself stores, and cannot be adopted.")
        database = self._catalog.majority
        found = await (await database.list_collections(filter={"name": name})).to_list()
        if not found:
            raise CollectionNotFound(
                f"There is no MongoDB collection {name!r} in the database {database.name!r}.",
                hint="The database is the one that the client's URL names.",
            )
        kind, options = found[0].get("type"), found[0].get("options") or {}
        if kind != "collection" or options.get("capped"):
            raise ConfigError(
                f"{name!r} is a {'capped collection' if kind == 'collection' else kind}, which cannot be adopted."
            )
        if options.get("collation"):
            raise ConfigError(
                f"{name!r} compares text by a collation of its own, under which ids and filters mean something else.",
                hint="Only collections without a default collation can be adopted.",
            )

    def _is_own(self, name: str) -> bool:
        own = tuple(f"{self._settings.db_schema}.{part}." for part in ("documents", "view"))
        return name.startswith((*own, "system.")) or "svr_metadata." in name

    # Making known

    async def adopt_collection(self, config: CollectionConfig, search_index: str | None) -> CollectionRef:
        """First it is known, then documents are taken in: no document has a mark that nobody knows of."""
        targets.check(config)
        assert config.source is not None
        if config.index.mode == "fields":
            raise InputError(
                "index mode 'fields' moves vectors, so it is not for adopted collections.",
                hint="Use hnsw(), or hnsw(mode='source') or hnsw(mode='views').",
            )
        source = config.source
        if search_index is not None:
            config = replace(config, index=replace(config.index, mode="source"))
        with translated(config.name):
            there = await self._adopted(config)
            if there is None:
                await self._check_unused(source)
                try:
                    return await self._make_known(config, search_index)
                except CollectionExists:  # somebody else was quicker
                    there = await self._adopted(config)
            assert there is not None
            await self._check_index(there, search_index)
            await self._make_own_indexes(there)
            return there

    async def _check_index(self, ref: CollectionRef, search_index: str | None) -> None:
        used = (await self.physical(ref)).rest
        if search_index is not None and not (used.shared and used.name == search_index):
            raise CollectionMismatch(
                f"The collection {ref.config.name!r} uses the search index {used.name!r}, not {search_index!r}.",
                hint="Leave search_index out.",
            )

    async def _adopted(self, config: CollectionConfig) -> CollectionRef | None:
        """The collection of that name, if it is over the same source."""
        try:
            ref = await self._catalog.load_collection(config.name)
        except CollectionNotFound:
            return None
        source = ref.config.source
        if source is None or config.source is None or source.collection != config.source.collection:
            over = f"over {source.collection!r}" if source is not None else "with documents of its own"
            raise CollectionExists(
                f"The collection {config.name!r} exists already, {over}.", hint="Use another name."
            )
        return ref

    async def _check_unused(self, source: Source) -> None:
        """Raises where somebody else has adopted the source, or its documents have a field of our name."""
        others = await self._adopters(source)
        if others:
            raise _adopted_already(source, others[0])
        documents = self.source_documents(source.collection)
        if await documents.find_one({OWN: {"$exists": True}}, {"_id": 1}) is not None:
            raise ConfigError(
                f"Documents of {source.collection!r} have a field {OWN!r} already, which SVR needs for itself.",
                hint="Rename theirs; or, if they were copied from where they were adopted, remove it.",
            )

    async def _adopters(self, source: Source) -> list[Doc]:
        """The entries of all collections over the source, those of other installations in the database too."""
        database = self._catalog.majority
        names = await database.list_collection_names(filter={"name": {"$regex": f"{COLLECTIONS}$"}})
        over: Doc = {"config.source.collection": source.collection}
        return [each for name in names async for each in database[name].find(over, {"id": 1})]

    async def _make_known(self, config: CollectionConfig, search_index: str | None) -> CollectionRef:
        number = await self._catalog.number()
        ref = CollectionRef(number, config)
        target = Target(search_index or index_name(number, 0), shared=search_index is not None)
        physical = Physical("source", (target,))
        try:
            await self._make_own_indexes(ref)
            if target.shared:
                await self._extend(ref, physical, target)
            else:
                await self.create_index(ref, physical, target)
            await self._catalog.insert_collection(number, config, physical.to_json())
            await self._check_first(ref)
        except BaseException:
            with suppress(PyMongoError):
                await self.drop_indexes(ref, physical)
            raise
        return ref

    async def _check_first(self, ref: CollectionRef) -> None:
        """Of two that adopt one source at the same time, under two names, the first stays."""
        assert ref.config.source is not None
        for other in await self._adopters(ref.config.source):
            if other["_id"] != ref.config.name and lay.number(other["id"]) <= ref.id:
                await self._catalog.delete_collection(ref)
                raise _adopted_already(ref.config.source, other)

    async def _make_own_indexes(self, ref: CollectionRef) -> None:
        """Their names are those of our fields, so that making them twice makes them once."""
        documents = self.documents(ref)
        ours = {lay.NAMESPACE: {"$exists": True}}
        try:
            await documents.create_index(
                [(lay.NAMESPACE, 1), (lay.ID, 1)], unique=True, partialFilterExpression=ours
            )
        except OperationFailure as error:
            if error.code != _CANNOT_INDEX:
                raise
            raise ConfigError(
                f"{documents.name!r} is sharded by a key of its own, so ids cannot be kept unique in it.",
                hint="Only collections that are not sharded can be adopted.",
            ) from error
        await documents.create_index(lay.STAMP, sparse=True)
        await documents.create_index(lay.PARTITION, sparse=True)

    async def _extend(self, ref: CollectionRef, physical: Physical, target: Target) -> None:
        found = await self._listed(ref, target)
        wanted = targets.definition(ref.config, self.layout(ref, physical))
        fault = targets.not_extendable(found, wanted)
        if fault is not None:
            raise ConfigError(
                f"The search index {target.name!r} {fault}.",
                hint="Leave search_index out: a new index is made then.",
            )
        await self.update_index(ref, physical, target)

    # Taking in

    async def count_untaken(self, ref: CollectionRef) -> int:
        with translated(ref.config.name):
            return await self.documents(ref).count_documents(_NOT_TAKEN)

    async def untaken(self, ref: CollectionRef) -> AsyncGenerator[Untaken, None]:
        layout = self._foreign(ref, await self.physical(ref))
        part: list[Doc] = []
        with translated(ref.config.name):
            async for each in self.documents(ref).find(_NOT_TAKEN, batch_size=_AT_ONCE):
                part.append(each)
                if len(part) == _AT_ONCE:
                    yield examining.examined(part, layout)
                    part = []
            if part:
                yield examining.examined(part, layout)

    def _foreign(self, ref: CollectionRef, physical: Physical) -> ForeignLayout:
        return cast("ForeignLayout", self.layout(ref, physical))

    async def take_in(
        self,
        ref: CollectionRef,
        known: PartitionMap,
        batch: Batch,
        keys: Sequence[object],
        partitions: Sequence[int],
    ) -> TakenIn:
        """All in one transaction but those that the server refuses, which are left out one by one."""
        layout = self._foreign(ref, await self.physical(ref))
        kinds = lay.kinds_of(ref.config, layout)
        marks = [
            writing.Mark(key, lay.own_part(batch, at, int(place), kinds))
            for at, (key, place) in enumerate(zip(keys, partitions, strict=True))
        ]
        refused: dict[int, str] = {}

        async def write(session: Session) -> writing.Marked:
            enter = self._enter(ref, known, session)
            return await writing.mark(self.documents(ref), layout, marks, refused, enter, session)

        with translated(ref.config.name):
            while True:
                try:
                    done = await self._catalog.transaction(write)
                    break
                except BulkWriteError as error:
                    refused |= _refused(error, marks)
            rows = await self._counted(ref, done.changes)
        return TakenIn(done.taken, {**refused, **done.conflicts}, Written((), rows))

    # Giving back

    async def give_back(self, ref: CollectionRef, physical: Physical) -> None:
        """Takes off all that was added; the documents are what they were. It can be repeated after any failure."""
        await self._catalog.fence.drop(ref.id)  # from here on nobody writes to it
        await self.drop_indexes(ref, physical)
        for target in physical.targets:
            if target.view is not None:
                await self._catalog.majority.drop_collection(target.view)
        documents = self.documents(ref)
        await documents.update_many({lay.NAMESPACE: {"$exists": True}}, {"$unset": {OWN: 1}})
        await _drop_own_indexes(documents)
        await self._catalog.delete_collection(ref)


def _adopted_already(source: Source, other: Doc) -> ConfigError:
    return ConfigError(
        f"{source.collection!r} is adopted already, as {other['_id']!r}.",
        hint="Open that one, or drop it first: dropping leaves the documents.",
    )


async def _drop_own_indexes(documents: AsyncCollection[Doc]) -> None:
    """Those over our fields only."""
    async for index in await documents.list_indexes():
        if all(str(key).startswith(f"{OWN}.") for key in cast("Mapping[str, object]", index["key"])):
            await documents.drop_index(str(index["name"]))


def _refused(error: BulkWriteError, marks: Sequence[writing.Mark]) -> dict[int, str]:
    """What the server refused, by position. Raises the error where it does not say."""
    found: dict[int, str] = {}
    places = {encode({"": mark.key}): at for at, mark in enumerate(marks)}
    for fault in (error.details or {}).get("writeErrors") or []:
        if fault.get("code") == _DUPLICATE:
            reason = "another document has the same id as text."
        else:
            reason = (
                f"the server refuses the mark (code {fault.get('code')}): {str(fault.get('errmsg'))[:200]}"
            )
        at = places.get(encode({"": (fault.get("op") or {}).get("q", {}).get("_id")}))
        if at is not None:
            found[at] = f"id: {reason}"
    if not found:
        raise error
    return found
