"""The changes of a collection as a plain iterator."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from svr_retrievers.changes import Change
from svr_retrievers.collection.watching import AsyncChanges
from svr_retrievers.loopfree import Bridge


class Changes(Iterator[Change]):
    """The blocking face of AsyncChanges, open from the beginning. Close it, from any thread, to end the waiting."""

    def __init__(self, inner: AsyncChanges, bridge: Bridge) -> None:
        self._async = inner
        self._bridge = bridge
        bridge.run(inner.open)

    def __next__(self) -> Change:
        found = self._bridge.run(self._async.following)
        if found is None:
            raise StopIteration
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the stream, and whoever waits for its next change."""
        self._bridge.run(self._async.aclose)
