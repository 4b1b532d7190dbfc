"""Draws how far each figure of a run is from its goal, as a small SVG."""

from __future__ import annotations

import html
import math

from svr_retrievers.bench.record import Check
from svr_retrievers.bench.run import Run
from svr_retrievers.bench.table import title

WIDTH, LEFT, ROW, TOP = 860, 400, 22, 58
SPAN = 10.0
"""The scale ends at ten times better or worse than the goal."""
STYLE = (
    "text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#24292f}.s{font-size:11px;fill:#57606a}"
    ".y{fill:#2a7f62}.n{fill:#c0562f}.g{stroke:#57606a}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}}"
)


def svg(run: Run) -> str:
    """One bar a figure with a goal: to the right of the line where it is better, to the left where worse."""
    figures = [
        (record.id, check, how)
        for record in run.records
        for check in record.finding.checks
        if (how := headroom(check)) is not None
    ]
    height = TOP + ROW * len(figures) + 30
    middle = LEFT + (WIDTH - LEFT) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{html.escape(title(run))}</title><style>{STYLE}</style>",
        f'<text x="0" y="16">{html.escape(title(run))}</text>',
        f'<text class="s" x="{LEFT}" y="40">ten times short of the goal</text>',
        f'<text class="s" x="{WIDTH}" y="40" text-anchor="end">ten times better</text>',
        f'<line class="g" x1="{middle}" x2="{middle}" y1="{TOP - 12}" y2="{height - 24}"/>',
    ]
    for number, (row, check, how) in enumerate(figures):
        parts += _bar(row, check, how, TOP + ROW * number, middle)
    return "\n".join([*parts, "</svg>"]) + "\n"


def headroom(check: Check) -> float | None:
    """Times better (above 1) or worse (below 1) than a goal with one bound; None where there is no such ratio.

    A recall is judged by what is missed: 0.98 is twice as good as 0.96.
    """
    if (check.least is None) == (check.most is None) or check.value <= 0:
        return None
    if check.name.startswith("recall") and check.least is not None and 0 < check.least < 1:
        return (1 - check.least) / max(1 - check.value, 1e-9)
    if check.least is not None:
        return check.value / check.least if check.least > 0 else None
    return check.most / check.value if check.most else None


def _bar(row: str, check: Check, how: float, y: float, middle: float) -> list[str]:
    share = max(-1.0, min(1.0, math.log(how) / math.log(SPAN)))
    width = abs(share) * (WIDTH - middle)
    x = middle if share >= 0 else middle - width
    told = f"{row}  {check.name}: {check.value:.3g} ({check.goal})"
    kind = "y" if check.met else "n"
    return [
        f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{html.escape(told)}</text>',
        f'<rect class="{kind}" x="{x:.1f}" y="{y - 7}" width="{max(1.0, width):.1f}" height="12"/>',
    ]
