"""The command line `svr`: runs a command, and turns every failure into one line and an exit code.

0: done. 1: `svr doctor` found something to mend. 2: an error, told in one line. 130: interrupted.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from svr_retrievers.errors import SVRError

DEBUG = "--debug"
EXTRA_OF = {
    "cyclopts": "cli",
    "rich": "cli",
    "psycopg": "postgres",
    "pgvector": "postgres",
    "pymongo": "mongodb",
}
INTERRUPTED, BROKEN_PIPE, ERROR = 130, 141, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. `--debug` anywhere shows the traceback of an error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in words
    try:
        return _run([word for word in words if word != DEBUG])
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _close_output()
    except Exception as error:
        if debug:
            raise
        return _fail(_told(error))


def _run(words: Sequence[str]) -> int:
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        from svr_retrievers.cli.app import run

        code = run(words)
    sys.stdout.flush()
    return code


def _told(error: Exception) -> str:
    if isinstance(error, SVRError):
        return str(error)
    missing = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    if missing in EXTRA_OF:
        return f'{missing} is not installed; run: pip install "svr-retrievers[{EXTRA_OF[missing]}]"'
    from cyclopts import CycloptsError

    if isinstance(error, CycloptsError):
        return f"{error} See: {' '.join(('svr', *(error.command_chain or ())))} --help"
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    return f"unexpected {type(error).__name__}: {error}. Run again with {DEBUG} for the traceback."


def _fail(message: str) -> int:
    print(f"svr: error: {' '.join(message.split())}", file=sys.stderr)
    return ERROR


def _close_output() -> int:
    """The reader has gone: nothing more is written, also not at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE
