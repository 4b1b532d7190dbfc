"""Row D: how hard the data is, for one big graph and for partitions, whatever this library does."""

from __future__ import annotations

import numpy as np

from svr_retrievers.bench.data import Ints
from svr_retrievers.bench.lab import Lab
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.bench.rows.accuracy import study
from svr_retrievers.bench.study import ANCHOR
from svr_retrievers.model import Vector

CELLS = 64
PROBES = (1, 2, 3, 4)
SAMPLE = 50_000
TURNS = 15


def measure(lab: Lab) -> Finding:
    """Recall of the big index with ef_search 40, in topics and between them; and the share of the true neighbours
    in the closest 1, 2, 3 and 4 of 64 cells, made by plain spherical k-means from a sample, without the library.
    """
    arena, found = lab.main, study(lab)
    anchor, truth, between = found.series[ANCHOR], found.truth, found.between
    rows, queries = arena.corpus.rows.vectors, arena.corpus.queries.vectors
    centres = _centres(rows, lab.seed)
    homes = _closest(rows, centres)
    ranks = np.argsort(np.argsort(-(queries @ centres.T), axis=1), axis=1)
    places = [np.array([ranks[q, homes[i]] for i in truth[q]]) for q in range(len(queries))]
    shares = [
        Check(f"neighbours in {n} of {CELLS} cells", float(np.mean([np.mean(p < n) for p in places])))
        for n in PROBES
    ]
    return Finding(
        checks=(
            Check("recall of one big index, in topics", anchor.recall(truth, ~between)),
            Check("recall of one big index, between topics", anchor.recall(truth, between)),
            *shares,
        ),
        medians={
            "rows": len(rows),
            "smallest and largest topic": [int(n) for n in _ends(arena.corpus.rows.topics)],
            "smallest and largest cell": [int(n) for n in _ends(homes)],
        },
    )


def _ends(groups: Ints) -> tuple[int, int]:
    counts = np.unique(groups, return_counts=True)[1]
    return int(counts.min()), int(counts.max())


def _centres(rows: Vector, seed: int) -> Vector:
    rng = np.random.default_rng(seed)
    sample = rows[rng.choice(len(rows), min(SAMPLE, len(rows)), replace=False)]
    centres = sample[rng.choice(len(sample), CELLS, replace=False)].copy()
    for _ in range(TURNS):
        homes = _closest(sample, centres)
        for cell in range(CELLS):
            mine = sample[homes == cell]
            if len(mine):
                middle = mine.mean(axis=0)
                centres[cell] = middle / np.linalg.norm(middle)
    return centres


def _closest(rows: Vector, centres: Vector) -> Ints:
    blocks = [np.argmax(rows[i : i + 20_000] @ centres.T, axis=1) for i in range(0, len(rows), 20_000)]
    return np.concatenate(blocks)
