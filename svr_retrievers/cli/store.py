"""What all commands share: which database, how it is opened, and how output is printed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import anyio
from cyclopts import Parameter
from rich.console import Console

from svr_retrievers import Collection, SVRClient, embedded
from svr_retrievers.errors import CollectionNotFound, InputError
from svr_retrievers.settings import Settings

PIPED_WIDTH = 100


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Store:
    """Which database. Without either option: SVR_URL, then SVR_PATH, then the embedded PostgreSQL.

    Parameters
    ----------
    url
        postgresql://user@host/database or mongodb+srv://user@cluster/database.
    path
        Data folder of the embedded PostgreSQL.
    """

    url: str | None = None
    path: Annotated[Path | None, Parameter(name=("--path", "--data-path"))] = None

    def client(self) -> SVRClient:
        return SVRClient(self.url, path=self.path, settings=Settings.load())

    def database_url(self, settings: Settings) -> str:
        """The database's URL itself, for what goes around the client. May start the embedded server."""
        given = self.url
        if given is None and self.path is None and settings.url is not None:
            given = settings.url.get_secret_value()
        return given if given is not None else anyio.run(embedded.start, self.path or settings.path)

    @contextmanager
    def collection(self, name: str) -> Iterator[Collection]:
        with self.client() as client:
            yield found(client, name)


HERE = Store()
Json = Annotated[bool, Parameter(negative=(), help="Print JSON.")]


def found(client: SVRClient, name: str) -> Collection:
    """The collection, or an error that says what a reader of a terminal can do."""
    try:
        return client.collection(name)
    except CollectionNotFound as error:
        names = client.list_collections()
        there = f"There are: {', '.join(names[:10])}." if names else "There are no collections yet."
        raise CollectionNotFound(error.message, hint=f"{there} See: svr collections list") from None


def console() -> Console:
    """The terminal's own width; a fixed one where output is piped into a file or another program."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=PIPED_WIDTH if piped else None, highlight=False)


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def read_json(option: str, text: str) -> object:
    """The value of a JSON option, given in place or as @FILE."""
    try:
        source = Path(text[1:]).read_text("utf-8") if text.startswith("@") else text
        value: object = json.loads(source)
    except OSError as error:
        raise InputError(f"{option}: {text[1:]} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise InputError(
            f"{option} is not JSON: {error}.", hint="Quote it for the shell, in single quotes."
        ) from None
    return value
