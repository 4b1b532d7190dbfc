"""Which headings of a Markdown text stand above a position in it."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from itertools import pairwise, takewhile

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

    def path(self, at: int) -> tuple[str, ...]:
        """The headings above a position, outermost first; one that begins there counts."""
        return self._of(bisect_right(self._starts, at) - 1)

    def shared(self, start: int, end: int) -> tuple[str, ...]:
        """The headings above all that lies between two positions: of several sections what their paths share.

        A section of which there is only the heading, with sections below it behind, counts as those.
        """
        first, last = bisect_right(self._starts, start) - 1, bisect_left(self._starts, end) - 1
        path = self._of(max(first, last))
        for number in range(first, last):
            if self._stands_alone(number, start):
                path = _common(path, self._of(number))
        return path

    def metadata(self, start: int, end: int) -> Mapping[str, JsonValue]:
        return {"heading_path": list(self.shared(start, end))}

    def _of(self, number: int) -> tuple[str, ...]:
        return self._paths[number] if number >= 0 else ()

    def _stands_alone(self, number: int, start: int) -> bool:
        """Whether the section has text of its own from `start` on, or the next one is not below it."""
        begins = self._ends[number] if number >= 0 else 0
        own, following = self._of(number), self._of(number + 1)
        return bool(self._text[max(start, begins) : self._starts[number + 1]].strip()) or (
            _common(own, following) != own or len(own) == len(following)
        )


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return tuple(name for name, _ in same)


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
