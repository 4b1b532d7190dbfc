"""Row 7: whether a stated recall target is met on unseen queries, and with how few probes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from svr_retrievers.bench import ours
from svr_retrievers.bench.data import LIMIT
from svr_retrievers.bench.lab import Lab
from svr_retrievers.bench.postgres import floor
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.model import JsonValue, Route, Vector

if TYPE_CHECKING:
    from svr_retrievers import Collection

TARGETS = (0.9, 0.95, 0.99)


def measure(lab: Lab) -> Finding:
    """Three collections of the same rows: by closeness, by a field that agrees with the topic for 85 % of the
    rows, and by month. For each target every unseen query is searched end to end (index included), and its route
    counted. The fixed count to compare with is the smallest that puts the target's share of the true neighbours
    into the probed partitions, by the collection's own order of closeness. One query in ten lies between topics.
    """
    checks: list[Check] = []
    medians: dict[str, JsonValue] = {}
    for kind, collection in _collections(lab):
        lab.say(f"asking the collection by {kind} for its recall targets")
        homes = floor.homes(lab.url, floor.physical(lab.url, collection.name), len(lab.main.corpus.rows))
        ranked = _ranked(collection, lab)
        for target in TARGETS:
            told, found = _one(lab, collection, target, ranked, homes)
            name = f"{kind} {target}"
            checks += [
                Check(f"{name}: recall - target", told["recall"] - target, least=-0.01, most=0.03),
                Check(f"{name}: probes relative to the fixed count", told["of fixed"], most=0.6),
                Check(f"{name}: p95 of probes", told["p95 probes"], most=8),
            ]
            medians[name] = {k: round(v, 4) for k, v in (told | found).items()}
        if collection is not lab.main.routed:
            lab.client.drop_collection(collection.name)
    return Finding(checks, medians)


def _collections(lab: Lab) -> Iterator[tuple[str, Collection]]:
    from svr_retrievers import by_field, by_time

    yield "clusters", lab.main.routed
    for kind, scheme in (("noisy field", by_field("cat")), ("month", by_time("created_at", every="month"))):
        lab.say(f"filling a collection by {kind}")
        collection = ours.create(lab.client, kind.replace(" ", "_"), lab.main.corpus.rows, scheme)
        ours.fill(collection, lab.main.corpus.rows)
        yield kind, collection


def _one(
    lab: Lab, collection: Collection, target: float, ranked: Sequence[Sequence[str]], homes: Sequence[str]
) -> tuple[dict[str, float], dict[str, float]]:
    queries, truth, asked = lab.main.corpus.queries, lab.main.truth(), lab.main.testing
    recall, share = np.zeros(len(asked)), np.zeros(len(asked))
    probes = np.array(ours.probes(collection, queries, [int(q) for q in asked], target))
    for at, query in enumerate(asked):
        result = collection.search(vector=queries.vectors[query], limit=LIMIT, recall_target=target)
        recall[at] = len({int(i) for i in result.ids} & truth[query]) / len(truth[query])
        looked = set(result.route.paths)
        share[at] = np.mean([homes[i] in looked for i in truth[query]])
    fixed = _smallest_fixed(target, ranked, homes, [truth[q] for q in asked])
    between = lab.main.between[asked]
    checked = {
        "recall": float(recall.mean()),
        "of fixed": float(probes.mean()) / fixed,
        "p95 probes": float(np.percentile(probes, 95)),
    }
    return checked, {
        "recall between topics": float(recall[between].mean()),
        "share in the probed partitions": float(share.mean()),
        "mean probes": float(probes.mean()),
        "smallest sufficient fixed count": float(fixed),
    }


def _ranked(collection: Collection, lab: Lab) -> list[list[str]]:
    """All partitions in order of closeness, for each query asked."""
    paths = [p.path for p in collection.partitions.leaves]
    orders = []
    for query in lab.main.testing:
        route = _widest(collection, lab.main.corpus.queries.vectors[query], len(paths))
        near = list(route.paths)
        orders.append(near + [path for path in paths if path not in set(near)])
    return orders


def _widest(collection: Collection, query: Vector, partitions: int) -> Route:
    """The route with the most probes that is still in order of closeness: one through all is in none."""
    for nprobe in range(partitions - 1, 0, -1):
        route = collection.route(vector=query, nprobe=nprobe)
        if route.step == "centroid":
            return route
    return collection.route(vector=query)


def _smallest_fixed(
    target: float, ranked: Sequence[Sequence[str]], homes: Sequence[str], truth: Sequence[set[int]]
) -> int:
    places = []
    for order, ids in zip(ranked, truth, strict=True):
        rank = {path: at for at, path in enumerate(order)}
        places.append([rank[homes[i]] for i in ids])
    everywhere = max(len(order) for order in ranked)
    for count in range(1, everywhere):
        if np.mean([np.mean([place < count for place in one]) for one in places]) >= target:
            return count
    return everywhere
