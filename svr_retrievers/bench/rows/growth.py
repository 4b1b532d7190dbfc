"""Row 10: how the time of a routed search grows with the data, when partitions keep their size."""

from __future__ import annotations

from svr_retrievers.bench import ours
from svr_retrievers.bench.arena import Arena
from svr_retrievers.bench.data import Corpus, corpus
from svr_retrievers.bench.lab import ROWS_OF_MANY, Lab
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.bench.sizes import DIMENSIONS
from svr_retrievers.bench.timing import Ask, interleave
from svr_retrievers.model import JsonValue

SMALL_PARTITION = 1_200
"""Up to 200,000 rows, where partitions of the usual size would be too few to choose from."""
TARGET = 0.95


def measure(lab: Lab) -> Finding:
    """Two collections of the same distribution, one ten times the other, with ten times the partitions; the same
    queries to both in turn, recall target 0.95, everything else the same. Up to 200,000 rows partitions hold
    about 1,200 rows, beyond that 16,000. Recall is shown beside it: speed must not be bought with it.
    """
    large = _large(lab)
    small = _part(lab, large)
    systems: dict[str, Ask] = {
        name: ours.asker(arena.alone(), large.corpus.queries, recall_target=TARGET)
        for name, arena in (("small", small), ("large", large))
    }
    series = interleave(systems, large.testing, seed=lab.seed, rounds=2)
    medians: dict[str, JsonValue] = {}
    recall = {}
    for name, arena in (("small", small), ("large", large)):
        asked = [int(q) for q in large.testing[:100]]
        probes = ours.probes(arena.routed, large.corpus.queries, asked, TARGET)
        told = series[name].to_json(arena.truth()) | {"mean_probes": round(sum(probes) / len(probes), 2)}
        medians[f"{len(arena.corpus.rows)} rows, {arena.clusters} partitions"] = told
        recall[name] = series[name].recall(arena.truth())
    for arena in (small, large):
        if arena.name != "million":
            arena.release()
    return Finding(
        (
            Check("p50 relative to a tenth of the data", series["large"].p50 / series["small"].p50, most=1.3),
            Check("recall above that of a tenth", recall["large"] - recall["small"]),
        ),
        medians,
    )


def _large(lab: Lab) -> Arena:
    rows = max(lab.size.growth)
    if rows == lab.size.million:
        return lab.million
    made = corpus(rows, 0, lab.size.asked, seed=lab.seed + 3, dimensions=DIMENSIONS)
    clusters = max(2, rows // _each(rows))
    return Arena("growth_large", lab.url, lab.client, made, clusters, lab.size.tuning, lab.say)


def _part(lab: Lab, large: Arena) -> Arena:
    rows = min(lab.size.growth)
    made = Corpus(large.corpus.rows.part(0, rows), large.corpus.fresh, large.corpus.queries)
    clusters = max(2, rows // _each(max(lab.size.growth)))
    return Arena("growth_small", lab.url, lab.client, made, clusters, lab.size.tuning, lab.say, large.index)


def _each(largest: int) -> int:
    return SMALL_PARTITION if largest <= 200_000 else ROWS_OF_MANY
