"""Row 8: the routing decision alone, without the database, at growing numbers of partitions."""

from __future__ import annotations

import asyncio
import time

import numpy as np

from svr_retrievers import by_cluster
from svr_retrievers.backends.protocol import MapState
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
from svr_retrievers.routing.probe import Calibration, Depth
from svr_retrievers.search.view import View

MOST_MS = {100: 0.05, 10_000: 0.3, 100_000: 1.5}
_GAINS = {0.8: 0.4, 0.9: 0.2, 0.95: 0.1, 0.98: 0.05, 0.99: 0.025, 0.995: 0.012, 0.999: 0.005}
CALIBRATION = Calibration((Depth(1.0, 15.0, 0.8, 8.0, _GAINS, dict.fromkeys(_GAINS, 1.5)),), 1)
"""As a collection of 64 clusters and 50,000 rows was calibrated."""
SCHEMES_MOST = 10_000
_ASKED, _WARM = 200, 20


def measure(lab: Lab) -> Finding:
    """One centroid of 384 dimensions a partition, drawn from the corpus's own distribution, and a calibrated
    softmax over them for the default recall target. Timed around the route that a search takes, on the event
    loop; median of 200 queries after a warm-up. Beside it the share of the routes that name the closest partition
    of all: a decision must not be quick by looking away.
    """
    most = max(lab.size.routed)
    drawn = corpus(most, 0, _ASKED, seed=lab.seed, dimensions=DIMENSIONS)
    medians: dict[str, JsonValue] = {}
    checks = []
    for count in lab.size.routed:
        centroids = drawn.rows.vectors[:count]
        times, routes = asyncio.run(_timed(centroids, drawn.queries.vectors))
        closest = np.argmax(drawn.queries.vectors @ centroids.T, axis=1) + 1
        named = np.mean([one in route for one, route in zip(closest.tolist(), routes, strict=True)])
        p50 = float(np.median(times))
        checks.append(Check(f"p50 at {count:,} partitions, ms", p50, most=MOST_MS.get(count)))
        checks.append(Check(f"routes with the closest of {count:,}", float(named)))
        medians[f"{count} partitions"] = {
            "p50_ms": round(p50, 4),
            "p95_ms": round(float(np.percentile(times, 95)), 4),
            "mean_probes": round(float(np.mean([len(route) for route in routes])), 2),
        }
    return Finding(checks, medians)


async def _timed(centroids: Vector, queries: Vector) -> tuple[list[float], list[set[int]]]:
    view = View(MapState(_map(centroids), CALIBRATION), Metric.COSINE)
    scheme = by_cluster(min(len(centroids), SCHEMES_MOST))
    wish = Wish()
    times, routes = [], []
    for number, query in enumerate((*queries[:_WARM], *queries)):
        started = time.perf_counter()
        planned = await view.route(scheme, wish, query)
        took = (time.perf_counter() - started) * 1e3
        if number >= _WARM:
            times.append(took)
            routes.append({one.id for one in planned.route.partitions})
    return times, routes


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
