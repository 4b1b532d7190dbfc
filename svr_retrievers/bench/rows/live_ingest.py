"""Row 12: the next documents into a collection that is already indexed, readable at once."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from svr_retrievers.bench import ours
from svr_retrievers.bench.data import Rows, nearest
from svr_retrievers.bench.lab import Lab
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.bench.timing import Ask, ids_of

BATCH = 1_000
BETWEEN_WRITES = 15
OURS, THEIRS = "routed", "one big index"


def measure(lab: Lab) -> Finding:
    """Batches of 1,000 (fewer at small sizes), text and metadata included and laid ready, are upserted into both
    stores in turn: ours by `add` of the blocking client, the big table by COPY into staging and an upsert. After
    each batch a few of its own documents are searched by their vector and must be found, then both stores answer
    some queries: the time of searches while the data changes. At the end both answer all queries, and recall is
    taken against old and new rows together.
    """
    rows, fresh = lab.main.corpus.rows, lab.main.corpus.fresh
    joined = rows.joined(fresh)
    write = _writers(lab, joined, len(rows))
    ask = _askers(lab)
    batch = min(BATCH, max(1, len(fresh) // 4))
    spent = dict.fromkeys(write, 0.0)
    during: dict[str, list[float]] = {name: [] for name in ask}
    lost = 0
    rng = np.random.default_rng(lab.seed)
    for start in range(len(rows), len(joined), batch):
        stop = min(len(joined), start + batch)
        for name, one in write.items():
            began = time.perf_counter()
            one(start, stop)
            spent[name] += time.perf_counter() - began
        lost += _unread(lab, joined, (start, stop - 1))
        for query in rng.choice(lab.main.testing, BETWEEN_WRITES):
            for name in rng.permutation(list(ask)):
                began = time.perf_counter()
                ask[name](int(query))
                during[name].append((time.perf_counter() - began) * 1e3)
    return _finding(lab, joined, spent, during, ask, lost)


def _finding(
    lab: Lab,
    joined: Rows,
    spent: dict[str, float],
    during: dict[str, list[float]],
    ask: dict[str, Ask],
    lost: int,
) -> Finding:
    truth = nearest(joined, lab.main.corpus.queries)
    recall = {
        name: float(np.mean([len(ids_of(one(int(q))) & truth[q]) / 10 for q in lab.main.testing]))
        for name, one in ask.items()
    }
    fresh = len(lab.main.corpus.fresh)
    p50 = {name: float(np.median(ms)) for name, ms in during.items()}
    return Finding(
        checks=(
            Check("times the rate of the big index", spent[THEIRS] / spent[OURS], least=20.0),
            Check("search p50 meanwhile relative to the big index", p50[OURS] / p50[THEIRS], most=1.0),
            Check("recall afterwards above the big index", recall[OURS] - recall[THEIRS], least=0.0),
            Check("documents not readable at once", lost, most=0),
        ),
        medians={
            name: {
                "documents_per_second": round(fresh / spent[name], 1),
                "p50_ms_meanwhile": round(p50[name], 4),
                "recall_afterwards": round(recall[name], 4),
            }
            for name in spent
        },
    )


def _writers(lab: Lab, joined: Rows, known: int) -> dict[str, Callable[[int, int], None]]:
    big, routed = lab.main.big, lab.main.routed
    upsert = big.upserter()
    made = dict(enumerate(ours.documents(joined, known), known))
    raw = {i: big.row(joined, i) for i in made}

    def add(start: int, stop: int) -> None:
        routed.add([made[i] for i in range(start, stop)], vectors=joined.vectors[start:stop])

    return {OURS: add, THEIRS: lambda start, stop: upsert([raw[i] for i in range(start, stop)])}


def _askers(lab: Lab) -> dict[str, Ask]:
    queries = lab.main.corpus.queries
    return {OURS: ours.asker(lab.main.routed, queries), THEIRS: lab.main.big.asker(queries)}


def _unread(lab: Lab, joined: Rows, written: tuple[int, ...]) -> int:
    """How many of these rows the collection does not find by their own vector."""
    found = (lab.main.routed.search(vector=joined.vectors[i], limit=1).ids for i in written)
    return sum(str(i) not in ids for i, ids in zip(written, found, strict=True))
