"""An open deployment: its client, the control collections, and what is known of each collection's indexes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import anyio
from bson.codec_options import DatetimeConversion
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import PyMongoError

from svr_retrievers.backends.mongodb import connection, writing
from svr_retrievers.backends.mongodb.connection import Client, Deployment, Doc, translated
from svr_retrievers.backends.mongodb.freshness import Freshness
from svr_retrievers.backends.mongodb.layout import Layout
from svr_retrievers.backends.mongodb.layouts import layout_of
from svr_retrievers.backends.mongodb.targets import Physical, Target
from svr_retrievers.backends.protocol import CollectionRef, MapState
from svr_retrievers.changes import RowCounts
from svr_retrievers.control.mongodb import Catalog
from svr_retrievers.control.mongodb_fence import Session
from svr_retrievers.errors import ClientClosed, ConnectionFailed
from svr_retrievers.model import Partition, PartitionMap
from svr_retrievers.settings import Settings


class Database:
    """One database of a MongoDB deployment."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._url = url
        self._settings = settings
        self._client: Client | None = None
        self._found: Deployment | None = None
        self._opened: Catalog | None = None
        self._freshness = Freshness()
        self._physical: dict[int, Physical] = {}

    async def open(self) -> None:
        client = connection.make_client(self._url, self._settings)
        seconds = self._settings.connect_timeout_seconds
        try:
            database = connection.database_of(client, self._url)
            with anyio.fail_after(seconds + 1):
                self._found = await connection.examined(database, self._url)
                catalog = Catalog(database, self._settings.db_schema)
                with translated():
                    await catalog.migrate()
        except BaseException as error:
            await client.close()
            if isinstance(error, TimeoutError) and not isinstance(error, ConnectionFailed):
                raise ConnectionFailed(
                    f"Opening took longer than {seconds:g} s: the deployment does not answer.",
                    hint="Try again, or raise SVR_CONNECT_TIMEOUT_SECONDS.",
                ) from None
            raise
        self._client, self._opened = client, catalog

    async def close(self) -> None:
        await self._freshness.close()
        if self._client is not None:
            client, self._client = self._client, None
            self._opened = None
            await client.close()

    @property
    def _catalog(self) -> Catalog:
        if self._opened is None:
            raise ClientClosed("This client is closed.", hint="Make a new one.")
        return self._opened

    @property
    def _deployment(self) -> Deployment:
        assert self._found is not None
        return self._found

    def documents(self, ref: CollectionRef) -> AsyncCollection[Doc]:
        if ref.config.source is not None:
            return self.source_documents(ref.config.source.collection)
        return self._catalog.majority[self.documents_name(ref)]

    def source_documents(self, name: str) -> AsyncCollection[Doc]:
        """Documents of others may hold dates that Python has no name for."""
        majority = self._catalog.majority
        options = majority.codec_options.with_options(datetime_conversion=DatetimeConversion.DATETIME_AUTO)
        return majority.get_collection(name, codec_options=options)

    def documents_name(self, ref: CollectionRef) -> str:
        if ref.config.source is not None:
            return ref.config.source.collection
        return f"{self._settings.db_schema}.documents.{ref.id}"

    def named(self, target: Target, ref: CollectionRef) -> AsyncCollection[Doc]:
        """What an index is over: a view, or the documents themselves."""
        if target.view is None:
            return self.documents(ref)
        return (
            self.source_documents(target.view) if ref.config.source else self._catalog.majority[target.view]
        )

    async def load(self, ref: CollectionRef) -> MapState:
        return self.adopt(ref, *await self._catalog.load_map(ref))

    def adopt(self, ref: CollectionRef, state: MapState, physical: Mapping[str, object]) -> MapState:
        """Remembers how the collection is stored; the map with what that says of each partition's index."""
        known = self._physical[ref.id] = Physical.of_json(physical)
        for target in known.targets:
            self._freshness.of(target.name).ready = target.ready
        ready = {target.partition for target in known.targets if target.ready}

        def told(partition: Partition) -> Partition:
            served = partition.id in ready or (None in ready and partition.holds_rows)
            return replace(partition, stats=replace(partition.stats, indexed=served))

        marked = PartitionMap(state.map.generation, [told(p) for p in state.map.partitions])
        return replace(state, map=marked)

    async def physical(self, ref: CollectionRef) -> Physical:
        if ref.id not in self._physical:
            with translated(ref.config.name):
                await self.load(ref)
        return self._physical[ref.id]

    def layout(self, ref: CollectionRef, physical: Physical) -> Layout:
        return layout_of(ref.config, physical.mode)

    def ours(self, ref: CollectionRef) -> list[Doc]:
        """The stage that leaves out documents of others, where there are any."""
        condition = layout_of(ref.config, "source").ours
        return [{"$match": condition}] if condition else []

    # Writing

    def _enter(self, ref: CollectionRef, known: PartitionMap, session: Session) -> writing.Enter:
        """The slot is chosen before anything is read, so that no other write of this client takes it meanwhile."""
        slot = self._catalog.fence.hold(session)

        async def enter(done: Mapping[int, RowCounts], rows: int) -> range:
            return await self._catalog.fence.enter(ref, known.generation, session, slot, done, rows)

        return enter

    async def _counted(self, ref: CollectionRef, changes: Mapping[int, int]) -> dict[int, int]:
        """The rows of these partitions now. The write is done: a failure here only leaves the counts behind."""
        try:
            return await self._catalog.add_rows(ref, changes)
        except PyMongoError:
            return {}
