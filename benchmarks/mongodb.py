"""Ingest and search through the MongoDB backend beside plain PyMongo doing the same work, in one run.

    python benchmarks/mongodb.py [--rows N] [--dimensions D] [--repeats R] [--json FILE]

Both sides talk to one server (SVR_TEST_MONGODB_URI, or mongod with the stand-in for Atlas search in front).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from pymongo import AsyncMongoClient, ReplaceOne
from pymongo.monitoring import CommandListener
from rich.console import Console
from rich.table import Table

from svr_retrievers import AsyncSVRClient, Document, hnsw
from svr_retrievers.backends.mongodb import connection
from svr_retrievers.backends.mongodb.encoding import encode_vectors
from svr_retrievers.testing.data import topics

BATCH = 1_000
QUESTIONS = 100
GOALS = {"ingest": ("at least", 0.5), "search p50": ("at most", 1.5), "filtered p50": ("at most", 1.5)}


@contextmanager
def deployment() -> Iterator[str]:
    given = os.environ.get("SVR_TEST_MONGODB_URI")
    if given:
        yield given
        return
    from svr_retrievers.testing.mongodb import shared

    process, uri = shared.start(os.getpid())
    try:
        yield uri
    finally:
        shared.end(process)


def with_database(uri: str, name: str) -> str:
    head, _, options = uri.partition("?")
    return f"{head.rstrip('/')}/{name}" + (f"?{options}" if options else "")


async def plain_ingest(uri: str, rows: np.ndarray, texts: list[str], *, upsert: bool) -> float:
    """Rows a second by unordered writes of BinData vectors, acknowledged by a majority, with the search index there."""
    async with AsyncMongoClient(uri, w="majority") as client:
        documents = client.get_default_database()["plain"]
        await documents.create_index("metadata.topic")
        await plain_index(uri, rows.shape[1])
        started = time.perf_counter()
        for at in range(0, len(rows), BATCH):
            vectors = encode_vectors(rows[at : at + BATCH], "float32")
            made = [
                {
                    "_id": f"d{at + n}",
                    "text": texts[at + n],
                    "embedding": v,
                    "metadata": {"topic": (at + n) % 10},
                }
                for n, v in enumerate(vectors)
            ]
            if upsert:
                await documents.bulk_write(
                    [ReplaceOne({"_id": each["_id"]}, each, upsert=True) for each in made], ordered=False
                )
            else:
                await documents.insert_many(made, ordered=False)
        return len(rows) / (time.perf_counter() - started)


async def our_ingest(uri: str, rows: np.ndarray, texts: list[str]) -> float:
    async with AsyncSVRClient(uri) as client:
        made = await client.create_collection(
            "ours", dimensions=rows.shape[1], filter_fields={"topic": int}, index=hnsw(min_rows=0)
        )
        started = time.perf_counter()
        for at in range(0, len(rows), BATCH):
            await made.add(
                [
                    Document(f"d{n}", texts[n], {"topic": n % 10})
                    for n in range(at, min(at + BATCH, len(rows)))
                ],
                vectors=rows[at : at + BATCH],
            )
        return len(rows) / (time.perf_counter() - started)


async def plain_index(uri: str, dimensions: int) -> None:
    from pymongo.operations import SearchIndexModel

    fields = [
        {"type": "vector", "path": "embedding", "numDimensions": dimensions, "similarity": "cosine"},
        {"type": "filter", "path": "metadata.topic"},
    ]
    async with AsyncMongoClient(uri) as client:
        documents = client.get_default_database()["plain"]
        await documents.create_search_index(SearchIndexModel({"fields": fields}, "plain", "vectorSearch"))
        while True:
            found = await (await documents.list_search_indexes("plain")).to_list()
            if found and found[0]["status"] == "READY" and found[0]["queryable"]:
                return
            await asyncio.sleep(0.05)


async def plain_search(uri: str, questions: np.ndarray, condition: dict | None) -> list[float]:
    async with AsyncMongoClient(uri) as client:
        documents = client.get_default_database()["plain"]
        took = []
        for question in questions:
            started = time.perf_counter()
            stage = {
                "index": "plain", "path": "embedding", "queryVector": encode_vectors(question[None], "float32")[0],
                "limit": 10, "numCandidates": 200,
            }  # fmt: skip
            if condition:
                stage["filter"] = {f"metadata.{k}": v for k, v in condition.items()}
            cursor = await documents.aggregate(
                [
                    {"$vectorSearch": stage},
                    {"$project": {"text": 1, "metadata": 1, "score": {"$meta": "vectorSearchScore"}}},
                ]
            )
            found = await cursor.to_list()
            took.append(time.perf_counter() - started)
            assert len(found) == 10
        return took


class Commands(CommandListener):
    """Counts the commands that are sent, by name."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def started(self, event) -> None:  # noqa: ANN001
        self.counts[event.command_name] = self.counts.get(event.command_name, 0) + 1

    def succeeded(self, event) -> None:  # noqa: ANN001
        """Nothing to count."""

    def failed(self, event) -> None:  # noqa: ANN001
        """Nothing to count."""


async def our_search(uri: str, questions: np.ndarray, condition: dict | None) -> tuple[list[float], float]:
    """Seconds a search, and commands a search."""
    commands = Commands()
    connection.AsyncMongoClient = partial(AsyncMongoClient, event_listeners=[commands])
    async with AsyncSVRClient(uri) as client:
        made = await client.collection("ours")
        await made.refresh()
        for question in questions[:3]:
            await made.search(vector=question, limit=10, filter=condition)
        commands.counts.clear()
        took = []
        for question in questions:
            started = time.perf_counter()
            found = await made.search(vector=question, limit=10, filter=condition)
            took.append(time.perf_counter() - started)
            assert len(found) == 10
    connection.AsyncMongoClient = AsyncMongoClient
    return took, sum(commands.counts.values()) / len(questions)


async def measured(uri: str, rows: int, dimensions: int, repeats: int) -> dict[str, object]:
    vectors = topics(rows, dimensions, count=64, seed=3)
    questions = topics(QUESTIONS, dimensions, count=64, seed=5)
    texts = [f"Document {n}: " + "some words to read " * 10 for n in range(rows)]
    ingests: dict[str, list[tuple[float, float]]] = {"ingest": [], "ingest beside insert_many": []}
    for _ in range(repeats):
        for what, upsert in (("ingest beside insert_many", False), ("ingest", True)):
            last = with_database(uri, f"bench_{secrets.token_hex(4)}")
            plain = await plain_ingest(last, vectors, texts, upsert=upsert)
            ingests[what].append((plain, await our_ingest(last, vectors, texts)))
    found: dict[str, object] = {"rows": rows, "dimensions": dimensions}
    for what, pairs in ingests.items():
        found[what] = {
            "plain": statistics.median(p for p, _ in pairs),
            "ours": statistics.median(o for _, o in pairs),
            "ratio": statistics.median(o / p for p, o in pairs),
        }
    for label, condition in (("search p50", None), ("filtered p50", {"topic": 3})):
        plain_times: list[float] = []
        our_times: list[float] = []
        trips = 0.0
        for _ in range(repeats):
            plain_times += await plain_search(last, questions, condition)
            took, trips = await our_search(last, questions, condition)
            our_times += took
        p, o = statistics.median(plain_times) * 1e3, statistics.median(our_times) * 1e3
        found[label] = {"plain": p, "ours": o, "ratio": o / p, "round trips": trips}
    async with AsyncMongoClient(uri) as client:
        for each in await client.list_database_names():
            if each.startswith("bench_"):
                await client.drop_database(each)
    return found


def printed(found: dict[str, object]) -> Table:
    table = Table(
        title=f"MongoDB: {found['rows']:,} rows of {found['dimensions']} dimensions, medians of one run"
    )
    for head in ("what", "plain PyMongo", "ours", "ratio", "goal", "round trips"):
        table.add_column(head, justify="left" if head == "what" else "right")
    for what, each in found.items():
        if not isinstance(each, dict):
            continue
        unit = "rows/s" if what.startswith("ingest") else "ms"
        way, goal = GOALS.get(what, ("", ""))
        table.add_row(
            what, f"{each['plain']:,.1f} {unit}", f"{each['ours']:,.1f} {unit}", f"{each['ratio']:.2f}",
            f"{way} {goal}", f"{each['round trips']:.2f}" if "round trips" in each else "",
        )  # fmt: skip
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with deployment() as uri:
        found = asyncio.run(measured(uri, given.rows, given.dimensions, given.repeats))
    Console(width=110).print(printed(found))
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
