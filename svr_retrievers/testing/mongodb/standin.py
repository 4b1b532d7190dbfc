"""A deployment with Atlas Vector Search for tests: fronts for the members of a real server, and what searches."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self
from urllib.parse import quote_plus

from pymongo import AsyncMongoClient
from pymongo.uri_parser import parse_uri

from svr_retrievers.testing.mongodb.commands import Commands
from svr_retrievers.testing.mongodb.control import Control
from svr_retrievers.testing.mongodb.front import Front
from svr_retrievers.testing.mongodb.hashing import Embed, hash_embed
from svr_retrievers.testing.mongodb.mongot import Mongot
from svr_retrievers.testing.mongodb.settings import Settings

_HOST = "127.0.0.1"
_START_SECONDS = 60.0
CATALOGUE = "__standIn"


class AtlasStandIn:
    """Adds search to a replica set that has none; clients connect to `uri` and need not know.

    with Mongod() as server, AtlasStandIn(server.uri, Settings(build=0.2)) as atlas:
        client = AsyncMongoClient(atlas.uri)

    Runs in a thread of its own. `port` is the first member's; the others follow where it is given.
    Two stand-ins on one server need a `catalogue` (a database) each.
    """

    def __init__(
        self,
        upstream: str,
        settings: Settings | None = None,
        *,
        port: int = 0,
        embed: Embed = hash_embed,
        catalogue: str = CATALOGUE,
    ) -> None:
        self.uri = ""
        self._upstream = upstream
        self._control = Control(settings or Settings())
        self._port = port
        self._embed = embed
        self._catalogue = catalogue
        self._fronts: list[Front] = []
        self._addresses: dict[str, str] = {}
        self._mongot: Mongot | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="atlas-stand-in", daemon=True)

    def start(self) -> Self:
        """Returns once clients can connect. Raises what kept it from that."""
        self._thread.start()
        if not self._started.wait(_START_SECONDS):
            raise RuntimeError(f"no stand-in came up in front of {self._upstream} within {_START_SECONDS} s")
        if self._failure is not None:
            raise self._failure
        return self

    def stop(self) -> None:
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(_START_SECONDS)

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return sum(front.connections for front in self._fronts)

    def front_of(self, member: str) -> str:
        """The address in front of that member."""
        return self._addresses[member]

    @contextlib.contextmanager
    def replication_cut(self) -> Iterator[None]:
        """The search process hears nothing of the collections for as long; then it goes on from where it was."""
        self._called(lambda mongot: mongot.disconnect())
        try:
            yield
        finally:
            self._called(lambda mongot: mongot.reconnect())

    def _called(self, act: Callable[[Mongot], None]) -> None:
        loop, mongot = self._loop, self._mongot
        assert loop is not None
        assert mongot is not None
        done = threading.Event()

        def call() -> None:
            act(mongot)
            done.set()

        loop.call_soon_threadsafe(call)
        done.wait(_START_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - told to the thread that waits for the start
            self._failure = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        members = await _members(self._upstream)
        mongot = self._mongot = Mongot(self._upstream, self._control, self._embed, self._catalogue)
        try:
            await mongot.start()
            await self._listen(mongot, members)
            self._started.set()
            await self._stopping.wait()
        finally:
            await asyncio.gather(*(front.stop() for front in self._fronts))
            await mongot.stop()

    async def _listen(self, mongot: Mongot, members: list[str]) -> None:
        commands = Commands(mongot, self._addresses)
        for number, member in enumerate(members):
            host, _, port = member.rpartition(":")
            front = Front((host, int(port)), commands)
            self._fronts.append(front)
            at = await front.start(_HOST, self._port + number if self._port else 0)
            self._addresses[member] = f"{_HOST}:{at}"
        self.uri = _in_front(self._upstream, list(self._addresses.values()))


async def _members(upstream: str) -> list[str]:
    """The members as the set itself names them; the one that is meant where the URI asks for a direct connection."""
    async with AsyncMongoClient[dict[str, object]](upstream) as client:
        hello = await client.admin.command("hello")
    if not hello.get("hosts"):
        raise RuntimeError(
            f"the server at {', '.join(_nodes(upstream))} is no member of a replica set that was initiated, and only "
            "those have change streams; start it with --replSet and run replSetInitiate"
        )
    direct = parse_uri(upstream)["options"].get("directConnection")
    return [str(each) for each in ([hello["me"]] if direct else hello["hosts"])]


def _nodes(upstream: str) -> list[str]:
    return [f"{host}:{port}" for host, port in parse_uri(upstream)["nodelist"]]


def _in_front(upstream: str, fronts: list[str]) -> str:
    """The same URI with the fronts' addresses."""
    parsed = parse_uri(upstream)
    user, password = parsed["username"], parsed["password"]
    login = f"{quote_plus(user)}:{quote_plus(password or '')}@" if user else ""
    options = upstream.partition("?")[2]
    database = parsed["database"] or ""
    return f"mongodb://{login}{','.join(fronts)}/{database}" + (f"?{options}" if options else "")
