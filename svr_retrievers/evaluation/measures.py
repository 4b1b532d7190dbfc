"""How good a ranking is: recall, reciprocal rank, discounted gain, each at a depth. PURE."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Judged: TypeAlias = Mapping[str, float]
"""Document id to its grade, above 0 where it is relevant; what is not named is not."""


def recall(ranked: Sequence[str], judged: Judged, k: int) -> float:
    """The share of the relevant documents among the first `k` (Manning, Raghavan, Schütze, 2008, chapter 8)."""
    relevant = {doc_id for doc_id, grade in judged.items() if grade > 0}
    return len(relevant.intersection(ranked[:k])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranked: Sequence[str], judged: Judged, k: int) -> float:
    """One over the rank of the first relevant document, 0 beyond `k` (Voorhees, TREC-8, 1999)."""
    ranks = (rank for rank, doc_id in enumerate(ranked[:k], start=1) if judged.get(doc_id, 0.0) > 0)
    return 1.0 / next(ranks, math.inf)


def ndcg(ranked: Sequence[str], judged: Judged, k: int) -> float:
    """Gain `grade / log2(rank + 1)`, of the best possible (Järvelin and Kekäläinen, 2002, in trec_eval's form)."""
    best = _gain(sorted((grade for grade in judged.values() if grade > 0), reverse=True)[:k])
    return _gain([max(0.0, judged.get(doc_id, 0.0)) for doc_id in ranked[:k]]) / best if best else 0.0


def mean(values: Sequence[float]) -> float:
    """The mean over questions; 0 for none."""
    return math.fsum(values) / len(values) if values else 0.0


def _gain(grades: Sequence[float]) -> float:
    return math.fsum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1))
