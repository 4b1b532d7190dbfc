"""Row 10: how the time of a routed search grows with the data, when partitions keep their size."""

from __future__ import annotations

from svr_retrievers import by_cluster
from svr_retrievers.bench import ours
from svr_retrievers.bench.data import corpus, nearest
from svr_retrievers.bench.lab import Lab
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.bench.sizes import DIMENSIONS
from svr_retrievers.bench.timing import Ask, interleave
from svr_retrievers.model import JsonValue

ROWS_A_PARTITION = 1_200
LARGE_PARTITION = 4_000
TARGET = 0.95


def measure(lab: Lab) -> Finding:
    """Two collections of the same distribution, one ten times the other, with ten times the partitions; the same
    queries to both in turn, recall target 0.95, everything else the default. Up to 200,000 rows partitions hold
    about 1,200 rows, beyond that 4,000. Recall is shown beside it: speed must not be bought with it.
    """
    largest = max(lab.size.growth)
    data = corpus(largest, 0, lab.size.asked, seed=lab.seed + 3, dimensions=DIMENSIONS)
    each = ROWS_A_PARTITION if largest <= 200_000 else LARGE_PARTITION
    systems: dict[str, Ask] = {}
    medians: dict[str, JsonValue] = {}
    collections = {}
    for rows in lab.size.growth:
        clusters = max(2, rows // each)
        lab.say(f"filling a collection of {rows:,} rows in {clusters} clusters")
        made = ours.create(lab.client, f"growth_{rows}", DIMENSIONS, by_cluster(clusters))
        ours.fill(made, data.rows.part(0, rows), first=ours.training_rows(clusters, rows))
        collections[rows] = made
        systems[f"{rows} rows"] = ours.asker(made, data.queries, recall_target=TARGET)
    series = interleave(systems, lab.testing, seed=lab.seed, rounds=2)
    for rows in lab.size.growth:
        name = f"{rows} rows"
        probes = ours.probes(collections[rows], data.queries, [int(q) for q in lab.testing[:100]], TARGET)
        told = series[name].to_json(nearest(data.rows.part(0, rows), data.queries))
        medians[name] = told | {"mean_probes": round(sum(probes) / len(probes), 2)}
        lab.client.drop_collection(collections[rows].name)
    small, large = (series[f"{rows} rows"] for rows in lab.size.growth)
    return Finding((Check("p50 of a tenth of the data", large.p50 / small.p50, most=1.3),), medians)
