"""SQL LIKE patterns, matched in memory and written as a regular expression that needs no collation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

MAX_PATTERN = 1_000
"""Characters of a pattern; beyond it the database's own pattern compiler becomes slow."""

_SPECIAL = frozenset("\\.^$*+?()[]{}|")


def ends_in_escape(pattern: str) -> bool:
    """A lone backslash at the end escapes nothing: PostgreSQL refuses it."""
    return (len(pattern) - len(pattern.rstrip("\\"))) % 2 == 1


def like(text: str, pattern: str, *, ignore_case: bool) -> bool:
    """Whole-text match. `%` never backtracks over another `%`, so a hostile pattern cannot stall it."""
    (first, _), *rest = _segments(pattern, ignore_case)
    if not rest:
        return first.fullmatch(text) is not None
    start = first.match(text)
    if start is None:
        return False
    position = start.end()
    *middle, (last, length) = rest
    for segment, _ in middle:
        found = segment.search(text, position)
        if found is None:
            return False
        position = found.end()
    tail = len(text) - length
    return tail >= position and last.match(text, tail) is not None


def case_insensitive_regex(pattern: str) -> str:
    """The `$ilike` pattern as a regular expression with both cases of each letter spelled out.

    ILIKE would fold case by the database's locale; this gives the same answer on every server.
    """
    parts = ["".join(_atom(c, ignore_case=True) for c in segment) for segment in _split(pattern)]
    return f"^{'.*'.join(parts)}$"


@dataclass(frozen=True, slots=True)
class Segment:
    """What stands between two `%` signs, as an expression that matches texts of one length."""

    regex: str
    length: int


def segments(pattern: str, *, ignore_case: bool) -> list[Segment]:
    """The pattern's parts for any engine where `.` is every character; a text has them in this order."""
    return [
        Segment("".join(_atom(c, ignore_case=ignore_case) for c in part), len(part))
        for part in _split(pattern)
    ]


@lru_cache(maxsize=256)
def _segments(pattern: str, ignore_case: bool) -> tuple[tuple[re.Pattern[str], int], ...]:
    """What stands between the `%` signs: each as an expression of fixed length, with that length."""

    def compiled(segment: list[str | None]) -> re.Pattern[str]:
        return re.compile("".join(_atom(c, ignore_case=ignore_case) for c in segment), re.DOTALL)

    return tuple((compiled(segment), len(segment)) for segment in _split(pattern))


def _split(pattern: str) -> list[list[str | None]]:
    """Characters between the `%` signs; None stands for `_`."""
    segments: list[list[str | None]] = [[]]
    characters: Iterator[str] = iter(pattern)
    for character in characters:
        if character == "%":
            segments.append([])
        elif character == "_":
            segments[-1].append(None)
        else:
            segments[-1].append(next(characters, "\\") if character == "\\" else character)
    return segments


def _atom(character: str | None, *, ignore_case: bool) -> str:
    if character is None:
        return "."
    if character in _SPECIAL:
        return "\\" + character
    cases = (
        {c for c in (character, character.lower(), character.upper()) if len(c) == 1} if ignore_case else ()
    )
    return f"[{''.join(sorted(cases))}]" if len(cases) > 1 else character
