"""Cuts texts into chunks that never exceed their size, at the best boundaries the text offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from svr_retrievers.errors import InputError, MissingExtra
from svr_retrievers.model import JsonValue

if TYPE_CHECKING:
    from semantic_text_splitter import MarkdownSplitter, TextSplitter
    from tokenizers import Tokenizer

WINDOW_CHARACTERS = 32_768
"""The splitter's time grows with the square of a text without paragraphs: longer texts are cut window by window."""
WINDOW_CHUNKS = 16
"""Fewer chunks a window would put too many boundaries where a window ends."""

SENTENCES_CHARACTERS = 4_096
"""The same for sentences, of which hardly any is longer."""

Span: TypeAlias = tuple[int, str]
Count: TypeAlias = Callable[[str], int]
Tokens: TypeAlias = "Tokenizer | Count | None"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a text, trimmed, with what its place in the text says about it."""

    text: str
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)


@runtime_checkable
class Chunker(Protocol):
    """Anything that cuts a text: the chunks in order, none for a text without visible characters."""

    def cut(self, text: str) -> Sequence[Chunk]: ...


class _Sized:
    """A size in characters, or in tokens of a tokenizer, and what follows from it."""

    def __init__(self, size: int, overlap: int, tokenizer: Tokens) -> None:
        for name, value, least in (("size", size, 1), ("overlap", overlap, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name} must be a whole number from {least} on, not {value!r}.")
        if overlap >= size:
            raise InputError(
                f"overlap is {overlap}, so a chunk of {size} would never get on.",
                hint="A tenth of the size is usual.",
            )
        _splitters()
        self.size, self.overlap = size, overlap
        self._tokenizer = tokenizer if tokenizer is None or callable(tokenizer) else _plain(tokenizer)

    def __repr__(self) -> str:
        unit = "" if self._tokenizer is None else ", in tokens"
        return f"{type(self).__name__}(size={self.size}, overlap={self.overlap}{unit})"

    def count(self, text: str) -> int:
        """The size of a text in this chunker's unit."""
        if self._tokenizer is None:
            return len(text)
        if callable(self._tokenizer):
            return self._tokenizer(text)
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _splitter(
        self,
        kind: type[TextSplitter | MarkdownSplitter],
        capacity: int | tuple[int, int],
        *,
        overlap: int,
        trim: bool,
    ) -> TextSplitter | MarkdownSplitter:
        if self._tokenizer is None:
            return kind(capacity, overlap=overlap, trim=trim)
        if callable(self._tokenizer):
            return kind.from_callback(self._tokenizer, capacity, overlap=overlap, trim=trim)
        return kind.from_huggingface_tokenizer(self._tokenizer, capacity, overlap=overlap, trim=trim)

    def _fitting(self, start: int, text: str) -> Iterator[Span]:
        """The piece itself if it fits, else smaller ones: tokens of a whole may be more than those of its parts."""
        if self.count(text) <= self.size:
            yield start, text
            return
        if len(text) == 1:
            raise InputError(
                f"The character {text!r} alone takes {self.count(text)} tokens; chunks may hold {self.size}.",
                hint="Use a larger size.",
            )
        middle = _middle(text)
        for at, part in ((0, text[:middle]), (middle, text[middle:])):
            bare = part.strip()
            if bare:
                yield from self._fitting(start + at + part.index(bare), bare)


class _Splitting(_Sized, ABC):
    """Chunks by one of the splitters of `semantic-text-splitter`."""

    @abstractmethod
    def _kind(self) -> type[TextSplitter | MarkdownSplitter]: ...

    def spans(self, text: str) -> Iterator[Span]:
        """The chunks with the positions at which they start.

        Each window but the last gives up its last chunk, from whose beginning the next one starts.
        """
        reached = 0
        for start, chunk in self._windows(text):
            for at, part in self._fitting(start, chunk):
                if at + len(part) > reached:  # not one that lies in the overlap alone
                    reached = at + len(part)
                    yield at, part

    def _windows(self, text: str) -> Iterator[Span]:
        splitter = self._splitter(self._kind(), self.size, overlap=self.overlap, trim=True)
        width = max(WINDOW_CHARACTERS, self.size * WINDOW_CHUNKS)
        at = 0
        while at < len(text):
            found = splitter.chunk_indices(text[at : at + width])
            whole = at + width >= len(text) or not found or found[-1][0] == 0
            yield from ((at + start, chunk) for start, chunk in (found if whole else found[:-1]))
            at += width if whole else found[-1][0]


class RecursiveChunker(_Splitting):
    """Cuts at the largest units that fit: paragraphs, lines, sentences, words, at last characters.

    `size` counts characters, or tokens of `tokenizer` (a `tokenizers.Tokenizer`, or any function from text to
    int). `overlap` is how much of a chunk's end the next one may repeat, in whole units; it counts towards `size`.
    """

    def __init__(self, size: int = 1000, overlap: int = 0, *, tokenizer: Tokens = None) -> None:
        super().__init__(size, overlap, tokenizer)

    def _kind(self) -> type[TextSplitter | MarkdownSplitter]:
        return _splitters()[0]

    def cut(self, text: str) -> list[Chunk]:
        return [Chunk(chunk) for _, chunk in self.spans(text)]


class MarkdownChunker(_Splitting):
    """Cuts Markdown at its headings, blocks and sentences; arguments as of `RecursiveChunker`.

    Each chunk's metadata holds `heading_path`: the headings, outermost first, above all of its text. Of a chunk that
    holds several sections it is what their paths share, and it is empty before the first heading.
    """

    def __init__(self, size: int = 1000, overlap: int = 0, *, tokenizer: Tokens = None) -> None:
        super().__init__(size, overlap, tokenizer)

    def _kind(self) -> type[TextSplitter | MarkdownSplitter]:
        return _splitters()[1]

    def cut(self, text: str) -> list[Chunk]:
        from svr_retrievers.ingest.headings import Headings

        headings = Headings(text)
        return [
            Chunk(chunk, headings.metadata(start, start + len(chunk))) for start, chunk in self.spans(text)
        ]


class SentenceChunker(_Sized):
    """Fills chunks with whole sentences; arguments as of `RecursiveChunker`, overlap in whole sentences too.

    Sentences end where Unicode says (UAX 29), also across the lines of a paragraph, and at the end of a paragraph.
    Only a sentence that is longer than `size` is cut, between words if it can be.
    """

    def __init__(self, size: int = 1000, overlap: int = 0, *, tokenizer: Tokens = None) -> None:
        super().__init__(size, overlap, tokenizer)

    def cut(self, text: str) -> list[Chunk]:
        return [Chunk(chunk) for _, chunk in self.spans(text)]

    def spans(self, text: str) -> Iterator[Span]:
        """The chunks with the positions at which they start."""
        for start, end in self._filled(text):
            whole = text[start:end]
            if bare := whole.strip():
                yield start + whole.index(bare), bare

    def _filled(self, text: str) -> Iterator[tuple[int, int]]:
        ends = [start + len(piece) for start, piece in self._sentences(text)]
        starts = [0, *ends]
        first = 0
        while first < len(ends):
            last = first + 1
            while last < len(ends) and self._fits(text[starts[first] : ends[last]]):
                last += 1
            yield starts[first], ends[last - 1]
            first = self._next(text, starts, ends, first, last)

    def _fits(self, piece: str) -> bool:
        return self.count(piece.strip()) <= self.size

    def _next(self, text: str, starts: Sequence[int], ends: Sequence[int], first: int, last: int) -> int:
        """The sentence the next chunk begins with: far enough back for the overlap, and leaving room for one more."""
        if last >= len(ends):
            return last
        begin = last
        while begin - 1 > first:
            back = starts[begin - 1]
            if self.count(text[back : ends[last - 1]].strip()) > self.overlap or not self._fits(
                text[back : ends[last]]
            ):
                break
            begin -= 1
        return begin

    def _sentences(self, text: str) -> Iterator[Span]:
        """Pieces that fit and together are the whole text: sentences, or parts of long ones."""
        parts = self._splitter(_splitters()[0], self.size, overlap=0, trim=False)
        for start, sentence in _sentences(_one_line_a_paragraph(text)):
            if self._fits(sentence):
                yield start, sentence
                continue
            for at, part in parts.chunk_indices(sentence):
                yield from self._untrimmed(text, start + at, len(part))

    def _untrimmed(self, text: str, start: int, length: int) -> Iterator[Span]:
        """The piece, or its halves where it does not fit; nothing of it is lost."""
        piece = text[start : start + length]
        if self._fits(piece):
            yield start, piece
            return
        if length == 1:
            yield from self._fitting(start, piece)
            return
        middle = _middle(piece)
        yield from self._untrimmed(text, start, middle)
        yield from self._untrimmed(text, start + middle, length - middle)


def _sentences(text: str) -> Iterator[Span]:
    """The sentences of each line, and what is blank behind it; together they are the whole text.

    Of a line that is very long they are found window by window, and none is longer than a window.
    """
    splitter = _splitters()[0]((1, SENTENCES_CHARACTERS), trim=False)
    begun = 0
    for line in text.splitlines(keepends=True):
        bare = line.rstrip()
        at = 0
        while at < len(bare):
            found = splitter.chunk_indices(bare[at : at + SENTENCES_CHARACTERS])
            whole = at + SENTENCES_CHARACTERS >= len(bare) or len(found) < 2
            for start, piece in found if whole else found[:-1]:
                yield begun + at + start, piece
            at += SENTENCES_CHARACTERS if whole else found[-1][0]
        if len(bare) < len(line):
            yield begun + len(bare), line[len(bare) :]
        begun += len(line)


def _one_line_a_paragraph(text: str) -> str:
    """The text with single line breaks as spaces, of the same length, so that no sentence ends there."""
    lines = text.splitlines(keepends=True)
    made = []
    for line, following in zip(lines, [*lines[1:], ""], strict=False):
        bare = line.rstrip("\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029")
        joins = bare.strip() and following.strip()
        made.append(bare + " " * (len(line) - len(bare)) if joins else line)
    return "".join(made)


def _middle(text: str) -> int:
    """Where to halve: behind a space near the middle if there is one."""
    half = len(text) // 2
    space = text.rfind(" ", 1, half + 1)
    return space + 1 if space > half // 2 else half


def _plain(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that neither truncates nor pads, for both would hide a text's size."""
    copy: Tokenizer = type(tokenizer).from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _splitters() -> tuple[type[TextSplitter], type[MarkdownSplitter]]:
    try:
        from semantic_text_splitter import MarkdownSplitter, TextSplitter
    except ImportError:
        raise MissingExtra(
            "Cutting texts needs semantic-text-splitter.", hint='Run: pip install "svr-retrievers[ingest]"'
        ) from None
    return TextSplitter, MarkdownSplitter
