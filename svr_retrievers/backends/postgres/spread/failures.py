"""What a further server's failure is turned into."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from psycopg import errors

from svr_retrievers.errors import ConnectionFailed


@contextlib.contextmanager
def reaching(name: str) -> Iterator[None]:
    """Inside, a failure to reach the server becomes ConnectionFailed, which names it."""
    try:
        yield
    except (errors.Error, ConnectionFailed) as error:
        cause = error.__cause__ if isinstance(error, ConnectionFailed) else error
        if not isinstance(cause, errors.Error) or not unreachable(cause):
            raise
        raise ConnectionFailed(
            f"The server {name!r} cannot be reached: {_reason(cause)}.",
            hint="Check that it is up and that the main server can reach it.",
        ) from cause


class LeftBehind(Exception):
    """A row is on the server already, from a write that was interrupted between the servers."""


@contextlib.contextmanager
def conflicting() -> Iterator[None]:
    """Inside, a key that is there already becomes LeftBehind."""
    try:
        yield
    except errors.UniqueViolation as error:
        raise LeftBehind from error


def unreachable(error: errors.Error) -> bool:
    """Whether the main server answered that another one does not."""
    state = error.sqlstate or ""
    return state.startswith(("08", "57P")) and error.diag.severity_nonlocalized == "ERROR"


def _reason(error: errors.Error) -> str:
    text = (error.diag.message_detail or error.diag.message_primary or "no reason given").strip()
    return text.splitlines()[0].rstrip(".")
