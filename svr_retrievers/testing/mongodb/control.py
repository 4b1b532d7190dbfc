"""The settings of a deployment while it runs, for all of it and for single databases."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from svr_retrievers.testing.mongodb.documents import Document
from svr_retrievers.testing.mongodb.settings import Settings


class Control:
    """The settings of a deployment, and what single databases have set for themselves instead."""

    def __init__(self, settings: Settings) -> None:
        self._base = settings
        self._own: dict[str, Document] = {}
        self._changed = asyncio.Event()

    def of(self, database: str) -> Settings:
        own = self._own.get(database)
        return self._base.changed(own) if own else self._base

    def change(self, database: str, given: Document) -> None:
        """For all, when the database is `admin`; otherwise for that database alone."""
        if database == "admin":
            self._base = self._base.changed(given)
        else:
            self._base.changed(given)
            self._own[database] = self._own.get(database, {}) | given
        self._changed.set()

    async def reach(self, database: str, reached: Callable[[Settings, float], float]) -> None:
        """Until the seconds that `reached` still asks for, told the settings and the time that passed, are none.

        A change of the settings counts at once.
        """
        began = time.monotonic()
        while (left := reached(self.of(database), time.monotonic() - began)) > 0:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    def take_failure(self, database: str) -> str | None:
        """The message of the build that shall fail next, once."""
        message = self.of(database).fail_next_build
        if message is not None:
            owner = database if "failNextBuild" in self._own.get(database, {}) else "admin"
            self.change(owner, {"failNextBuild": None})
        return message

    def own_index_limit(self, database: str) -> bool:
        """Whether the limit of indexes counts this database's only."""
        return bool({"maxIndexes", "tier"} & self._own.get(database, {}).keys())
