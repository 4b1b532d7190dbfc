"""What becomes of each request: passed on as it is, changed on its way, or answered in the server's stead."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from svr_retrievers.testing.mongodb import management
from svr_retrievers.testing.mongodb.documents import Document, section, text
from svr_retrievers.testing.mongodb.mongot import Mongot
from svr_retrievers.testing.mongodb.pipelines import rewritten
from svr_retrievers.testing.mongodb.refusals import Refused
from svr_retrievers.testing.mongodb.wire import OP_QUERY, Message

Answering = Callable[[Message], Awaitable[Message]]
_MANAGEMENT = {
    "createSearchIndexes": management.create,
    "updateSearchIndex": management.update,
    "dropSearchIndex": management.drop,
}
_UNKNOWN = {59, 115, 31082}  # what a server without search says to a command about search indexes
_STAGES = (b"$vectorSearch", b"$listSearchIndexes")
_GREETINGS = {"hello", "isMaster", "ismaster"}
_VERSIONS = {"buildInfo", "buildinfo"}
_DATABASE = b"\x02$db\x00"


@dataclass(slots=True)
class Step:
    """Either `forward`, with what is done to the reply, or `answer` at once."""

    forward: Message | None = None
    on_reply: Answering | None = None
    answer: Message | None = None


class Commands:
    """The judgement of all fronts of one deployment. `addresses` names the front for each member."""

    def __init__(self, mongot: Mongot, addresses: Mapping[str, str]) -> None:
        self._mongot = mongot
        self._addresses = addresses
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)

    async def step(self, request: Message) -> Step:
        name = request.command
        if request.kind == OP_QUERY or name in _GREETINGS:
            return Step(request, self._greeting)
        self._counts[_database(request)][name] += 1
        if name in _VERSIONS:
            return Step(request, self._version_of(_database(request)))
        if name in _MANAGEMENT:
            return Step(request, lambda reply: self._managed(name, request, reply))
        if name == "standIn":
            return Step(answer=request.reply(await self._controlled(request.document())))
        if name in {"aggregate", "explain"} and any(stage in request.raw for stage in _STAGES):
            return await self._searched(name, request)
        return Step(request)

    async def _searched(self, name: str, request: Message) -> Step:
        command = request.document()
        asked = section(command, "explain") if name == "explain" else command
        self._count_search(text(command, "$db"), asked)
        try:
            answer = await rewritten(self._mongot, asked | {"$db": command.get("$db")})
        except Refused as refused:
            return Step(answer=request.reply(refused.reply()))
        if name == "explain":
            answer.pop("$db")
            answer = command | {"explain": answer}
        return Step(request.holding(answer))

    def _count_search(self, database: str, command: Document) -> None:
        pipeline = command.get("pipeline")
        for stage in pipeline if isinstance(pipeline, list) else []:
            name = next(iter(stage), "")
            if name.encode() in _STAGES:
                self._counts[database][name] += 1

    async def _managed(self, name: str, request: Message, reply: Message) -> Message:
        """The server judges first, so that its own refusals hold."""
        if reply.document().get("code") not in _UNKNOWN:
            return reply
        try:
            answer = await _MANAGEMENT[name](self._mongot, request.document())
        except Refused as refused:
            answer = refused.reply()
        return request.reply(answer)

    async def _controlled(self, command: Document) -> Document:
        database = text(command, "$db")
        changes = {k: v for k, v in command.items() if k not in {"standIn", "lsid"} and not k.startswith("$")}
        control = self._mongot.control
        try:
            if changes.pop("settle", False):
                await self._mongot.settle(None if database == "admin" else database)
            control.change(database, changes)
        except Refused as refused:
            return refused.reply()
        return {"ok": 1.0, "settings": control.of(database).document(), "counts": self._counted(database)}

    def _counted(self, database: str) -> Document:
        chosen = list(self._counts) if database == "admin" else [database]
        total: Counter[str] = Counter()
        for name in chosen:
            total.update(self._counts[name])
        return dict(total)

    def _version_of(self, database: str) -> Answering:
        async def answer(reply: Message) -> Message:
            version = self._mongot.control.of(database).server_version
            numbers = [int(part) for part in version.split(".")]
            array = [*numbers, 0, 0, 0, 0][:4]
            return reply.holding(reply.document() | {"version": version, "versionArray": array})

        return answer

    async def _greeting(self, reply: Message) -> Message:
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
        return reply.holding(shown)

    def _front(self, address: object) -> object:
        return self._addresses.get(str(address), address)


def _database(request: Message) -> str:
    """Read off the frame without decoding it: good enough to count by."""
    at = request.raw.rfind(_DATABASE)
    if at < 0:
        return ""
    start = at + len(_DATABASE) + 4
    return request.raw[start : request.raw.index(0, start)].decode(errors="replace")
