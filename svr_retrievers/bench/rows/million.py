"""Row M: rows 4, 5 and 13 again over the largest corpus, against one big index with the defaults."""

from __future__ import annotations

from svr_retrievers.bench.lab import Lab
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.bench.rows.accuracy import notes
from svr_retrievers.bench.study import ANCHOR, OURS, PLAIN, studied


def measure(lab: Lab) -> Finding:
    """The two stores of row 9. The big index has its defaults (a well-built one takes twice as long to build);
    both are swept, and ours is compared with the setting whose recall comes closest to ours and not above it.
    """
    found = studied(lab.million, seed=lab.seed, well_built=False)
    mine, plain, truth = found.mine, found.series[found.equal[PLAIN]], found.truth
    timed = found.series[found.in_time]
    return Finding(
        checks=(
            Check("p95 relative to the default index at equal recall", mine.p95 / plain.p95, most=0.5),
            Check("p50 relative to the default index at equal recall", mine.p50 / plain.p50),
            Check("recall", mine.recall(truth)),
            Check("recall of the default index", plain.recall(truth)),
            Check("recall in the time of ef_search 40", timed.recall(truth)),
            Check("recall with ef_search 40", found.series[ANCHOR].recall(truth)),
        ),
        medians=found.medians() | {"swept on the tuning queries": found.sweep()},
        notes=notes(found, [found.fastest[OURS], found.equal[PLAIN]], swept_to=None),
    )
