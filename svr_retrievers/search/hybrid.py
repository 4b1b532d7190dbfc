"""Fuses a ranking by vectors and one by keywords into one: by ranks, by distributions, by a convex sum. PURE."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast, get_args

from svr_retrievers.errors import InputError
from svr_retrievers.values import Legs

Key: TypeAlias = tuple[str, str]
Ranking: TypeAlias = Sequence[tuple[Key, float]]
"""Keys of documents with their scores, higher for better, best first."""
Fusion: TypeAlias = Literal["rrf", "distribution", "convex"]

RANK_CONSTANT: Final = 60
"""As in Cormack, Clarke and Buettcher (2009), and in MongoDB's `$rankFusion`."""
_LEAST_DEPTH: Final = 100
_DEEPER: Final = 4
_DEVIATIONS: Final = 3
_LEAST_SUM: Final = 1e-6
"""Of weights: shares of less come out as no number at all."""


@dataclass(frozen=True, slots=True)
class Fused:
    """A document's key, its fused score, and where it stood in each ranking."""

    key: Key
    score: float
    legs: Legs


def depth(limit: int) -> int:
    """How many documents of each ranking take part: deep enough that a middling rank in both can win."""
    return max(_LEAST_DEPTH, _DEEPER * limit)


def fuse(
    vector: Ranking, keyword: Ranking, weights: tuple[float, float], fusion: Fusion = "rrf"
) -> list[Fused]:
    """All documents of both rankings, the best first, equal ones by key.

    A ranking of weight 0 brings none in: it only tells ranks and scores of what the other has. The score is
    the weighted sum of what a document is worth in either ranking, nothing in one without it:

    * `rrf`: `1 / (60 + rank)`;
    * `distribution`: its score between three standard deviations below and above the ranking's mean, as 0 to 1
      (Mazzeschi, "Distribution-Based Score Fusion", 2023);
    * `convex`: its score between the ranking's lowest and highest, as 0 to 1, and weights that sum to 1 (Bruch, Gai
      and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", ACM TOIS, 2023).

    Ranks count from 1, and documents that were equal in a ranking share the rank of the first of them.
    """
    near, said = ranks(vector), ranks(keyword)
    worth = _WORTH[fusion]
    of_vector, of_keyword = worth(vector), worth(keyword)
    scores = dict(vector), dict(keyword)
    first, second = _shares(weights, fusion)
    made = [
        Fused(
            key,
            first * of_vector.get(key, 0.0) + second * of_keyword.get(key, 0.0),
            Legs(near.get(key), said.get(key), scores[0].get(key), scores[1].get(key)),
        )
        for key in (near if weights[0] else {}) | (said if weights[1] else {})
    ]
    return sorted(made, key=lambda each: (-each.score, each.key))


def best_score(weights: tuple[float, float], fusion: Fusion = "rrf") -> float:
    """The highest score that there can be: that of a document worth the most in both rankings."""
    first, second = _shares(weights, fusion)
    most = 1 / (RANK_CONSTANT + 1) if fusion == "rrf" else 1.0
    return first * most + second * most


def check_fusion(fusion: object) -> Fusion:
    """The name of a fusion. Raises InputError naming those that there are."""
    if isinstance(fusion, str) and fusion in get_args(Fusion):
        return cast("Fusion", fusion)
    raise InputError(
        f"fusion must be 'rrf', 'distribution' or 'convex', not {fusion!r:.60}.",
        hint="'rrf' needs no tuning; the others weigh by how much better one hit is than the next.",
    )


def check_weights(weights: object) -> tuple[float, float]:
    """The weights of vectors and keywords, when they can be used. Raises InputError."""
    if isinstance(weights, list | tuple) and len(weights) == 2:
        vector, keyword = weights
        if _is_weight(vector) and _is_weight(keyword) and vector + keyword >= _LEAST_SUM:
            return float(vector), float(keyword)
    raise InputError(
        f"weights must be two numbers from 0 to a million, which are not both 0, not {weights!r:.60}.",
        hint="weights=(vectors, keywords), e.g. (1.0, 0.5)",
    )


def _is_weight(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and 0 <= value <= 1e6
    )


def ranks(ranking: Ranking) -> dict[Key, int]:
    """From 1; equal scores share the rank of the first of them."""
    found: dict[Key, int] = {}
    before: float | None = None
    rank = 0
    for at, (key, value) in enumerate(ranking, start=1):
        if value != before:
            rank, before = at, value
        found[key] = rank
    return found


def _shares(weights: tuple[float, float], fusion: Fusion) -> tuple[float, float]:
    if fusion != "convex":
        return weights
    return weights[0] / sum(weights), weights[1] / sum(weights)


def _by_rank(ranking: Ranking) -> dict[Key, float]:
    return {key: 1 / (RANK_CONSTANT + rank) for key, rank in ranks(ranking).items()}


def _by_distribution(ranking: Ranking) -> dict[Key, float]:
    """A ranking whose scores are all equal says nothing: each is worth the middle."""
    scores = [score for _, score in ranking]
    mean = statistics.fmean(scores) if scores else 0.0
    reach = _DEVIATIONS * statistics.pstdev(scores, mean) if scores else 0.0
    return _scaled(ranking, mean - reach, mean + reach, 0.5)


def _by_extremes(ranking: Ranking) -> dict[Key, float]:
    """Where all scores are equal, each is the best there is."""
    scores = [score for _, score in ranking]
    return _scaled(ranking, min(scores, default=0.0), max(scores, default=0.0), 1.0)


def _scaled(ranking: Ranking, low: float, high: float, alike: float) -> dict[Key, float]:
    if not high - low > 0:
        return {key: alike for key, _ in ranking}
    return {key: min(1.0, max(0.0, (score - low) / (high - low))) for key, score in ranking}


_WORTH: Final[Mapping[str, Callable[[Ranking], dict[Key, float]]]] = {
    "rrf": _by_rank,
    "distribution": _by_distribution,
    "convex": _by_extremes,
}
