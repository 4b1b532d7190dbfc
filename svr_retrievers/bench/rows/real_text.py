"""Rows T1 and T2: rows 4 and 6b again on real texts, for information."""

from __future__ import annotations

from svr_retrievers.bench.lab import Lab
from svr_retrievers.bench.real_text import SECTION
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.bench.rows import filters
from svr_retrievers.bench.rows.accuracy import notes
from svr_retrievers.bench.study import ANCHOR, UNTUNED, WELL, studied


def unfiltered(lab: Lab) -> Finding:
    """Row T1: descriptions of packages that are not in the store ask for their like. Settings as in rows 4 and 5."""
    arena = lab.text
    found = studied(arena, seed=lab.seed)
    timed, anchor, untuned = found.series[found.in_time], found.series[ANCHOR], found.series[UNTUNED]
    mine, well, truth = found.mine, found.series[found.fastest[WELL]], found.truth
    return Finding(
        checks=(
            Check("recall in the time of the big index, ef_search 40", timed.recall(truth)),
            Check("recall of that big index", anchor.recall(truth)),
            Check("p50 at recall 0.97 relative to the well-built index", mine.p50 / well.p50),
            Check("p95 at recall 0.97 relative to the well-built index", mine.p95 / well.p95),
            Check("recall with our defaults", untuned.recall(truth)),
            Check("p50 with our defaults relative to the big index", untuned.p50 / anchor.p50),
        ),
        medians=found.medians(),
        notes=(_source(lab), *notes(found, [found.in_time, *found.fastest.values()])),
    )


def filtered(lab: Lab) -> Finding:
    """Row T2: the same within a section of the archive, the description's own or, for 30 %, any other."""
    found = filters.asked(lab.text, SECTION, 0.98, seed=lab.seed)
    checks = [
        *found.checks(None),
        found.times("p50"),
        found.times("p95"),
        found.times("p50", name=filters.PLANNER),
    ]
    informed = [Check(c.name, c.value) for c in checks]
    made = Finding(informed, found.medians(), (_source(lab), f"ours: {found.chosen}"))
    lab.text.release()
    return made


def _source(lab: Lab) -> str:
    rows, sections = lab.text.corpus.rows, lab.text.corpus.rows.names[SECTION]
    return f"{len(rows):,} {lab.text_source} in {len(sections)} sections, {lab.text.dimensions} dimensions"
