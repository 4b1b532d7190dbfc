"""One exact ranking from the answers of several partitions. PURE.

Within one vector space distances are comparable as they are, so the merged ranking is exactly what
one index over the union would give. Nothing is rescaled.
"""

from __future__ import annotations

from collections.abc import Iterable

from svr_retrievers.backends.protocol import Candidate


def merge(pages: Iterable[Iterable[Candidate]], limit: int) -> list[Candidate]:
    """The `limit` closest, ties by namespace and id; of a key seen twice the highest version stays."""
    newest: dict[tuple[str, str], Candidate] = {}
    for page in pages:
        for candidate in page:
            key = (candidate.namespace, candidate.id)
            seen = newest.get(key)
            if seen is None or _rank(candidate) < _rank(seen):
                newest[key] = candidate
    ordered = sorted(newest.values(), key=lambda c: (c.distance, c.namespace, c.id))
    return ordered[:limit]


def _rank(candidate: Candidate) -> tuple[int, float]:
    return -candidate.version, candidate.distance
