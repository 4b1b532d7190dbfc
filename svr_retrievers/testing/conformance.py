"""The suite that every backend passes: subclass it in a test module and say how a client is made.

    class TestMine(CollectionConformance):
        @pytest.fixture
        def make_client(self):
            return lambda: SVRClient("postgresql://...")

It speaks only through the public client, so it holds for what users see. Set `persistent = False` for a
backend whose clients do not share a store, and `index` to run everything over one kind of index.
"""

from __future__ import annotations

from svr_retrievers.testing.base import MakeClient, Suite
from svr_retrievers.testing.collections import CollectionsConformance
from svr_retrievers.testing.concurrency import ConcurrencyConformance
from svr_retrievers.testing.partitioning import PartitioningConformance
from svr_retrievers.testing.reading import ReadingConformance
from svr_retrievers.testing.scanning import ScanningConformance
from svr_retrievers.testing.searching import SearchingConformance
from svr_retrievers.testing.words import WordsConformance
from svr_retrievers.testing.writing import WritingConformance


class CollectionConformance(
    CollectionsConformance,
    WritingConformance,
    ReadingConformance,
    ScanningConformance,
    SearchingConformance,
    WordsConformance,
    PartitioningConformance,
    ConcurrencyConformance,
):
    """Everything promised about clients and collections."""


__all__ = ["CollectionConformance", "MakeClient", "Suite"]
