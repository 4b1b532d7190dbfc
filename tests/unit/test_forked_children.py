"""A child forked from a process that used a blocking client runs, and ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

BODY = """
import os, sys
from svr_retrievers import SVRClient
client = SVRClient("memory://")
client.list_collections()
{then}
child = os.fork()
if child == 0:
    sys.exit(7)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("then", ["", "client.close(); del client"], ids=["open", "closed"])
def test_a_forked_child_ends_as_any_process_does(then: str) -> None:
    """Through the interpreter's own end, which collects what the parent left there."""
    script = BODY.format(then=then)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert done.stdout.strip() == "7", done.stderr
