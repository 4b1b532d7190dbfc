"""Row 9: building all indexes of a partitioned collection against building one big index."""

from __future__ import annotations

import time

from svr_retrievers import by_cluster, hnsw
from svr_retrievers.bench import ours
from svr_retrievers.bench.data import Corpus, corpus
from svr_retrievers.bench.lab import Lab
from svr_retrievers.bench.machine import cores
from svr_retrievers.bench.postgres import floor
from svr_retrievers.bench.postgres.big_table import BigTable
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.bench.sizes import DIMENSIONS
from svr_retrievers.model import JsonValue

ROWS_A_PARTITION = 4_000


def measure(lab: Lab) -> Finding:
    """The same rows, HNSW with m 16 and ef_construction 64, all cores. The big table: CREATE INDEX with a worker
    for each further core and 4 GB of memory. Ours: the collection is loaded, its indexes are dropped, and
    `refresh()` builds them all (it also counts rows and recomputes centroids and the calibration). Partitions
    hold about 4,000 rows. Each is built twice, in turn, and the faster one counts.
    """
    checks: list[Check] = []
    medians: dict[str, JsonValue] = {"cores": cores()}
    for rows in lab.size.builds:
        own = rows == lab.size.rows
        data = lab.corpus if own else corpus(rows, 0, 1, seed=lab.seed + 2, dimensions=DIMENSIONS)
        lab.say(f"building indexes over {rows:,} rows")
        ours_seconds, theirs, built = _built(lab, data)
        checks.append(Check(f"of the time of one big index, {rows:,} rows", ours_seconds / theirs, most=0.6))
        medians[f"{rows} rows"] = {
            "one big index, s": round(theirs, 2),
            f"refresh() with {built} indexes, s": round(ours_seconds, 2),
        }
    return Finding(checks, medians)


def _built(lab: Lab, data: Corpus) -> tuple[float, float, int]:
    name = "builds"
    table = BigTable(lab.url, name, DIMENSIONS)
    table.fill(data.rows)
    clusters = max(4, len(data.rows) // ROWS_A_PARTITION)
    collection = ours.create(lab.client, name, DIMENSIONS, by_cluster(clusters), hnsw(min_rows=500))
    ours.fill(collection, data.rows, first=ours.training_rows(clusters, len(data.rows)))
    mine, theirs, built = [], [], 0
    for _ in range(2):
        theirs.append(table.index())
        table.drop_index()
        built = floor.drop_indexes(lab.url, collection.name)
        started = time.perf_counter()
        collection.refresh()
        mine.append(time.perf_counter() - started)
    table.drop()
    lab.client.drop_collection(collection.name)
    return min(mine), min(theirs), built
