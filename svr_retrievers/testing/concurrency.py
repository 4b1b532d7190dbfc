"""Conformance: many tasks and threads at once on one collection."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from svr_retrievers.model import Document
from svr_retrievers.routing.schemes import by_field
from svr_retrievers.testing.base import Make, Suite
from svr_retrievers.testing.data import document, vector


class ConcurrencyConformance(Suite):
    def test_many_tasks_add_and_search_at_once(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"), filter_fields={"year": int}).aio

        async def work(worker: int) -> None:
            for step in range(5):
                await collection.add([document(worker * 5 + step)])
                result = await collection.search(vector=vector(worker), limit=200)
                assert len(set(result.ids)) == len(result) >= 1

        async def all_at_once() -> None:
            await asyncio.gather(*(work(worker) for worker in range(8)))
            assert await collection.count() == 40
            assert len(await collection.search(vector=vector(1), limit=100)) == 40

        asyncio.run(all_at_once())

    def test_many_threads_write_the_same_documents(self, make: Make) -> None:
        collection = make(partition_by=by_field("owner"))

        def work(worker: int) -> None:
            for step in range(6):
                owner = {"owner": f"o{(worker + step) % 4}"}
                collection.add(
                    [Document(f"same-{n}", metadata=owner, vector=vector(worker)) for n in range(5)]
                )

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        found = collection.find()
        assert [d.id for d in found] == [f"same-{n}" for n in range(5)]
        assert {d.version for d in found} == {48}
        hits = collection.search(vector=vector(1), limit=100)
        assert sorted(hits.ids) == [f"same-{n}" for n in range(5)]
        for hit in hits:
            assert hit.partition == f"owner={hit.metadata['owner']}"
        assert sum(p.stats.rows for p in collection.refresh()) == 5

    def test_deleting_and_adding_at_once_leave_what_was_last(self, make: Make) -> None:
        collection = make(partition_by=by_field("category"))

        def work(worker: int) -> None:
            for _ in range(5):
                collection.add([document(n) for n in range(6)])
                collection.delete([f"d{n:03d}" for n in range(worker % 6 + 1)])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        collection.add([document(n) for n in range(6)])
        assert collection.count() == 6
        assert len(collection.search(vector=vector(1), limit=50)) == 6
        assert sum(p.stats.rows for p in collection.refresh()) == 6
