"""k-means in numpy, for centroids of a partition and for partitions of a collection. PURE."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from svr_retrievers.model import Metric, Vector

_CHUNK_CELLS = 4_000_000


def normalise(vectors: Vector) -> Vector:
    """Rows of unit length; rows of zero stay zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(norms == 0.0, 1.0, norms), dtype=np.float32)


def closeness(vectors: Vector, centroids: Vector, metric: Metric) -> Vector:
    """Shape (n, c): higher is closer. Cosine similarity, dot product, or negative Euclidean distance."""
    if metric is Metric.COSINE:
        return np.asarray(normalise(vectors) @ normalise(centroids).T, dtype=np.float32)
    products: Vector = np.asarray(vectors @ centroids.T, dtype=np.float32)
    if metric is Metric.INNER_PRODUCT:
        return products
    squared = (vectors**2).sum(axis=1)[:, None] - 2.0 * products + (centroids**2).sum(axis=1)[None, :]
    return np.asarray(-np.sqrt(np.maximum(squared, 0.0)), dtype=np.float32)


def assign(vectors: Vector, centroids: Vector, metric: Metric) -> npt.NDArray[np.intp]:
    """The closest centroid of each row, shape (n,); memory stays bounded for any n."""
    step = max(1, _CHUNK_CELLS // max(1, len(centroids)))
    parts = [
        closeness(vectors[i : i + step], centroids, metric).argmax(axis=1)
        for i in range(0, len(vectors), step)
    ]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.intp)


def kmeans(vectors: Vector, k: int, metric: Metric, *, seed: int = 0, iterations: int = 20) -> Vector:
    """Up to `k` centroids, shape (c, d) with c <= min(k, n) distinct rows; the same for the same seed.

    Lloyd's iterations from a k-means++ start (Arthur and Vassilvitskii, 2007); centroids of unit
    length under cosine. A cluster that runs empty is restarted at the row farthest from its centroid.
    """
    rows = normalise(vectors) if metric is Metric.COSINE else vectors.astype(np.float32, copy=False)
    rng = np.random.default_rng(seed)
    centroids = _spread_start(rows, min(k, len(rows)), rng)
    inner = Metric.COSINE if metric is Metric.COSINE else Metric.L2
    previous: npt.NDArray[np.intp] | None = None
    for _ in range(iterations):
        owner = assign(rows, centroids, inner)
        if previous is not None and np.array_equal(owner, previous):
            break
        centroids = _means(rows, owner, centroids, inner)
        previous = owner
    return centroids


def _spread_start(rows: Vector, k: int, rng: np.random.Generator) -> Vector:
    chosen = [int(rng.integers(len(rows)))]
    gap = ((rows - rows[chosen[0]]) ** 2).sum(axis=1, dtype=np.float64)
    while len(chosen) < k:
        total = float(gap.sum())
        if total <= 1e-12:
            break
        chosen.append(int(rng.choice(len(rows), p=gap / total)))
        gap = np.minimum(gap, ((rows - rows[chosen[-1]]) ** 2).sum(axis=1, dtype=np.float64))
    return rows[chosen].copy()


def _means(rows: Vector, owner: npt.NDArray[np.intp], old: Vector, metric: Metric) -> Vector:
    counts = np.bincount(owner, minlength=len(old))
    order = np.argsort(owner, kind="stable")
    present = np.flatnonzero(counts)
    starts = np.concatenate(([0], np.cumsum(counts[present])[:-1]))
    means = old.copy()
    means[present] = np.add.reduceat(rows[order], starts, axis=0) / counts[present][:, None]
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        far = np.argsort(((rows - old[owner]) ** 2).sum(axis=1))[::-1][: len(empty)]
        means[empty[: len(far)]] = rows[far]
    return normalise(means) if metric is Metric.COSINE else means.astype(np.float32, copy=False)
