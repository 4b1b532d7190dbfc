"""A document on its way into the store: the rows it shall become, and what is known of it so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from svr_retrievers.errors import InputError
from svr_retrievers.filters import normalise_metadata
from svr_retrievers.ingest.chunking import Chunk
from svr_retrievers.ingest.marks import KEY, MAX_CHUNKS, Mark, chunk_id, content_hash, text_hash
from svr_retrievers.model import Document, JsonValue
from svr_retrievers.names import check_key, check_text


@dataclass(slots=True, eq=False)
class Work:
    """One document of the source. `chunks` is None where it is stored whole, empty where nothing is to be stored."""

    document: Document
    place: str
    namespace: str
    metadata: Mapping[str, JsonValue]
    chunks: list[Chunk] | None
    wanted: str | None = None
    """The path of the partition it has to lie in."""
    refused: bool = False
    changed: bool = False
    position: int = 0
    """How many items of the source were read when this one was."""

    @property
    def id(self) -> str:
        return self.document.id

    @property
    def size(self) -> int:
        """How many rows it becomes."""
        return 1 if self.chunks is None else len(self.chunks)

    def row_ids(self) -> Iterator[str]:
        if self.chunks is None:
            yield self.id
        else:
            yield from (chunk_id(self.id, number) for number in range(len(self.chunks)))

    def claims(self) -> Iterator[tuple[str, str]]:
        """Everything that no other document may touch while this one is on its way."""
        yield self.namespace, self.id
        if self.chunks is not None:
            yield from ((self.namespace, row) for row in self.row_ids())
            if not self.chunks:
                yield self.namespace, chunk_id(self.id, 0)

    def rows(self, start: int, count: int) -> list[Row]:
        """The rows from number `start` on, at most `count`."""
        if self.chunks is None:
            return [_whole(self)] if start == 0 and count else []
        return [_chunk(self, number) for number in islice(range(start, len(self.chunks)), count)]


@dataclass(slots=True, eq=False)
class Row:
    """A row as it shall be stored."""

    work: Work
    mark: Mark
    metadata: Mapping[str, JsonValue]
    document: Document

    @property
    def id(self) -> str:
        return self.document.id

    @property
    def key(self) -> tuple[str, str]:
        return self.work.namespace, self.document.id


def _whole(work: Work) -> Row:
    given = work.document
    mark = Mark(work.id, None, None, text_hash(given.text, given.vector), content_hash(work.metadata, None))
    return _row(work, mark, given.text, work.metadata, given)


def _chunk(work: Work, number: int) -> Row:
    assert work.chunks is not None
    chunk = work.chunks[number]
    metadata = {**chunk.metadata, **work.metadata}
    count = len(work.chunks) if number == 0 else None
    mark = Mark(work.id, number, count, text_hash(chunk.text), content_hash(metadata, count))
    return _row(work, mark, chunk.text, metadata, None)


def _row(work: Work, mark: Mark, text: str, metadata: Mapping[str, JsonValue], given: Document | None) -> Row:
    row_id = work.id if mark.number is None else chunk_id(work.id, mark.number)
    vector = given.vector if given is not None else None
    return Row(
        work,
        mark,
        metadata,
        Document(row_id, text, {**metadata, KEY: mark.to_json()}, vector, work.namespace),
    )


@dataclass(slots=True)
class Batch:
    """Rows that are looked up, embedded and written together; documents that end here, and those that begin here."""

    parts: list[tuple[Work, int, int]] = field(default_factory=list)
    """Documents with the first of their rows that are meant, and how many."""
    begun: list[Work] = field(default_factory=list)
    ended: list[Work] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    size: int = 0
    characters: int = 0

    def take(self, work: Work, start: int, most: int) -> int:
        """Adds rows of the document from `start` on, at most so many; returns how many it were."""
        count = min(most, work.size - start)
        if start == 0:
            self.begun.append(work)
        if count:
            self.parts.append((work, start, count))
        if start + count == work.size:
            self.ended.append(work)
        self.size += count
        self.characters += len(work.document.text) * count // max(1, work.size)
        return count

    def put_together(self) -> None:
        """Makes the rows; their texts are hashed for it."""
        self.rows = [row for work, start, count in self.parts for row in work.rows(start, count)]

    def full(self, rows: int, characters: int) -> bool:
        return max(self.size, len(self.begun)) >= rows or self.characters >= characters

    @property
    def position(self) -> int:
        """How many items of the source are dealt with once this batch is written."""
        return max((work.position for work in self.ended), default=0)


def check_document(document: Document, namespace: str) -> tuple[str, dict[str, JsonValue]]:
    """The namespace it is stored in and its metadata in JSON's terms. Raises InputError."""
    check_key(document.id, "id")
    check_text(document.text, "text")
    space = namespace if document.namespace is None else check_key(document.namespace, "namespace")
    metadata = normalise_metadata(document.metadata)
    metadata.pop(KEY, None)
    return space, metadata


def check_chunks(document: Document, chunks: Sequence[object]) -> list[Chunk]:
    """Those with visible text, metadata in JSON's terms. Raises InputError for what cannot be stored."""
    if len(chunks) > MAX_CHUNKS:
        raise InputError(
            f"text makes {len(chunks):,} chunks; at most {MAX_CHUNKS:,} are stored.", hint="Cut it up."
        )
    checked = [each for chunk in chunks if (each := _checked(chunk)).text.strip()]
    if checked:
        check_key(chunk_id(document.id, len(checked) - 1), "id")
    return checked


def _checked(chunk: object) -> Chunk:
    if not isinstance(chunk, Chunk):
        raise InputError(
            f"The chunker made a {type(chunk).__name__}, not a Chunk.", hint="Chunk(text, metadata)"
        )
    check_text(chunk.text, "a chunk's text")
    return replace(chunk, metadata=normalise_metadata(chunk.metadata)) if chunk.metadata != {} else chunk
