"""Row 9: building all indexes of a partitioned collection against building one big index."""

from __future__ import annotations

import time
from statistics import median

from svr_retrievers import hnsw
from svr_retrievers.bench.arena import Arena
from svr_retrievers.bench.lab import ROWS_A_PARTITION, Lab
from svr_retrievers.bench.machine import cores
from svr_retrievers.bench.postgres import floor
from svr_retrievers.bench.postgres.big_table import BigTable
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.model import JsonValue

ONCE_FROM = 500_000


def measure(lab: Lab) -> Finding:
    """The same rows, HNSW with m 16 and ef_construction 64, all cores. The big table: CREATE INDEX with a worker
    for each further core and 4 GB of memory. Ours: the collection is loaded, its indexes are dropped, and
    `build_indexes()` builds them all. Partitions hold about 4,000 rows, 16,000 of a million. Up to half a million
    rows each is built twice, in turn, and the median counts. What a whole `refresh()` takes besides, which also
    counts rows and measures centroids, recall and costs anew, is told as well.
    """
    checks: list[Check] = []
    medians: dict[str, JsonValue] = {"cores": cores()}
    for arena in _arenas(lab):
        rows = len(arena.corpus.rows)
        lab.say(f"building indexes over {rows:,} rows")
        mine, theirs, built = _built(arena, times=1 if rows >= ONCE_FROM else 2)
        started = time.perf_counter()
        arena.routed.refresh()
        rest = time.perf_counter() - started
        checks.append(Check(f"time relative to one big index, {rows:,} rows", mine / theirs, most=0.6))
        medians[f"{rows} rows"] = {
            "one big index, s": round(theirs, 2),
            f"{built} indexes, s": round(mine, 2),
            "refresh() besides, s": round(rest, 2),
        }
        if arena.name == "builds":
            arena.release()
    return Finding(checks, medians)


def _arenas(lab: Lab) -> list[Arena]:
    rows = lab.main.corpus
    clusters = max(4, len(rows.rows) // ROWS_A_PARTITION)
    own = Arena("builds", lab.url, lab.client, rows, clusters, lab.size.tuning, lab.say, hnsw(min_rows=500))
    return [own, lab.million] if lab.size.million else [own]


def _built(arena: Arena, *, times: int) -> tuple[float, float, int]:
    theirs, mine, built = [], [], 0
    big: BigTable = arena.big
    theirs.append(arena.build_seconds["one big index, defaults"])
    for turn in range(times):
        if turn:
            big.drop_index()
            theirs.append(big.index())
        built = floor.drop_indexes(arena.url, arena.routed.name)
        started = time.perf_counter()
        arena.routed.build_indexes()
        mine.append(time.perf_counter() - started)
        there = floor.indexed(floor.physical(arena.url, arena.routed.name))
        if there < built:
            raise RuntimeError(f"{there} of {built} indexes were built: the time means nothing")
    return median(mine), median(theirs), built
