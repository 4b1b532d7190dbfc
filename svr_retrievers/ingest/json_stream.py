"""The elements of a JSON array, decoded one by one from a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TextIO

_BLOCK = 64 * 1024
_DECODER = json.JSONDecoder()
_SPACE = " \t\r\n"
_BEHIND = _SPACE + ",]}"


class BadRest(Exception):
    """From element `number` on the array cannot be read. `raw` is how it goes on there."""

    def __init__(self, number: int, reason: str, raw: str) -> None:
        super().__init__(reason)
        self.number, self.reason, self.raw = number, reason, raw


class _Window:
    """The part of the text that is being looked at; what lies before it is forgotten."""

    def __init__(self, stream: TextIO, most: int) -> None:
        self._stream, self._most = stream, most
        self.text, self.at, self.ended = "", 0, False

    def grow(self) -> bool:
        """At least doubles what lies ahead, so that an element is not tried more often than its length's logarithm."""
        ahead = len(self.text) - self.at
        more = self._stream.read(max(_BLOCK, ahead))
        self.text, self.at = self.text[self.at :] + more, 0
        self.ended = not more
        return not self.ended

    def peek(self) -> str:
        """The next visible character, before which the window then begins; empty at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.grow():
                return ""

    def element(self, number: int) -> object:
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except (ValueError, RecursionError) as error:
                reason = f"It is not JSON: {' '.join(str(error).split())}; the rest was not read."
            else:
                if self.ended or self._is_whole(value, end):
                    self.at = end
                    return value
                reason = "It is cut off."
            if len(self.text) - self.at > self._most:
                raise BadRest(
                    number,
                    f"It is no JSON within {self._most:,} characters; the rest was not read.",
                    self.rest,
                )
            if self.ended or not self.grow():
                if reason == "It is cut off.":
                    continue
                raise BadRest(number, reason, self.rest)

    def _is_whole(self, value: object, end: int) -> bool:
        """Whether no more of the stream could belong to it: only numbers do not say where they end."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return end < len(self.text) and self.text[end] in _BEHIND
        return True

    @property
    def rest(self) -> str:
        return self.text[self.at : self.at + _BLOCK]


def elements(stream: TextIO, most: int) -> Iterator[object]:
    """The elements of the array that the stream holds; a stream with one value alone is that element.

    Raises BadRest, and whatever reading the stream raises. No element may be longer than `most` characters.
    """
    window = _Window(stream, most)
    opening = window.peek()
    if opening == "":
        return
    if opening != "[":
        yield window.element(1)
        _nothing_more(window, 2)
        return
    window.at += 1
    number = 0
    while (sign := window.peek()) != "]" or number:
        number += 1
        if sign == "":
            raise BadRest(number, "The file ends within the array.", "")
        yield window.element(number)
        if (sign := window.peek()) == "]":
            break
        if sign != ",":
            raise BadRest(
                number + 1, "There is no comma behind the record before; the rest was not read.", window.rest
            )
        window.at += 1
    window.at += 1
    _nothing_more(window, number + 1)


def _nothing_more(window: _Window, number: int) -> None:
    if window.peek():
        raise BadRest(number, "More follows behind the end of the JSON; it was not read.", window.rest)
