"""Row 2: what the library adds to the database's own work, blocking and under eight concurrent clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median

from svr_retrievers.bench import ours
from svr_retrievers.bench.lab import Lab
from svr_retrievers.bench.postgres import floor
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.bench.timing import interleave

CLIENTS = 8
BLOCKS = 5
FLOOR, BLOCKING = "raw prepared query", "blocking client"


def measure(lab: Lab) -> Finding:
    """The same vectors in the same table under the same index. The floor is one prepared psycopg statement on
    one connection, settings made once a session, binary both ways, documents joined as the library joins them.
    Blocking: query by query in random order. Asynchronous: eight tasks empty a list of queries, in blocks, the
    two systems in turn; the floor's tasks share a psycopg pool of eight connections.
    """
    collection = lab.single
    where = floor.physical(lab.url, collection.name)
    queries = lab.main.corpus.queries
    systems = {FLOOR: floor.asker(lab.url, where, queries), BLOCKING: ours.asker(collection, queries)}
    series = interleave(systems, lab.main.testing, seed=lab.seed, rounds=2)
    truth = lab.main.truth()
    rates = asyncio.run(_throughput(lab, where))
    return Finding(
        checks=(
            Check("p50 relative to the raw query", series[BLOCKING].p50 / series[FLOOR].p50, most=1.5),
            Check("async throughput relative to the floor", rates[BLOCKING] / rates[FLOOR], least=0.6),
            Check("blocking p50 above the raw query, ms", series[BLOCKING].p50 - series[FLOOR].p50),
        ),
        medians={
            **{name: one.to_json(truth) for name, one in series.items()},
            "raw psycopg pool, 8 tasks, searches/s": round(rates[FLOOR]),
            "asynchronous client, 8 tasks, searches/s": round(rates[BLOCKING]),
        },
    )


async def _throughput(lab: Lab, where: floor.Physical) -> dict[str, float]:
    from svr_retrievers import AsyncSVRClient
    from svr_retrievers.settings import Settings

    queries = lab.main.corpus.queries
    rates: dict[str, list[float]] = {FLOOR: [], BLOCKING: []}
    settings = Settings.load(pool_min_connections=CLIENTS)
    async with AsyncSVRClient(lab.url, settings=settings) as client:
        collection = await client.collection(lab.single.name)

        async def search(query: int) -> object:
            return await collection.search(vector=queries.vectors[query], limit=10)

        async def both(raw: Callable[[int], Awaitable[object]]) -> None:
            for ask in (raw, search):
                await _block(ask, lab)
            for _ in range(BLOCKS):
                rates[FLOOR].append(await _block(raw, lab))
                rates[BLOCKING].append(await _block(search, lab))

        await floor.with_pool(lab.url, where, queries, CLIENTS, both)
    return {name: median(found) for name, found in rates.items()}


async def _block(ask: Callable[[int], Awaitable[object]], lab: Lab) -> float:
    """Searches per second of eight tasks that empty one list."""
    waiting = [int(q) for q in lab.main.testing]
    count = len(waiting)

    async def work() -> None:
        while waiting:
            await ask(waiting.pop())

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(CLIENTS)))
    return count / (time.perf_counter() - started)
