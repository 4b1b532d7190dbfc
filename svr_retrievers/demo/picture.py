"""Draws the figures as a small SVG for the README: answers found and recall, shared index against routed."""

from __future__ import annotations

import html
from collections.abc import Sequence

from svr_retrievers.demo.compare import LIMIT, CaseResult
from svr_retrievers.demo.postgres_table import SHARED, TUNED
from svr_retrievers.demo.routed import ROUTED
from svr_retrievers.demo.run import Findings

WIDTH, LEFT, PANEL, GAP = 760, 190, 230, 60
ROW, THICK, TOP = 44, 13, 84
COLOURS = {SHARED: "#e0a030", ROUTED: "#2a7f62"}
NAMES = {SHARED: "one shared HNSW index, defaults", ROUTED: "routed by SVR, defaults"}

STYLE = (
    "text{font:13px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#24292f}"
    ".s{font-size:11px;fill:#57606a}.b{font-weight:600}.t{fill:#eaeef2}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}.t{fill:#2d333b}}"
)


def svg(findings: Findings) -> str:
    results = findings.results
    height = TOP + ROW * len(results) + 58
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{html.escape(_title(findings))}</title><style>{STYLE}</style>",
        *_legend(),
        *_heads(),
    ]
    for number, result in enumerate(results):
        parts += _row(result, TOP + ROW * number)
    parts += [
        _text(0, height - 28, _tuned(results), "s"),
        _text(0, height - 10, _title(findings), "s"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _title(findings: Findings) -> str:
    versions = findings.versions
    return (
        f"{findings.documents:,} passages, {findings.questions} questions per filter, k = {LIMIT}; "
        f"PostgreSQL {versions.get('postgresql', '?')}, pgvector {versions.get('pgvector', '?')}. "
        "Made by: svr demo --svg"
    )


def _tuned(results: Sequence[CaseResult]) -> str:
    low = min(result.way(TUNED).recall for result in results)
    return (
        f"Tuned by hand (B-trees, iterative scan) the shared table reaches recall {low:.2f} or more as well."
    )


def _legend() -> list[str]:
    parts, x = [], LEFT
    for way, colour in COLOURS.items():
        parts.append(f'<rect x="{x}" y="8" width="12" height="12" rx="2" fill="{colour}"/>')
        parts.append(_text(x + 18, 19, NAMES[way]))
        x += PANEL + GAP
    return parts


def _heads() -> list[str]:
    return [
        _text(0, 64, "filter", "s"),
        _text(LEFT, 64, f"answers found of {LIMIT}, or of as many as there are", "s"),
        _text(LEFT + PANEL + GAP, 64, f"recall@{LIMIT}", "s"),
    ]


def _row(result: CaseResult, y: int) -> list[str]:
    parts = [
        _text(0, y + 12, result.name, "b"),
        _text(0, y + 27, f"{result.median_matches:,} documents match", "s"),
    ]
    for place, way in enumerate(COLOURS):
        measured = result.way(way)
        top = y + place * (THICK + 3)
        second = LEFT + PANEL + GAP
        found = measured.found / result.possible if result.possible else 1.0
        parts += _bar(LEFT, top, found, f"{measured.found:.1f}", COLOURS[way])
        parts += _bar(second, top, measured.recall, f"{measured.recall:.2f}", COLOURS[way])
    return parts


def _bar(x: int, y: int, share: float, label: str, colour: str) -> Sequence[str]:
    length = max(1.0, PANEL * min(share, 1.0))
    return (
        f'<rect class="t" x="{x}" y="{y}" width="{PANEL}" height="{THICK}" rx="2"/>',
        f'<rect x="{x}" y="{y}" width="{length:.1f}" height="{THICK}" rx="2" fill="{colour}"/>',
        _text(x + PANEL + 6, y + 11, label, "s"),
    )


def _text(x: int, y: int, text: str, style: str = "") -> str:
    marked = f' class="{style}"' if style else ""
    return f'<text x="{x}" y="{y}"{marked}>{html.escape(text)}</text>'
