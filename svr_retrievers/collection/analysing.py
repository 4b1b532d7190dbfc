"""Looking at the stored metadata to say which fields should be declared."""

from __future__ import annotations

from collections import defaultdict

import anyio.to_thread
import numpy as np

from svr_retrievers.backends.protocol import Selection
from svr_retrievers.collection.state import CollectionState
from svr_retrievers.filters import ALL
from svr_retrievers.filters.advice import Analysis, Sample, advise
from svr_retrievers.model import Document
from svr_retrievers.search.view import View

SAMPLED_DOCUMENTS = 1_000


class CollectionAnalysis(CollectionState):
    """The call that judges the fields of a collection."""

    async def analyze(self) -> Analysis:
        """Which fields of the metadata to declare as filter fields, and which could be the partition key.

        Judged from a sample of 1,000 documents, and from what searches of this client have filtered on.
        """
        await self._reload()
        documents = await self._on_current_map(self._sampled)
        rows = max(self._view.map.rows, len(documents))
        sample = Sample(
            [document.metadata for document in documents],  # type: ignore[misc]
            np.stack([np.asarray(d.vector, dtype=np.float32) for d in documents])
            if documents and self._ref.config.embedding is None
            else np.empty((0, self.dimensions), dtype=np.float32),
            rows,
        )
        asked, searches = dict(self._asked), self._filtered_searches
        return await anyio.to_thread.run_sync(
            advise, self.name, sample, self._ref.config.fields, asked, searches
        )

    async def _sampled(self, view: View) -> list[Document]:
        keys = await self._backend.sample_keys(self._ref, view.map, SAMPLED_DOCUMENTS)
        by_namespace: defaultdict[str, list[str]] = defaultdict(list)
        for namespace, doc_id in keys:
            by_namespace[namespace].append(doc_id)
        found: list[Document] = []
        for namespace, ids in by_namespace.items():
            which = Selection(namespace, ALL, tuple(ids))
            found += await self._backend.find(
                self._ref, view.map, which, limit=None, with_vectors=self._ref.config.embedding is None
            )
        return found
