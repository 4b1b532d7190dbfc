"""A process that claims a lease again and again, and records its token under it; run by test_control_chaos.py.

Prints the id of each event once its transaction is committed. Ends when it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator

from svr_retrievers.control.protocol import Event, Lease, Work
from svr_retrievers.errors import LeaseLost, SVRError

TTL_SECONDS = 0.3


@contextlib.asynccontextmanager
async def opened(kind: str, url: str, place: str) -> AsyncIterator[Work]:
    if kind == "postgres":
        from svr_retrievers import Settings
        from svr_retrievers.backends.postgres.connection import borrowed, make_pool
        from svr_retrievers.control.postgres_work import PostgresWork

        async with make_pool(url, Settings(pool_max_connections=4)) as pool:
            yield PostgresWork(lambda: borrowed(pool), schema=place)
    else:
        from pymongo import AsyncMongoClient

        from svr_retrievers.backends.mongodb.connection import translated
        from svr_retrievers.control.mongodb_work import MongoWork

        async with AsyncMongoClient(url) as client:
            yield MongoWork(client[place], translated)


async def record(work: Work, lease: Lease) -> None:
    event = Event("job", "test.done", {"token": lease.token, "holder": lease.holder})

    async def write(transaction: object) -> None:
        await work.leases.fence(lease, within=transaction)
        await work.outbox.append([event], within=transaction)

    await work.transact(write)
    sys.stdout.write(f"{event.id}\n")
    sys.stdout.flush()


async def once(work: Work, holder: str, chance: random.Random) -> None:
    lease = await work.leases.claim("job", holder, TTL_SECONDS)
    if lease is None:
        await asyncio.sleep(0.01)
        return
    for _ in range(chance.randrange(1, 8)):
        await record(work, lease)
        if chance.random() < 0.3:
            lease = await work.leases.renew(lease)
    if chance.random() < 0.5:
        await work.leases.release(lease)


async def main(kind: str, url: str, place: str, holder: str) -> None:
    chance = random.Random(holder)
    async with opened(kind, url, place) as work:
        while True:
            with contextlib.suppress(LeaseLost, SVRError):
                await once(work, holder, chance)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
