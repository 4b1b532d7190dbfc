"""One server with a stand-in for all processes of a test run, ended with the run whatever becomes of it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_END_SECONDS = 30.0
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # tests keep the other cores busy


def start(watched: int, options: Sequence[str] = ()) -> tuple[subprocess.Popen[str], str]:
    """The process and its URI; it ends, and its server with it, once the process `watched` is gone.

    Raises RuntimeError with what it said when it does not come up.
    """
    module = [sys.executable, "-m", "svr_retrievers.testing.mongodb", "--while", str(watched), *options]
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(  # noqa: S603 - our own module
            module,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env=os.environ | _ONE_THREAD,
        )
        assert process.stdout is not None
        with process.stdout as said:
            uri = said.readline().strip()
        if not uri:
            process.wait(_END_SECONDS)
            complaints.seek(0)
            raise RuntimeError(f"the stand-in did not start: {complaints.read()[-2000:]}")
    return process, uri


def end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait(_END_SECONDS)


def uri_for_run(folder: Path, run: int) -> str:
    """The same URI for all who name that folder: the first one starts the server. `run` is the run's process."""
    known = folder / "mongodb-uri"
    with (folder / "mongodb-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not known.exists():
            process, uri = start(run)
            process.returncode = 0  # it outlives this process on purpose: nothing to warn about
            known.write_text(uri)
        return known.read_text()
