"""One address in front of one member: carries frames both ways, each client on a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable

from svr_retrievers.testing.mongodb.commands import Answering, Commands, Conversation, Step
from svr_retrievers.testing.mongodb.wire import Message, read

_BUFFER = 1 << 20  # bytes read ahead; messages may be larger
Address = tuple[str, int]
_ENDED = (OSError, asyncio.IncompleteReadError, ValueError)


class Front:
    """Listens until it is stopped; whatever happens on one connection ends that connection only."""

    def __init__(self, member: Address, commands: Commands) -> None:
        self._member = member
        self._commands = commands
        self._links: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """The port it listens on."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=_BUFFER)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        links = [*self._links]
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    @property
    def connections(self) -> int:
        return len(self._links)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        try:
            with contextlib.suppress(*_ENDED, asyncio.CancelledError):
                await self._linked(reader, writer)
        finally:
            self._links.discard(task)
            writer.transport.abort()

    async def _linked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._member, limit=_BUFFER)
        link = _Link(self._commands.conversation(), writer, server_writer)
        try:
            await _first(link.requests(reader), link.replies(server_reader))
        finally:
            server_writer.transport.abort()


class _Link:
    """A client and its connection to the server; `_waiting` says what is done to which reply."""

    def __init__(
        self, conversation: Conversation, client: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        self._conversation = conversation
        self._client = client
        self._server = server
        self._waiting: dict[int, Answering] = {}

    async def requests(self, reader: asyncio.StreamReader) -> None:
        while True:
            request = await read(reader)
            await self._take(await self._conversation.step(request))

    async def replies(self, reader: asyncio.StreamReader) -> None:
        while True:
            reply = await read(reader)
            answering = self._waiting.pop(reply.answers, None)
            if answering is None:
                await _send(self._client, reply)
                continue
            if reply.more_to_come:  # the next one of a stream answers this one
                self._waiting[reply.number] = answering
            await self._take(await answering(reply))

    async def _take(self, step: Step) -> None:
        if step.forward is not None:
            if step.on_reply is not None:
                self._waiting[step.forward.number] = step.on_reply
            await _send(self._server, step.forward)
        if step.answer is not None:
            await _send(self._client, step.answer)


async def _send(writer: asyncio.StreamWriter, message: Message) -> None:
    writer.write(message.raw)
    await writer.drain()


async def _first(*works: Awaitable[None]) -> None:
    """Until one of them ends, for whatever reason; the others end with it."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
