"""Poolers in transaction mode before the test server: pgbouncer where it is installed, and one of our own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import secrets
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

if TYPE_CHECKING:
    from conftest import OwnServer

_SSL, _GSS, _CANCEL = 80877103, 80877104, 80877102
_REPORTED = (
    "server_version", "server_encoding", "client_encoding", "DateStyle", "TimeZone", "integer_datetimes",
    "standard_conforming_strings", "IntervalStyle", "is_superuser", "session_authorization", "in_hot_standby",
)  # fmt: skip


SESSIONS = 4


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Session:
    """A session of the server: opened and greeted by libpq, whose socket is then driven from here."""

    def __init__(self, url: str) -> None:
        self.pgconn = pq.PGconn.connect(url.encode())
        assert self.pgconn.status == pq.ConnStatus.OK, self.pgconn.error_message
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def open(self) -> _Session:
        own = socket.socket(fileno=os.dup(self.pgconn.socket))
        own.setblocking(False)
        self.reader, self.writer = await asyncio.open_connection(sock=own)
        return self

    def reported(self) -> Iterator[tuple[str, bytes]]:
        for name in _REPORTED:
            value = self.pgconn.parameter_status(name.encode())
            if value is not None:
                yield name, value

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()
        self.pgconn.finish()


class TransactionPooler:
    """Lends a client a session for one transaction at a time, and for the next one another.

    Nothing is cleaned in between: what a client prepares or sets in a session, the next one meets there.
    """

    def __init__(self, url: str, sessions: int) -> None:
        self.port = free_port()
        self._url = url
        self._most = sessions
        self._idle: deque[_Session] = deque()
        self._all: list[_Session] = []
        self._freed: asyncio.Condition
        self._working: dict[tuple[int, int], _Session] = {}
        self._loop: asyncio.AbstractEventLoop
        self._ready = threading.Event()
        self._stopped: asyncio.Event
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(30)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(30)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._freed = asyncio.Condition()
        for _ in range(self._most):
            self._all.append(await _Session(self._url).open())
        self._idle.extend(self._all)
        visits: set[asyncio.Task[None]] = set()

        async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            visits.add(task)
            try:
                await _Visit(self, reader, writer).run()
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            finally:
                visits.discard(task)
                writer.close()

        server = await asyncio.start_server(visit, "127.0.0.1", self.port)
        self._ready.set()
        await self._stopped.wait()
        server.close()
        for task in list(visits):
            task.cancel()
        await asyncio.gather(*visits, return_exceptions=True)
        for session in self._all:
            await session.close()

    async def borrow(self, key: tuple[int, int]) -> _Session:
        async with self._freed:
            await self._freed.wait_for(lambda: self._idle)
            self._working[key] = self._idle.popleft()
            return self._working[key]

    async def give_back(self, key: tuple[int, int], session: _Session, *, clean: bool = True) -> None:
        if self._working.get(key) is session:
            del self._working[key]
        if not clean:
            await session.close()
            self._all.remove(session)
            session = await (await asyncio.to_thread(_Session, self._url)).open()
            self._all.append(session)
        async with self._freed:
            self._idle.append(session)
            self._freed.notify()

    async def cancel(self, key: tuple[int, int]) -> None:
        if key in self._working:
            await asyncio.to_thread(self._working[key].pgconn.get_cancel().cancel)

    def reported(self) -> Iterator[tuple[str, bytes]]:
        return self._all[0].reported()


class _Visit:
    """One client's connection. `asked` holds what the server has yet to answer with ReadyForQuery."""

    def __init__(
        self, pooler: TransactionPooler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._pooler = pooler
        self._reader = reader
        self._writer = writer
        self._key = (secrets.randbelow(2**31), secrets.randbelow(2**31))
        self._session: _Session | None = None
        self._asked: deque[bytes] = deque()
        self._unfinished = False
        self._answers: asyncio.Task[None] | None = None

    async def run(self) -> None:
        if not await self._greeted():
            return
        try:
            while True:
                kind, message = await _message(self._reader)
                if kind == b"X":
                    return
                await self._forward(kind, message)
        finally:
            if self._answers is not None:
                self._answers.cancel()
                await asyncio.gather(self._answers, return_exceptions=True)
            if self._session is not None:
                await self._pooler.give_back(self._key, self._session, clean=False)

    async def _greeted(self) -> bool:
        while True:
            length, code = struct.unpack("!ii", await self._reader.readexactly(8))
            rest = await self._reader.readexactly(length - 8)
            if code == _CANCEL:
                pid, secret = struct.unpack("!ii", rest)
                await self._pooler.cancel((pid, secret))
                return False
            if code not in {_SSL, _GSS}:
                break
            self._writer.write(b"N")
        assert b"options" not in rest.split(b"\0")[::2], "poolers refuse options at start-up"
        self._writer.write(b"R" + struct.pack("!ii", 8, 0))
        for name, value in self._pooler.reported():
            body = name.encode() + b"\0" + value + b"\0"
            self._writer.write(b"S" + struct.pack("!i", 4 + len(body)) + body)
        self._writer.write(b"K" + struct.pack("!iii", 12, *self._key) + b"Z" + struct.pack("!i", 5) + b"I")
        await self._writer.drain()
        return True

    async def _forward(self, kind: bytes, message: bytes) -> None:
        if self._session is None:
            self._session = await self._pooler.borrow(self._key)
            self._answers = asyncio.create_task(self._answer(self._session))
        if kind != b"H":  # a request to flush begins nothing
            self._unfinished = kind not in {b"Q", b"S", b"d", b"c", b"f"}
        if kind in {b"Q", b"S"}:
            self._asked.append(kind)
        self._session.writer.write(message)
        await self._session.writer.drain()

    async def _answer(self, session: _Session) -> None:
        """Carries answers to the client until the transaction is over."""
        over = False
        try:
            while not over:
                kind, message = await _message(session.reader)
                if kind == b"G" and self._asked and self._asked[0] == b"S":
                    self._asked.popleft()  # in the middle of a COPY the server passes over Sync
                if kind == b"Z":
                    self._asked.popleft()
                    over = message[5:] == b"I" and not self._asked and not self._unfinished
                if over:
                    self._session = None
                self._writer.write(message)
            await self._pooler.give_back(self._key, session)
            await self._writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self._writer.close()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)


@contextlib.contextmanager
def pgbouncer(url: str, sessions: int) -> Iterator[int]:
    """The port of a pgbouncer in transaction mode that takes sessions in turn."""
    folder = Path(tempfile.mkdtemp(prefix="svr-pooler-"))
    parts = conninfo_to_dict(url)
    port = free_port()
    where = " ".join(f"{k}='{parts[k]}'" for k in ("host", "port", "dbname", "password") if parts.get(k))
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = {where} user={parts.get('user', 'postgres')}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = transaction\ndefault_pool_size = {sessions}\nmax_client_conn = 300\nserver_round_robin = 1\n"
    )
    config.chmod(0o644)
    folder.chmod(0o755)
    user = None
    if os.geteuid() == 0:  # as which it refuses to run
        user = pwd.getpwnam("nobody").pw_name
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [str(shutil.which("pgbouncer")), str(config)], stdout=log, stderr=log, user=user, cwd="/"
    )
    try:
        _listens(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(30)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _listens(port: int, process: subprocess.Popen[bytes]) -> None:
    """Waits until it lets a client through to the server."""
    where = f"host=127.0.0.1 port={port} user=postgres dbname=x connect_timeout=2"
    ends = time.monotonic() + 20
    while True:
        try:
            psycopg.connect(where, autocommit=True).close()
        except psycopg.OperationalError:
            assert process.poll() is None, "pgbouncer ended"
            assert time.monotonic() < ends, "pgbouncer does not listen"
        else:
            return


@contextlib.contextmanager
def stand_in(url: str, sessions: int) -> Iterator[int]:
    """The port of a pooler of our own."""
    pooler = TransactionPooler(url, sessions)
    pooler.start()
    try:
        yield pooler.port
    finally:
        pooler.stop()


@pytest.fixture(scope="module", params=["stand-in", "pgbouncer"])
def behind_url(request: pytest.FixtureRequest, own_server: OwnServer) -> tuple[str, str]:
    """The kind of pooler, and the URL of the database behind it, without it."""
    if request.param == "pgbouncer" and shutil.which("pgbouncer") is None:
        pytest.skip("pgbouncer is not installed")
    name = "behind_" + request.param.replace("-", "_")
    with psycopg.connect(own_server.url(), autocommit=True) as conn:
        conn.execute(f"create database {name}")
    with psycopg.connect(own_server.url(database=name), autocommit=True) as conn:
        conn.execute("create extension vector")
    return request.param, own_server.url(database=name)


@pytest.fixture(scope="module")
def pooled_url(behind_url: tuple[str, str]) -> Iterator[str]:
    """The URL of a pooler in transaction mode, with four sessions, before a server of the module's own."""
    kind, url = behind_url
    with (stand_in if kind == "stand-in" else pgbouncer)(url, SESSIONS) as port:
        yield f"postgresql://postgres@127.0.0.1:{port}/{url.rpartition('/')[2]}"
