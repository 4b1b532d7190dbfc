"""Which headings of a Markdown text stand above a position in it."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import pairwise

from svr_retrievers.errors import MissingExtra
from svr_retrievers.model import JsonValue

_LINE_END = re.compile(r"\r\n|\r|\n")
_INDENT = re.compile(r" *")


class Headings:
    """The headings of a text as CommonMark sees them: none in code, none inside quotes or lists."""

    def __init__(self, text: str) -> None:
        found = list(_headings(text))
        self._text = text
        self._starts = [start for start, _, _, _ in found]
        self._ends = [end for _, end, _, _ in found]
        self._paths = list(_paths((level, title) for _, _, level, title in found))

    def path(self, start: int, end: int | None = None) -> tuple[str, ...]:
        """The headings above what begins at `start`, outermost first.

        Headings that it begins with count, up to the first other text before `end`.
        """
        at = bisect_right(self._starts, start)
        while 0 < at < len(self._starts) and self._starts[at] < (start if end is None else end):
            if self._text[max(start, self._ends[at - 1]) : self._starts[at]].strip():
                break
            at += 1
        return self._paths[at - 1] if at else ()

    def metadata(self, start: int, end: int) -> Mapping[str, JsonValue]:
        path = self.path(start, end)
        return {"heading_path": list(path)} if path else {}


def _paths(headings: Iterator[tuple[int, str]]) -> Iterator[tuple[str, ...]]:
    open_: list[tuple[int, str]] = []
    for level, title in headings:
        open_ = [*(above for above in open_ if above[0] < level), (level, title)]
        yield tuple(name for _, name in open_)


def _headings(text: str) -> Iterator[tuple[int, int, int, str]]:
    """Beginning, end, level and title of each heading."""
    try:
        from markdown_it import MarkdownIt
    except ImportError:
        raise MissingExtra(
            "Reading Markdown's headings needs markdown-it-py.",
            hint='Run: pip install "svr-retrievers[ingest]"',
        ) from None
    starts = [0, *(end.end() for end in _LINE_END.finditer(text))]
    tokens = MarkdownIt("commonmark").disable("inline").parse(text)
    for token, title in pairwise(tokens):
        if token.type == "heading_open" and token.level == 0 and token.map:
            indent = _INDENT.match(text, starts[token.map[0]])
            end = starts[min(token.map[1], len(starts) - 1)]
            yield indent.end() if indent else 0, end, int(token.tag[1:]), title.content.strip()
