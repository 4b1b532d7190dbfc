"""What becomes of each request: passed on as it is, changed on its way, or answered in the server's stead."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from svr_retrievers.testing.mongodb import management
from svr_retrievers.testing.mongodb.controlling import controlled
from svr_retrievers.testing.mongodb.documents import Document, section, text, whole
from svr_retrievers.testing.mongodb.failpoints import FailPoint
from svr_retrievers.testing.mongodb.mongot import Mongot
from svr_retrievers.testing.mongodb.pipelines import LISTING, NOT_OFFERED, STAGES, rewritten
from svr_retrievers.testing.mongodb.refusals import Refused
from svr_retrievers.testing.mongodb.wire import OP_QUERY, Message

Answering = Callable[[Message], Awaitable["Step"]]
_MANAGEMENT = {
    "createSearchIndexes": management.create,
    "updateSearchIndex": management.update,
    "dropSearchIndex": management.drop,
}
_UNKNOWN = {59, 115, 31082}  # what a server without search says to a command about search indexes
_UNAUTHORIZED, _TOO_LATE = 13, 50
_STAGES = tuple(stage.encode() for stage in (*STAGES, LISTING, *NOT_OFFERED))
_GREETINGS = {"hello", "isMaster", "ismaster"}
_VERSIONS = {"buildInfo", "buildinfo"}
_SCHEMA = {"drop", "dropDatabase", "collMod", "renameCollection"}
_DATABASE = b"\x02$db\x00"


@dataclass(slots=True)
class Step:
    """`forward` goes to the server, whose reply `on_reply` judges; `answer` goes to the client."""

    forward: Message | None = None
    on_reply: Answering | None = None
    answer: Message | None = None


class Commands:
    """What all fronts of one deployment share. `addresses` names the front for each member."""

    def __init__(self, mongot: Mongot, addresses: Mapping[str, str]) -> None:
        self.mongot = mongot
        self.addresses = addresses
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.fail_point: FailPoint | None = None

    def conversation(self) -> Conversation:
        return Conversation(self)


class Conversation:
    """One client's connection."""

    def __init__(self, shared: Commands) -> None:
        self._shared = shared
        self._mongot = shared.mongot
        self._app = ""

    async def step(self, request: Message) -> Step:
        name = request.command
        if request.kind == OP_QUERY or name in _GREETINGS:
            self._introduced(request)
            return Step(request, self._greeting)
        database = _database(request)
        self._shared.counts[database][name] += 1
        if name in _VERSIONS:
            return Step(request, self._version_of(database))
        if name in _MANAGEMENT:
            return await self._managing(name, request)
        if name == "standIn":
            return Step(
                answer=request.reply(await controlled(self._mongot, self._shared.counts, request.document()))
            )
        if name == "configureFailPoint":
            return Step(request, self._fail_point_of(request))
        if name in _SCHEMA:
            return Step(request, self._reconciling(database))
        if name in {"aggregate", "explain"} and any(stage in request.raw for stage in _STAGES):
            return await self._searched(name, request)
        return Step(request)

    async def _searched(self, name: str, request: Message) -> Step:
        command = request.document()
        database = text(command, "$db")
        asked = section(command, "explain") if name == "explain" else command
        try:
            await self._take_time(asked, database)
            answer = await rewritten(self._mongot, asked | {"$db": database}, self._shared.counts[database])
        except Refused as refused:
            return Step(answer=request.reply(refused.reply()))
        if name == "explain":
            answer.pop("$db")
            answer = command | {"explain": answer}
        return Step(request.holding(answer))

    async def _take_time(self, command: Document, database: str) -> None:
        """As long as searches are told to take, or as the client will wait."""
        limit = (whole(command.get("maxTimeMS")) or 0) / 1000 or math.inf
        control = self._mongot.control
        await control.reach(database, lambda now, passed: min(now.search_delay, limit) - passed)
        if control.of(database).search_delay > limit:
            raise Refused("operation exceeded time limit", _TOO_LATE)

    async def _managing(self, name: str, request: Message) -> Step:
        command = request.document()
        namespace = f"{text(command, '$db')}.{text(command, name)}"
        point = self._shared.fail_point
        failed = await point.strike(name, namespace, self._app) if point is not None else None
        if failed is not None:
            return Step(answer=request.reply(failed))
        return Step(request, self._judged(name, request, command))

    def _judged(self, name: str, request: Message, command: Document) -> Answering:
        """The server judges first, so that its own refusals hold; what it does not know it is asked in its words."""
        probe: Document = {"createIndexes": command.get(name), "indexes": [], "$db": command.get("$db")}

        async def permitted(reply: Message) -> Step:
            answer = reply.document()
            if answer.get("code") == _UNAUTHORIZED:
                return Step(answer=reply)
            try:
                answer = await _MANAGEMENT[name](self._mongot, command)
            except Refused as refused:
                answer = refused.reply()
            return Step(answer=request.reply(answer))

        async def known(reply: Message) -> Step:
            if reply.document().get("code") not in _UNKNOWN:
                return Step(answer=reply)
            return Step(request.holding(probe), permitted)

        return known

    def _fail_point_of(self, request: Message) -> Answering:
        async def answer(reply: Message) -> Step:
            command = request.document()
            if command.get("configureFailPoint") == "failCommand" and reply.document().get("ok") == 1:
                self._shared.fail_point = FailPoint.configured(command)
            return Step(answer=reply)

        return answer

    def _reconciling(self, database: str) -> Answering:
        async def answer(reply: Message) -> Step:
            await self._mongot.reconcile(database)
            return Step(answer=reply)

        return answer

    def _version_of(self, database: str) -> Answering:
        async def answer(reply: Message) -> Step:
            version = self._mongot.control.of(database).server_version
            array = [*(int(part) for part in version.split(".")), 0, 0, 0, 0][:4]
            return Step(answer=reply.holding(reply.document() | {"version": version, "versionArray": array}))

        return answer

    def _introduced(self, request: Message) -> None:
        """Clients name their application in their first greeting."""
        client = section(request.document(), "client")
        self._app = text(section(client, "application"), "name", self._app)

    async def _greeting(self, reply: Message) -> Step:
        """The server names the members' own addresses; drivers would follow them past the fronts."""
        shown = reply.document()
        shown.pop("compression", None)
        for key in ("me", "primary"):
            if key in shown:
                shown[key] = self._front(shown[key])
        for key in ("hosts", "passives", "arbiters"):
            listed = shown.get(key)
            if isinstance(listed, list):
                shown[key] = [self._front(each) for each in listed]
        return Step(answer=reply.holding(shown))

    def _front(self, address: object) -> object:
        return self._shared.addresses.get(str(address), address)


def _database(request: Message) -> str:
    """Read off the frame without decoding it: good enough to count by."""
    at = request.raw.rfind(_DATABASE)
    if at < 0:
        return ""
    start = at + len(_DATABASE) + 4
    return request.raw[start : request.raw.index(0, start)].decode(errors="replace")
