"""What the measured figures mean, in sentences that say only what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from svr_retrievers.demo.compare import CaseResult
from svr_retrievers.demo.postgres_table import SHARED, TUNED
from svr_retrievers.demo.routed import ROUTED

ENOUGH = 0.95
ALL = 0.995


def verdict(results: Sequence[CaseResult]) -> list[str]:
    filtered = [r for r in results if r.name != "no filter"]
    lines = [_unfiltered(r) for r in results if r.name == "no filter"]
    if filtered:
        lines += [_defaults(filtered), _tuned(filtered), _routed(filtered)]
    return lines


def _unfiltered(result: CaseResult) -> str:
    shared, routed = result.way(SHARED), result.way(ROUTED)
    facts = (
        f"recall {shared.recall:.3f} in {shared.median_ms:.1f} ms, "
        f"routed {routed.recall:.3f} in {routed.median_ms:.1f} ms"
    )
    if shared.recall >= ENOUGH and shared.median_ms <= routed.median_ms:
        return f"Without a filter one index is the better choice at this size: {facts}."
    return f"Without a filter: one index {facts}."


def _defaults(results: Sequence[CaseResult]) -> str:
    worst = min(results, key=lambda r: r.way(SHARED).recall)
    shared = worst.way(SHARED)
    if shared.recall >= ALL:
        return "With filters the shared index with defaults answered in full on this corpus."
    return (
        f"Under the filter “{worst.name}” the shared index with defaults found {shared.found:.1f} of "
        f"{worst.possible:.1f} answers; {100 * shared.short:.0f} % of the questions came back short."
    )


def _tuned(results: Sequence[CaseResult]) -> str:
    low = min(r.way(TUNED).recall for r in results)
    short = max(r.way(TUNED).short for r in results)
    complete = "found as many as there are" if short == 0 else f"was still short for {100 * short:.0f} %"
    return (
        f"Tuned by hand, one table {complete}, {_at_least(low)}, in {_span(results, TUNED)} ms; "
        f"routing took {_span(results, ROUTED)} ms at this size."
    )


def _at_least(recall: float) -> str:
    return f"recall {recall:.3f}" + (" or more" if recall < ALL else "")


def _span(results: Sequence[CaseResult], way: str) -> str:
    times = [r.way(way).median_ms for r in results]
    return f"{min(times):.1f} to {max(times):.1f}"


def _routed(results: Sequence[CaseResult]) -> str:
    low = min(r.way(ROUTED).recall for r in results)
    short = max(r.way(ROUTED).short for r in results)
    found = "every answer there is" if short == 0 else f"all but {100 * short:.1f} % of answers in full"
    return f"Routed, with nothing tuned: {found}, {_at_least(low)} under every filter."
