"""How much data each size of the benchmark uses."""

from __future__ import annotations

from dataclasses import dataclass

DIMENSIONS = 384


@dataclass(frozen=True, slots=True)
class Size:
    """Rows and queries of one run. `growth` and `builds` are the sizes of the rows that need their own data.

    `million` is how many vectors the largest comparison has, 0 for none: it needs hours of nothing else.
    """

    name: str
    rows: int
    clusters: int
    queries: int
    tuning: int
    fresh: int
    ingest: int
    growth: tuple[int, int]
    texts: int
    million: int = 0
    routed: tuple[int, ...] = (100, 10_000, 100_000)
    mapped: int = 10_000
    slow_peers: int = 16

    @property
    def asked(self) -> int:
        return self.queries + self.tuning


TINY = Size("tiny", 3_000, 8, 40, 20, 200, 400, (1_500, 3_500), 600, 3_500, (50, 200), 60, 5)
"""For the tests of the benchmark itself: it says nothing about speed."""
SMALL = Size("small", 20_000, 16, 400, 150, 2_000, 10_000, (10_000, 100_000), 20_000)
MEDIUM = Size("medium", 50_000, 24, 500, 200, 5_000, 10_000, (20_000, 200_000), 50_000)
LARGE = Size(
    "large", 200_000, 64, 500, 200, 20_000, 20_000, (100_000, 1_000_000), 100_000, 1_000_000, slow_peers=8
)
SIZES = {size.name: size for size in (TINY, SMALL, MEDIUM, LARGE)}
