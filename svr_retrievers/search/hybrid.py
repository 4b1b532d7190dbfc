"""Fuses a ranking by vectors and one by keywords into one, by reciprocal ranks. PURE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from svr_retrievers.errors import InputError
from svr_retrievers.values import Legs

Key: TypeAlias = tuple[str, str]
Ranking: TypeAlias = Sequence[tuple[Key, float]]
"""Keys of documents with what they were ordered by, best first."""

RANK_CONSTANT: Final = 60
"""As in Cormack, Clarke and Buettcher (2009), and in MongoDB's `$rankFusion`."""
_LEAST_DEPTH: Final = 100
_DEEPER: Final = 4


@dataclass(frozen=True, slots=True)
class Fused:
    """A document's key, its fused score, and where it stood in each ranking."""

    key: Key
    score: float
    legs: Legs


def depth(limit: int) -> int:
    """How many documents of each ranking take part: deep enough that a middling rank in both can win."""
    return max(_LEAST_DEPTH, _DEEPER * limit)


def fuse(vector: Ranking, keyword: Ranking, weights: tuple[float, float]) -> list[Fused]:
    """All documents of both rankings, the best first: by `sum of weight / (60 + rank)`, equal ones by key.

    Ranks count from 1, and documents that were equal in a ranking share the rank of the first of them.
    """
    near, said = _ranks(vector), _ranks(keyword)
    made = [Fused(key, _score(near.get(key), said.get(key), weights), Legs(near.get(key), said.get(key)))
            for key in near | said]  # fmt: skip
    return sorted(made, key=lambda each: (-each.score, each.key))


def best_score(weights: tuple[float, float]) -> float:
    """The score of a document that is first in both rankings."""
    return _score(1, 1, weights)


def check_weights(weights: object) -> tuple[float, float]:
    """The weights of vectors and keywords, when they can be used. Raises InputError."""
    if isinstance(weights, list | tuple) and len(weights) == 2:
        vector, keyword = weights
        if _is_weight(vector) and _is_weight(keyword) and vector + keyword > 0:
            return float(vector), float(keyword)
    raise InputError(
        f"weights must be two numbers from 0 on, of which one is above 0, not {weights!r:.60}.",
        hint="weights=(vectors, keywords), e.g. (1.0, 0.5)",
    )


def _is_weight(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and 0 <= value <= 1e6
    )


def _ranks(ranking: Ranking) -> dict[Key, int]:
    ranks: dict[Key, int] = {}
    before: float | None = None
    rank = 0
    for at, (key, value) in enumerate(ranking, start=1):
        if value != before:
            rank, before = at, value
        ranks[key] = rank
    return ranks


def _score(near: int | None, said: int | None, weights: tuple[float, float]) -> float:
    """The sum of its two parts, in this order whatever came first."""
    parts = [
        0.0 if rank is None else weight / (RANK_CONSTANT + rank)
        for rank, weight in ((near, weights[0]), (said, weights[1]))
    ]
    return parts[0] + parts[1]
