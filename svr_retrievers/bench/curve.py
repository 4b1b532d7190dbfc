"""Draws recall against time as curves, and what each way of asking under a filter finds: two small SVGs."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from svr_retrievers.bench.record import Record
from svr_retrievers.bench.run import Run
from svr_retrievers.bench.table import title
from svr_retrievers.model import JsonValue

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 760, 400, 64, 52, 46
SWEPT = "swept on the tuning queries"
COLOURS = ("#8a5a9e", "#b8862d", "#2a7f62")
STYLE = (
    "text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#24292f}.s{font-size:11px;fill:#57606a}"
    ".g{stroke:#d0d7de}polyline{fill:none;stroke-width:2}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}.g{stroke:#3d444d}}"
)
KINDS = (
    ("one big index, defaults", "one big index, defaults"),
    ("one big index, well built", "one big index, ef_construction 200"),
    ("routed", "routed partitions"),
)
"""How the names of settings begin, and what their curve is called."""


@dataclass(frozen=True, slots=True)
class Point:
    ms: float
    recall: float


def curves(run: Run) -> str | None:
    """Every setting of row 5: the better, the further up and to the left. None where row 5 was not measured."""
    swept = _medians(run, "5").get(SWEPT)
    if not isinstance(swept, dict) or not swept:
        return None
    lines = [(label, frontier(_points(swept, start))) for start, label in KINDS]
    return _plot(f"Recall and time of a search: {title(run)}", [one for one in lines if one[1]])


def filters(run: Run) -> str | None:
    """Recall, median and 95th percentile of rows 6 and 6b, each way of asking a bar. None without both."""
    groups = [
        (what, {name: told for name, told in _medians(run, row).items() if "," not in name or told_by(name)})
        for row, what in (
            ("6", "filter of 1 %, unrelated to the topic"),
            ("6b", "category that follows the topic"),
        )
    ]
    groups = [(what, rows) for what, rows in groups if rows]
    if len(groups) < 2:
        return None
    return _bars(f"Ten nearest under a filter: {title(run)}", groups)


def told_by(name: str) -> bool:
    """Whether a series of row 6 belongs to its own filter and not to those shown beside it."""
    return not name.endswith(" %")


def frontier(points: Iterable[Point]) -> list[Point]:
    """The settings for which no other is at once faster and better, by time."""
    best: list[Point] = []
    for one in sorted(points, key=lambda p: (p.ms, -p.recall)):
        if not best or one.recall > best[-1].recall:
            best.append(one)
    return best


def _medians(run: Run, row: str) -> Mapping[str, JsonValue]:
    found: Sequence[Record] = [record for record in run.records if record.id == row]
    return found[0].finding.medians if found else {}


def _points(swept: Mapping[str, JsonValue], start: str) -> list[Point]:
    told = [one for name, one in swept.items() if name.startswith(start) and isinstance(one, dict)]
    return [Point(_number(one["p50_ms"]), _number(one["recall"])) for one in told]


def _number(value: JsonValue) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _plot(caption: str, lines: Sequence[tuple[str, Sequence[Point]]]) -> str:
    every = [point for _, points in lines for point in points]
    low = math.floor(min(p.recall for p in every) * 20 - 0.2) / 20
    fast, slow = min(p.ms for p in every) / 1.2, max(p.ms for p in every) * 1.2

    def x(ms: float) -> float:
        return LEFT + (WIDTH - LEFT - 20) * math.log(ms / fast) / math.log(slow / fast)

    def y(recall: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - recall) / (1 - low)

    parts = _head(caption, HEIGHT)
    for step in range(round((1 - low) * 20) + 1):
        at = 1 - step / 20
        parts.append(f'<line class="g" x1="{LEFT}" x2="{WIDTH - 20}" y1="{y(at):.1f}" y2="{y(at):.1f}"/>')
        parts.append(f'<text class="s" x="{LEFT - 8}" y="{y(at) + 4:.1f}" text-anchor="end">{at:.2f}</text>')
    for ms in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64):
        if fast <= ms <= slow:
            parts.append(
                f'<text class="s" x="{x(ms):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{ms:g}</text>'
            )
    parts.append(
        f'<text class="s" x="{WIDTH - 20}" y="{HEIGHT - 8}" text-anchor="end">median ms, log scale</text>'
    )
    parts.append('<text class="s" x="0" y="38">recall of the ten nearest</text>')
    for number, (label, points) in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x(p.ms):.1f},{y(p.recall):.1f}" for p in points)
        parts.append(f'<polyline points="{path}" stroke="{colour}"/>')
        parts += [
            f'<circle cx="{x(p.ms):.1f}" cy="{y(p.recall):.1f}" r="3" fill="{colour}"/>' for p in points
        ]
        at = HEIGHT - BOTTOM - 14 - 18 * (len(lines) - 1 - number)
        parts.append(f'<rect x="{WIDTH - 270}" y="{at - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - 254}" y="{at}">{html.escape(label)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bars(caption: str, groups: Sequence[tuple[str, Mapping[str, JsonValue]]]) -> str:
    count = sum(len(rows) + 1 for _, rows in groups)
    height = TOP + 24 * count + 12
    parts = _head(caption, height)
    middle, right = 270, WIDTH - 250
    parts.append(f'<text class="s" x="{middle}" y="38">recall</text>')
    parts.append(f'<text class="s" x="{right + 10}" y="38">median / p95 ms / answered short</text>')
    y = TOP
    for what, rows in groups:
        y += 24
        parts.append(f'<text x="0" y="{y - 6}" font-weight="600">{html.escape(what)}</text>')
        for name, told in rows.items():
            if not isinstance(told, dict):
                continue
            y += 24
            recall = _number(told["recall"])
            colour = COLOURS[2] if name.startswith("routed") else COLOURS[1]
            figures = (
                f"{recall:.3f}   {_number(told['p50_ms']):.2f} / {_number(told['p95_ms']):.2f} ms"
                f" / {_number(told['short']):g} of {_number(told['queries']):g}"
            )
            bar = f'<rect x="{middle}" y="{y - 17}" width="{(right - middle) * recall:.1f}" height="14"'
            parts += [
                f'<text class="s" x="{middle - 10}" y="{y - 6}" text-anchor="end">{html.escape(name)}</text>',
                f'{bar} fill="{colour}"/>',
                f'<text class="s" x="{right + 10}" y="{y - 6}">{figures}</text>',
            ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _head(caption: str, height: int) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{html.escape(caption)}</title><style>{STYLE}</style>",
        f'<text x="0" y="16">{html.escape(caption)}</text>',
    ]
