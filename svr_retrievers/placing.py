"""Finds every document's partition before a write, creating what policy allows to be created."""

from __future__ import annotations

from collections.abc import Iterable

import anyio.to_thread
import numpy as np
import numpy.typing as npt

from svr_retrievers.backends.protocol import Backend, Batch, CollectionRef, NewPartition
from svr_retrievers.concurrency import off_loop
from svr_retrievers.errors import WriteConflict
from svr_retrievers.model import Metric, PartitionKey, PartitionMap, PartitionStats, Vector
from svr_retrievers.routing.kmeans import kmeans
from svr_retrievers.routing.place import Keys, path_of, place, unused_path
from svr_retrievers.routing.schemes import ClusterLevel
from svr_retrievers.search.view import View

TRAINING_ROWS_PER_CLUSTER = 256
"""More rows a cluster than this hardly move its centroid."""
_ROUNDS = 20


async def ensure_places(
    backend: Backend, ref: CollectionRef, view: View, batch: Batch
) -> tuple[View, list[int]]:
    """The partition id of each row, with the view in which they all exist.

    Partitions are created level by level, parents first; another writer may create the same ones.
    """
    for _ in range(_ROUNDS):
        places, missing = await off_loop(
            len(batch), place, ref.config.scheme, view.map, batch, ref.config.metric
        )
        if not missing:
            trained = await _train(backend, ref, view, batch, places)
            if trained is None:
                return view, [int(p) for p in places]
            view = trained
            continue
        wanted = next_level(
            view.map, missing.keys(), depth=len(ref.config.scheme.levels) if ref.config.scheme else 1
        )
        view = View(await backend.add_partitions(ref, wanted), ref.config.metric)
    raise WriteConflict(
        "The partitions for these documents could not be created: others keep changing the map.",
        hint="Try again in a moment.",
    )


def next_level(known: PartitionMap, missing: Iterable[Keys], *, depth: int) -> list[NewPartition]:
    """The partitions to create now: for each missing leaf the first of its keys that does not exist."""
    wanted: dict[tuple[int | None, PartitionKey], NewPartition] = {}
    taken = {p.path for p in known.partitions}
    for keys in missing:
        parent: int | None = None
        for level, key in enumerate(keys):
            child = known.child(parent, key)
            if child is not None:
                parent = child.id
                continue
            if (parent, key) not in wanted:
                path = unused_path(path_of(keys[: level + 1]), taken)
                wanted[parent, key] = NewPartition(parent, key, path, leaf=level + 1 == max(depth, 1))
            break
    return list(wanted.values())


def cluster_level(ref: CollectionRef) -> ClusterLevel | None:
    scheme = ref.config.scheme
    last = scheme.levels[-1] if scheme is not None else None
    return last if isinstance(last, ClusterLevel) else None


async def _train(
    backend: Backend, ref: CollectionRef, view: View, batch: Batch, places: npt.NDArray[np.int64]
) -> View | None:
    """Creates clusters where this batch alone suffices to find them; None when nothing was to be done."""
    level = cluster_level(ref)
    if level is None:
        return None
    wanted: list[NewPartition] = []
    for leaf_id, rows in zip(*np.unique(places, return_counts=True), strict=True):
        leaf = view.map.get(int(leaf_id))
        if (
            leaf is None
            or leaf.key.kind != "rest"
            or rows < level.min_rows
            or is_trained(view.map, leaf.parent)
        ):
            continue
        vectors = batch.vectors[places == leaf_id]
        centroids = await anyio.to_thread.run_sync(find_clusters, vectors, level.k, ref.config.metric)
        wanted += new_clusters(view.map, leaf.parent, centroids)
    return View(await backend.add_partitions(ref, wanted), ref.config.metric) if wanted else None


def is_trained(known: PartitionMap, parent: int | None) -> bool:
    return any(child.key.kind == "cluster" for child in known.children(parent))


def find_clusters(vectors: Vector, k: int, metric: Metric) -> Vector:
    """Up to k centroids from an even sample of the rows."""
    most = k * TRAINING_ROWS_PER_CLUSTER
    if len(vectors) > most:
        vectors = vectors[np.linspace(0, len(vectors) - 1, most).astype(np.intp)]
    return kmeans(vectors, k, metric)


def new_clusters(known: PartitionMap, parent: int | None, centroids: Vector) -> list[NewPartition]:
    above = known.get(parent) if parent is not None else None
    prefix = f"{above.path}/" if above is not None else ""
    made = []
    for number, centroid in enumerate(centroids):
        key = ClusterLevel.key(number)
        stats = PartitionStats(centroids=centroid[None, :].copy())
        made.append(NewPartition(parent, key, f"{prefix}{key.label}", leaf=True, stats=stats))
    return made
