"""Row 1: documents with vectors through the LangChain adapter, against the raw floor and langchain-postgres."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from statistics import median
from typing import cast

from svr_retrievers.bench import ours, peers
from svr_retrievers.bench.data import Rows
from svr_retrievers.bench.lab import Lab
from svr_retrievers.bench.peers import PeerUnavailable, peer
from svr_retrievers.bench.postgres.big_table import BigTable
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.model import JsonValue

BATCH = 1_000
OURS, FLOOR, THEIRS = "LangChain adapter", "raw COPY + upsert", "langchain-postgres"

Write = Callable[[int, int], float]


def measure(lab: Lab) -> Finding:
    """Median batch of 1,000 documents, the systems in turn, a batch each, into empty stores with keys and
    without vector indexes. Documents are made before the clock starts, and embeddings are laid ready as lists of
    floats, as the frameworks hand them over. The floor writes the same rows (text, JSON, filter columns, vector),
    also laid ready, by COPY BINARY into a staging table and an upsert, one transaction a batch. Ours writes into
    40 partitions, by category.
    """
    rows = lab.main.corpus.rows
    peers.write_data(lab.folder, lab.main.corpus, min(len(rows), lab.size.ingest))
    systems: dict[str, Write] = {FLOOR: _floor(lab, rows), OURS: _ours(lab, rows)}
    absent: dict[str, str] = {}
    try:
        with peer(THEIRS, lab.peers_python, lab.folder, url=lab.url, table="svr_bench_ingest") as other:
            systems[THEIRS] = lambda a, b: float(cast("float", other.call("add", start=a, stop=b)["ms"]))
            taken = _in_turn(systems, lab.size.ingest)
    except PeerUnavailable as error:
        absent[THEIRS] = str(error)
        systems.pop(THEIRS, None)
        taken = _in_turn(systems, lab.size.ingest)
    return _finding(taken, absent, min(BATCH, lab.size.ingest))


def _in_turn(systems: dict[str, Write], rows: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in systems}
    for start in range(0, rows, BATCH):
        for name, write in systems.items():
            taken[name].append(write(start, min(rows, start + BATCH)))
    return taken


def _finding(taken: dict[str, list[float]], absent: dict[str, str], batch: int) -> Finding:
    rate = {name: batch / median(ms) * 1e3 for name, ms in taken.items()}
    checks = [Check("rate relative to the raw floor", rate[OURS] / rate[FLOOR], least=0.5)]
    if THEIRS in rate:
        checks.append(Check("times the rate of langchain-postgres", rate[OURS] / rate[THEIRS], least=20.0))
    medians: dict[str, JsonValue] = {f"{name}, documents/s": round(value) for name, value in rate.items()}
    return Finding(checks, medians, absent=absent)


def _floor(lab: Lab, rows: Rows) -> Write:
    table = BigTable(lab.url, "ingest", lab.main.dimensions, ours.sql_types(rows))
    table.create()
    write = table.upserter()

    def timed(start: int, stop: int) -> float:
        made = [table.row(rows, number) for number in range(start, stop)]
        began = time.perf_counter()
        write(made)
        return (time.perf_counter() - began) * 1e3

    return timed


def _ours(lab: Lab, rows: Rows) -> Write:
    from svr_retrievers import by_field, flat

    module, core = import_module("langchain_svr"), import_module("langchain_core.documents")
    ready = ReadyEmbeddings()
    name = ours.PREFIX + "ingest"
    lab.client.drop_collection(name, missing_ok=True)
    store = module.SVRVectorStore(
        ready,
        collection=name,
        client=lab.client,
        partition_by=by_field("cat"),
        filter_fields=ours.declared(rows),
        index=flat(),
    )

    def timed(start: int, stop: int) -> float:
        ready.vectors = ours.lists_of(rows.vectors[start:stop])
        made = [
            core.Document(id=str(i), page_content=rows.text(i), metadata=rows.metadata(i))
            for i in range(start, stop)
        ]
        began = time.perf_counter()
        store.add_documents(made)
        return (time.perf_counter() - began) * 1e3

    return timed


class ReadyEmbeddings:
    """Hands out the vectors that were laid ready: embedding is not what is measured."""

    def __init__(self) -> None:
        self.vectors: list[list[float]] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        assert len(texts) == len(self.vectors)
        return self.vectors

    def embed_query(self, text: str) -> list[float]:
        raise LookupError(f"no vector is ready for {text!r}")
