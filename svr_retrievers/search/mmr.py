"""Maximal marginal relevance: an order that trades closeness against repetition. PURE."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from svr_retrievers.errors import InputError
from svr_retrievers.model import VectorLike


def maximal_marginal_relevance(
    query: VectorLike, vectors: npt.ArrayLike, *, k: int, lambda_mult: float = 0.5
) -> list[int]:
    """Positions of up to `k` rows of `vectors`, in the order in which they were chosen.

    Each step takes the row with the largest `lambda * cos(query, row) - (1 - lambda) * max cos(row, chosen)`
    (Carbonell and Goldstein, 1998). `query` has shape (d,), `vectors` (n, d); `lambda_mult` 1 is pure
    closeness, 0 pure diversity. Ties go to the earlier row.
    """
    if isinstance(k, bool) or not isinstance(k, int):
        raise InputError(f"k must be a whole number, not {type(k).__name__}.")
    if not isinstance(lambda_mult, int | float) or not 0.0 <= lambda_mult <= 1.0:
        raise InputError(f"lambda_mult must be a number between 0 and 1, not {lambda_mult!r}.")
    try:
        rows = _unit(np.atleast_2d(np.asarray(vectors, dtype=np.float64)))
        asked = np.asarray(query, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("query and vectors must be numbers, all rows of one length.") from None
    if k <= 0 or rows.size == 0:
        return []
    if asked.shape != rows.shape[1:]:
        raise InputError(f"query has shape {asked.shape}, but the rows of vectors have {rows.shape[1:]}.")
    closeness = rows @ _unit(asked[None, :])[0]
    chosen = [int(np.argmax(closeness))]
    nearest = rows @ rows[chosen[0]]
    while len(chosen) < min(k, len(rows)):
        gain = lambda_mult * closeness - (1.0 - lambda_mult) * nearest
        gain[chosen] = -np.inf
        chosen.append(int(np.argmax(gain)))
        nearest = np.maximum(nearest, rows @ rows[chosen[-1]])
    return chosen


def _unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms == 0.0, 1.0, norms)
