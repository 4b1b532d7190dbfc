"""Opening waits a moment for a server that is not up yet, and not longer than it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from svr_retrievers import Settings, SVRClient
from svr_retrievers.errors import ConnectionFailed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@contextlib.contextmanager
def listening_after(seconds: float, port: int, target: Path) -> Iterator[None]:
    """A TCP door to the server's Unix socket that opens only after a while."""
    stopped = threading.Event()

    async def serve() -> None:
        visits: list[asyncio.Task[None] | None] = []

        async def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            visits.append(asyncio.current_task())
            inner_reader, inner_writer = await asyncio.open_unix_connection(str(target))
            await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))

        server = await asyncio.start_server(on_client, "127.0.0.1", port)
        await asyncio.to_thread(stopped.wait)
        server.close()
        await asyncio.gather(*(visit for visit in visits if visit is not None))

    timer = threading.Timer(seconds, lambda: asyncio.run(serve()))
    timer.start()
    try:
        yield
    finally:
        stopped.set()
        timer.join()


def test_a_server_that_comes_up_late_is_waited_for(postgres_url: str) -> None:
    parts = urlsplit(postgres_url)
    folder = Path(parse_qs(parts.query)["host"][0])
    if not folder.is_dir():
        pytest.skip("the server given for this run has no Unix socket")
    port = free_port()
    url = f"postgresql://postgres@127.0.0.1:{port}{parts.path}?gssencmode=disable&sslmode=disable"
    with (
        listening_after(0.5, port, folder / ".s.PGSQL.5432"),
        SVRClient(url, settings=Settings(connect_retry_seconds=20)) as client,
    ):
        assert client.list_collections() == []


def test_without_patience_a_closed_port_fails_at_once() -> None:
    with pytest.raises(ConnectionFailed, match=r"Connection refused\. Check host and port"):
        SVRClient(f"postgresql://u@127.0.0.1:{free_port()}/d", settings=Settings(connect_retry_seconds=0))
