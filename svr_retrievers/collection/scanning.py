"""Reading a whole collection, or what of it matches, some documents at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from svr_retrievers.backends.protocol import Selection
from svr_retrievers.collection.reading import CollectionReads
from svr_retrievers.model import DEFAULT_NAMESPACE, Document
from svr_retrievers.search.request import check_flag, check_whole

MOST_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class Scan:
    """What one scan reads, checked, and how many documents at a time."""

    which: Selection
    batch_size: int
    with_vectors: bool


class CollectionScan(CollectionReads):
    """The call that reads everything."""

    def scan(
        self,
        filter: Mapping[str, object] | None = None,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        batch_size: int = 1_000,
        with_vectors: bool = False,
    ) -> AsyncIterator[Document]:
        """Every document of the namespace that matches, ordered by id: `async for document in collection.scan()`.

        Memory holds `batch_size` documents (up to 10,000), however many there are, and nothing is held on the server
        between two batches, so that a scan may take as long as it likes. Others may write meanwhile: a document that
        matches from the first to the last moment comes exactly once, none comes twice, and what comes or goes
        meanwhile is there or not. Each batch is as new as the moment it is read.
        """
        asked = self._scan(filter, namespace, batch_size, with_vectors)
        return self._scanned(asked)

    async def _scanned(self, asked: Scan) -> AsyncIterator[Document]:
        last: str | None = None
        while True:
            page = await self._page(asked, last)
            for document in page:
                yield document
            if len(page) < asked.batch_size:
                return
            last = page[-1].id

    def _scan(
        self, filter: Mapping[str, object] | None, namespace: str, batch_size: int, with_vectors: bool
    ) -> Scan:
        check_whole("batch_size", batch_size, 1, MOST_AT_ONCE)
        check_flag("with_vectors", with_vectors)
        if with_vectors:
            self._check_has_vectors("with_vectors")
        return Scan(self._selection(filter, None, namespace), batch_size, with_vectors)

    async def _page(self, asked: Scan, after: str | None) -> list[Document]:
        """The next documents behind the id; fewer than a batch where these are the last."""
        return await self._on_current_map(
            lambda view: self._backend.find(
                self._ref,
                view.map,
                self._narrowed(view, asked.which),
                limit=asked.batch_size,
                with_vectors=asked.with_vectors,
                after=after,
            )
        )
