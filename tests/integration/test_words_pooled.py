"""Words behind a pooler in transaction mode: made once, searched, and no setting left to others."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from svr_retrievers import AsyncSVRClient, Document, SVRClient

pytestmark = [pytest.mark.hybrid, pytest.mark.postgres, pytest.mark.slow]


def test_two_clients_ask_for_the_first_words_at_once(pooled_url: str, behind_url: tuple[str, str]) -> None:
    with SVRClient(pooled_url) as client:
        papers = client.create_collection("papers", dimensions=2)
        papers.add([Document(f"d{n}", f"zeppelin number{n}", vector=[1.0, n / 900]) for n in range(900)])

        async def ask() -> list[int]:
            async with AsyncSVRClient(pooled_url) as one, AsyncSVRClient(pooled_url) as two:
                both = [await each.collection("papers") for each in (one, two)]
                await asyncio.gather(*(each.keywords(text="zeppelin") for each in both))
                await both[0].refresh()
                return [len(await each.keywords(text="zeppelin", limit=1_000)) for each in both]

        assert asyncio.run(ask()) == [900, 900]
        assert papers.keywords(text="number77").ids == ("d77",)
        assert papers.hybrid(text="number77", vector=[1.0, 0.5], limit=1)[0].legs is not None
        with psycopg.connect(behind_url[1]) as conn:
            held = conn.execute("select count(*) from pg_locks where locktype = 'advisory'").fetchone()
        assert held == (0,)
        client.drop_collection("papers")
