"""A backend that knows further servers, and places the collections made for them there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from psycopg import sql

from svr_retrievers.backends.postgres.connection import Connection, borrowed
from svr_retrievers.backends.postgres.spread import servers
from svr_retrievers.backends.postgres.spread.servers import Registered
from svr_retrievers.backends.postgres.spread.share import Share
from svr_retrievers.backends.postgres.store import PostgresBackend
from svr_retrievers.backends.protocol import CollectionConfig, CollectionRef
from svr_retrievers.concurrency import NeedsLoop, on_loop
from svr_retrievers.model import PartitionMap, PartitionStats, Server
from svr_retrievers.routing.probe import Calibration

_DROPPED_AT_ONCE = 100


class Placed(PostgresBackend):
    """One database that may place the partitions of a collection on further servers."""

    _servers: dict[str, Registered]

    async def open(self) -> None:
        await super().open()
        await self._learn()

    async def _learn(self) -> None:
        async with borrowed(self._pool) as conn:
            self._servers = await servers.registered(conn, self._catalog)

    async def _named(self, name: str) -> Registered:
        if name not in self._servers:
            if not on_loop():
                raise NeedsLoop
            await self._learn()
        return servers.named(self._servers, name)

    async def _share(self, ref: CollectionRef, name: str) -> Share:
        return Share(self.tables(ref), await self._named(name))

    async def _shares(self, ref: CollectionRef) -> dict[str, Share]:
        """The shares on servers that are registered still."""
        await self._learn()
        known = [name for name in ref.config.servers if name in self._servers]
        return {name: Share(self.tables(ref), self._servers[name]) for name in known}

    # Servers

    async def add_server(self, name: str, url: str) -> Server:
        async with borrowed(self._pool) as conn:
            await servers.add(conn, self._catalog, self._settings, name, url)
        return next(s for s in await self.list_servers() if s.name == name)

    async def list_servers(self) -> list[Server]:
        async with borrowed(self._pool) as conn:
            return await servers.listed(conn, self._catalog)

    async def remove_server(self, name: str, *, lost: bool) -> None:
        async with borrowed(self._pool) as conn:
            await servers.remove(conn, self._catalog, name, lost=lost)
        await self._learn()

    async def _run(self, conn: Connection, share: Share, *commands: sql.Composable | str) -> None:
        for command in commands:
            await servers.execute(conn, self._settings.db_schema, share.server, command)

    # Collections and maps

    async def create_collection(self, config: CollectionConfig) -> CollectionRef:
        if not config.servers:
            return await super().create_collection(config)
        for name in config.servers:
            await self._named(name)
        async with borrowed(self._pool) as conn, conn.transaction():
            ref = await self._catalog.insert_collection(conn, config)
            await self._create_documents(conn, ref)
            for share in [await self._share(ref, name) for name in config.servers]:
                await self._run(conn, share, *share.create())
                for made in share.create_foreign(conn.info.server_version):
                    await conn.execute(made)
            return ref

    async def drop_collection(self, name: str) -> None:
        ref = await super().load_collection(name)
        if ref.config.servers:
            known = (await self.load_map(ref)).map
            for server, share in (await self._shares(ref)).items():
                await self._drop_share(share, [p.id for p in known.partitions if p.server == server])
        await super().drop_collection(name)

    async def _drop_share(self, share: Share, partitions: Sequence[int]) -> None:
        async with borrowed(self._pool) as conn:
            for start in range(0, len(partitions), _DROPPED_AT_ONCE):
                await self._run(
                    conn, share, share.drop_children(partitions[start : start + _DROPPED_AT_ONCE])
                )
            async with conn.transaction():
                await self._run(conn, share, share.drop())
                await conn.execute(share.drop_foreign())

    async def _create_child(
        self, conn: Connection, ref: CollectionRef, number: int, server: str | None
    ) -> None:
        if server is None:
            await super()._create_child(conn, ref, number, server)
        else:
            share = await self._share(ref, server)
            await self._run(conn, share, *share.create_child(number))

    async def save_statistics(
        self, ref: CollectionRef, stats: Mapping[int, PartitionStats], calibration: Calibration | None
    ) -> None:
        """A server analyses its partitions itself, when their indexes are built and as it thinks fit."""
        if not ref.config.servers:
            await super().save_statistics(ref, stats, calibration)
            return
        async with borrowed(self._pool) as conn:
            await self._catalog.save_statistics(conn, ref, stats, calibration)


def server_of(known: PartitionMap, partition: int) -> str:
    """Where a partition of a spread collection lies."""
    found = known.get(partition)
    assert found is not None
    assert found.server is not None
    return found.server


def by_server(known: PartitionMap, partitions: Iterable[int]) -> dict[str, list[int]]:
    """The different partitions among these, by server, both in a fixed order."""
    groups: dict[str, list[int]] = {}
    for partition in sorted(set(partitions)):
        groups.setdefault(server_of(known, partition), []).append(partition)
    return dict(sorted(groups.items()))
