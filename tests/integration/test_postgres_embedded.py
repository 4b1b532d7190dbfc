"""The embedded server: shared by the processes that open its folder, gone with the last of them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from svr_retrievers import Settings, SVRClient, errors

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

SCRIPT = """
import sys
from svr_retrievers import SVRClient
from svr_retrievers.testing.data import documents, vector
with SVRClient(path=sys.argv[1]) as client:
    docs = client.create_collection("docs", dimensions=4, if_exists="open")
    docs.add(documents(int(sys.argv[2])))
    print(docs.count(), flush=True)
    sys.stdin.readline()
    print(len(docs.search(vector=vector(1), limit=50)), flush=True)
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="svr-embedded-"))
    yield folder / "data"
    left = _server(folder / "data")  # a killed process never says that it is gone
    if left is not None:
        left.send_signal(signal.SIGINT)
        psutil.wait_procs([left], timeout=20)
    shutil.rmtree(folder, ignore_errors=True)


def _process(folder: Path, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder), str(count)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _server(folder: Path) -> psutil.Process | None:
    """The running server of the folder."""
    lines = (
        (folder / "postmaster.pid").read_text().splitlines() if (folder / "postmaster.pid").exists() else []
    )
    return psutil.Process(int(lines[0])) if lines and psutil.pid_exists(int(lines[0])) else None


def test_processes_share_it_and_the_last_one_stops_it(folder: Path) -> None:
    first = _process(folder, 10)
    assert first.stdout is not None
    assert first.stdout.readline() == "10\n", first.stderr and first.stderr.read()
    server = _server(folder)
    assert server is not None
    second = _process(folder, 20)
    assert second.stdout is not None
    assert second.stdout.readline() == "20\n"
    assert _server(folder) == server
    out, error = first.communicate("\n", timeout=30)
    assert (out, first.returncode, error) == ("20\n", 0, "")
    assert server.is_running()
    out, error = second.communicate("\n", timeout=30)
    assert (out, second.returncode, error) == ("20\n", 0, "")
    psutil.wait_procs([server], timeout=20)
    assert not server.is_running()
    assert _server(folder) is None


def test_what_it_stored_is_there_at_the_next_start(folder: Path) -> None:
    again = _process(folder, 0)
    out, error = again.communicate("\n", timeout=60)
    assert (out, error) == ("20\n20\n", "")


def test_a_crash_of_a_process_loses_nothing_and_stops_nothing_else(folder: Path) -> None:
    survivor, victim = _process(folder, 21), None
    assert survivor.stdout is not None
    survivor.stdout.readline()
    victim = _process(folder, 22)
    assert victim.stdout is not None
    victim.stdout.readline()
    victim.kill()
    victim.communicate()
    out, error = survivor.communicate("\n", timeout=30)
    assert (out, error) == ("22\n", "")


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(errors.ConfigError, match="is a file"):
        SVRClient(path=file)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("keep me")
    with pytest.raises(errors.ConfigError, match="something else"):
        SVRClient(path=tmp_path / "full")
    assert (tmp_path / "full" / "letter.txt").read_text() == "keep me"
    assert [f.name for f in (tmp_path / "full").iterdir()] == ["letter.txt"]


def test_a_path_and_a_url_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(errors.InputError, match="path"):
        SVRClient("memory://", path=tmp_path, settings=Settings())
