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
        self._starts = [start for start, _, _ in found]
        self._paths = list(_paths((level, title) for _, level, title in found))

    def path(self, position: int) -> tuple[str, ...]:
        """The headings above a position, outermost first; one that starts there counts."""
        at = bisect_right(self._starts, position)
        return self._paths[at - 1] if at else ()

    def metadata(self, position: int) -> Mapping[str, JsonValue]:
        path = self.path(position)
        return {"heading_path": list(path)} if path else {}


def _paths(headings: Iterator[tuple[int, str]]) -> Iterator[tuple[str, ...]]:
    open_: list[tuple[int, str]] = []
    for level, title in headings:
        open_ = [*(above for above in open_ if above[0] < level), (level, title)]
        yield tuple(name for _, name in open_)


def _headings(text: str) -> Iterator[tuple[int, int, str]]:
    """Position, level and title of each heading."""
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
            yield indent.end() if indent else 0, int(token.tag[1:]), title.content.strip()
