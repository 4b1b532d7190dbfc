"""The metrics' distances, computed exactly in 64 bits: what every backend's numbers are held to. PURE."""

from __future__ import annotations

import numpy as np

from svr_retrievers.model import Metric, Vector


def distances(query: Vector, rows: Vector, metric: Metric) -> list[float]:
    """The metric's distance of each row (n, d) from the query (d,), computed in 64 bits."""
    wide, q = rows.astype(np.float64), query.astype(np.float64)
    if metric is Metric.L2:
        return [float(d) for d in np.linalg.norm(wide - q, axis=1)]
    products = wide @ q
    if metric is Metric.INNER_PRODUCT:
        return [float(-p) for p in products]
    lengths = np.linalg.norm(wide, axis=1) * np.linalg.norm(q)
    return [float(d) for d in 1.0 - products / np.where(lengths == 0.0, 1.0, lengths)]
