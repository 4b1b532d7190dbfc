"""Row 8: the routing decision alone, without the database, at growing numbers of partitions."""

from __future__ import annotations

import asyncio
import time

import numpy as np

from svr_retrievers import by_cluster
from svr_retrievers.backends.indexes import IndexSpec
from svr_retrievers.backends.memory import MemoryBackend
from svr_retrievers.backends.protocol import CollectionConfig, CollectionRef, MapState
from svr_retrievers.bench.data import corpus
from svr_retrievers.bench.lab import Lab
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.bench.sizes import DIMENSIONS
from svr_retrievers.model import (
    JsonValue,
    Metric,
    Partition,
    PartitionKey,
    PartitionMap,
    PartitionStats,
    Vector,
)
from svr_retrievers.routing.plan import Wish
from svr_retrievers.routing.probe import Calibration
from svr_retrievers.search.execute import Engine
from svr_retrievers.search.view import View

MOST_MS = {100: 0.05, 10_000: 0.3, 100_000: 1.5}
CALIBRATION = Calibration(0.02, {0.8: 0.5, 0.9: 0.7, 0.95: 0.85, 0.99: 0.97}, 1)
SCHEMES_MOST = 10_000
_ASKED = 200


def measure(lab: Lab) -> Finding:
    """One centroid of 384 dimensions a partition, drawn from the corpus's own distribution, and a calibrated
    softmax over them for the default recall target. Timed around the engine's own `route`, on the event loop,
    as a search calls it; median of 200 queries after a warm-up.
    """
    most = max(lab.size.routed)
    drawn = corpus(most, 0, _ASKED, seed=lab.seed, dimensions=DIMENSIONS)
    medians: dict[str, JsonValue] = {}
    checks = []
    for count in lab.size.routed:
        times, probes = asyncio.run(_timed(drawn.rows.vectors[:count], drawn.queries.vectors))
        p50 = float(np.median(times))
        checks.append(Check(f"p50 at {count:,} partitions, ms", p50, most=MOST_MS.get(count)))
        medians[f"{count} partitions"] = {
            "p50_ms": round(p50, 4),
            "p95_ms": round(float(np.percentile(times, 95)), 4),
            "mean_probes": round(probes, 2),
        }
    return Finding(checks, medians)


async def _timed(centroids: Vector, queries: Vector) -> tuple[list[float], float]:
    view = View(MapState(_map(centroids), CALIBRATION), Metric.COSINE)
    scheme = by_cluster(min(len(centroids), SCHEMES_MOST))
    ref = CollectionRef(1, CollectionConfig("routing", DIMENSIONS, scheme=scheme, index=IndexSpec()))
    engine = Engine(MemoryBackend(), ref, 1)
    wish = Wish()
    times, probes = [], []
    for number, query in enumerate((*queries[:20], *queries)):
        started = time.perf_counter()
        planned = await engine.route(view, wish, query)
        took = (time.perf_counter() - started) * 1e3
        if number >= 20:
            times.append(took)
            probes.append(len(planned.route.partitions))
    return times, float(np.mean(probes))


def _map(centroids: Vector) -> PartitionMap:
    return PartitionMap(
        1,
        [
            Partition(
                i + 1,
                f"cluster-{i}",
                PartitionKey("cluster", str(i)),
                stats=PartitionStats(
                    1_000, centroids[i : i + 1], np.ones(1, np.float32), 1_000, indexed=True
                ),
            )
            for i in range(len(centroids))
        ],
    )
