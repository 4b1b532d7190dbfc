"""Rows 4, 5 and 13: routed search against one big index, in recall, time and tail, from one measurement."""

from __future__ import annotations

from collections.abc import Sequence

from svr_retrievers.bench import study as studies
from svr_retrievers.bench.lab import Lab
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.bench.study import ANCHOR, GOAL, OURS, PLAIN, UNTUNED, WELL, Study, studied
from svr_retrievers.bench.timing import Ask

SAME_TIME = 1.05
"""Five per cent is what medians of one run differ by."""


def study(lab: Lab) -> Study:
    """Measured once a run."""
    if "study" not in lab.kept:
        lab.kept["study"] = studied(lab.main, seed=lab.seed)
    found = lab.kept["study"]
    assert isinstance(found, Study)
    return found


def chosen(lab: Lab) -> Ask:
    """Ours, with the setting that row 5 stands on."""
    return studies.mine(lab.main, study(lab).fastest[OURS])


def recall_at_equal_time(lab: Lab) -> Finding:
    """Row 4: of our settings that are as fast as the big index with ef_search 40, the one with the best recall."""
    found = study(lab)
    mine, anchor, truth = found.series[found.in_time], found.series[ANCHOR], found.truth
    untuned = found.series[UNTUNED]
    return Finding(
        checks=(
            Check("recall", mine.recall(truth), least=GOAL),
            Check("recall between topics", mine.recall(truth, found.between), least=0.92),
            Check("p50 relative to the big index", mine.p50 / anchor.p50, most=SAME_TIME),
            Check("recall of the big index", anchor.recall(truth)),
            Check("its recall between topics", anchor.recall(truth, found.between)),
            Check("recall with our defaults", untuned.recall(truth)),
            Check("p50 with our defaults relative to the big index", untuned.p50 / anchor.p50),
        ),
        medians=found.medians(),
        notes=(f"ours: {found.in_time}",),
    )


def time_at_equal_recall(lab: Lab) -> Finding:
    """Row 5: the cheapest setting of each that reaches recall 0.97, on the default and the well-built index."""
    found = study(lab)
    mine, truth = found.mine, found.truth
    well, plain = found.series[found.fastest[WELL]], found.series[found.fastest[PLAIN]]
    frugal = found.series[found.frugal[WELL]]
    return Finding(
        checks=(
            Check("p50 relative to the well-built index", mine.p50 / well.p50, most=0.35),
            Check("recall", mine.recall(truth), least=GOAL),
            Check("recall of the well-built index", well.recall(truth)),
            Check("p50 relative to its cheapest setting of nearly that recall", mine.p50 / frugal.p50),
            Check("p50 relative to the default index", mine.p50 / plain.p50),
            Check("recall of the default index", plain.recall(truth)),
        ),
        medians=found.medians() | {"swept on the tuning queries": found.sweep()},
        notes=notes(found, list(found.fastest.values())),
    )


def tail_at_equal_recall(lab: Lab) -> Finding:
    """Row 13: our setting of row 5, against the big index at the recall closest to ours and not above it."""
    found = study(lab)
    mine, truth = found.mine, found.truth
    well, plain = found.series[found.equal[WELL]], found.series[found.equal[PLAIN]]
    return Finding(
        checks=(
            Check("p95 relative to the default index", mine.p95 / plain.p95, most=0.5),
            Check("p95 relative to the well-built index", mine.p95 / well.p95),
            Check("recall", mine.recall(truth)),
            Check("recall of the default index", plain.recall(truth)),
            Check("recall of the well-built index", well.recall(truth)),
        ),
        medians=found.medians(),
        notes=notes(found, [found.fastest[OURS], *found.equal.values()], swept_to=None),
    )


def notes(found: Study, names: Sequence[str], *, swept_to: float | None = GOAL) -> tuple[str, ...]:
    """The settings behind the figures."""
    return tuple(
        name
        if swept_to is None or found.reached(name)
        else f"{name}: no setting reached {swept_to}; this came closest"
        for name in dict.fromkeys(names)
    )
