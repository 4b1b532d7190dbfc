"""What has to be done for a batch, given what is stored already. PURE.

Of every document these two things hold at any moment, whatever call was the last one to be carried out:

1. If a row `<id>#k` exists, so does `<id>#0`, and its `count` is greater than k.
2. Every row that a document once had is therefore found from `<id>` and `<id>#0`, which each run looks up.

Runs over the same document at the same time break both. What they leave is looked for behind the document's last chunk:
`BEYOND` numbers each time, and where that finds a row, or the document became shorter, further on (`writing.py`).

`docs/decisions/0022-ingest-state-in-the-rows.md` has the argument; the order of calls is in `writing.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from svr_retrievers.ingest.marks import Mark, chunk_id, text_hash
from svr_retrievers.ingest.work import Batch, Row, Work
from svr_retrievers.model import Document

Mode: TypeAlias = Literal["upsert", "insert"]
Key: TypeAlias = tuple[str, str]
Stored: TypeAlias = Mapping[Key, Document]
BEYOND = 8
"""Chunk numbers behind a document's last that are looked up as well; a row that is not there costs next to nothing."""


@dataclass(slots=True)
class Plan:
    """Rows to write, row ids to delete before and after that, and documents that cannot be stored.

    `stale` deletes are ranges of chunk numbers of a document: they are put into words only when they are carried out.
    """

    write: list[Row] = field(default_factory=list)
    reusable: dict[Key, Key] = field(default_factory=dict)
    """For a row to write, a stored row with the vector of the same text."""
    unchanged: int = 0
    untouched: list[Row] = field(default_factory=list)
    """Those of the unchanged rows whose document has to lie in a partition that was named."""
    shortened: list[tuple[Work, int, int]] = field(default_factory=list)
    """Chunks of a document from one number up to another, to be deleted before its rows are written."""
    replaced: list[tuple[Work, int]] = field(default_factory=list)
    """Chunks of a document that is stored whole from now on, to be deleted afterwards."""
    whole: list[Work] = field(default_factory=list)
    """Documents now stored in chunks, whose row as a whole is to be deleted afterwards."""
    refused: dict[Work, tuple[str, str]] = field(default_factory=dict)
    """Documents that cannot be stored, with the code and message of their refusal."""

    def refuse(self, work: Work, why: tuple[str, str]) -> None:
        self.refused.setdefault(work, why)


def keys_to_look_up(batch: Batch) -> Iterator[Key]:
    """Every row the batch is about, and of every document that begins in it the two rows its others are found from."""
    for row in batch.rows:
        yield row.key
    for work in batch.begun:
        yield work.namespace, work.id
        yield work.namespace, chunk_id(work.id, 0)
        yield from _beyond(work)


def _beyond(work: Work) -> Iterator[Key]:
    """Rows that only runs that overlapped leave behind: they are looked for without a sign of them."""
    end = len(work.chunks or ())
    return ((work.namespace, chunk_id(work.id, number)) for number in range(end, end + BEYOND))


def plan(batch: Batch, stored: Stored, mode: Mode) -> Plan:
    made = Plan()
    for work in batch.begun:
        _begin(work, stored, mode, made)
    vectors = _vectors(batch, stored)
    for row in batch.rows:
        if not row.work.refused and row.work not in made.refused:
            _row(row, stored.get(row.key), mode, made, vectors)
    made.write = [row for row in made.write if row.work not in made.refused]
    return made


def _begin(work: Work, stored: Stored, mode: Mode, made: Plan) -> None:
    """What the document leaves behind in another form or of a greater length."""
    head = _mark(stored.get((work.namespace, chunk_id(work.id, 0))), work)
    former = head.count or 0 if head is not None and head.number == 0 else 0
    whole = _mark(stored.get((work.namespace, work.id)), work)
    was_whole = whole is not None and whole.number is None
    if mode == "insert":
        if work.size and (was_whole if work.chunks is not None else former):
            made.refuse(work, _EXISTS)
        return
    left = [_mark(stored.get(key), work) for key in _beyond(work)]
    former = max(
        [former, *(mark.number + 1 for mark in left if mark is not None and mark.number is not None)]
    )
    if work.chunks is None:
        if former:
            made.replaced.append((work, former))
        return
    if former > len(work.chunks):
        made.shortened.append((work, len(work.chunks), former))
    if was_whole:
        made.whole.append(work)


def _mark(stored: Document | None, work: Work) -> Mark | None:
    mark = Mark.of(stored) if stored is not None else None
    return mark if mark is not None and mark.document == work.id else None


def _vectors(batch: Batch, stored: Stored) -> dict[tuple[str, str, str], Key]:
    """Where vectors of texts are that documents of this batch have stored: by namespace, document and hash."""
    documents = {(row.work.namespace, row.work.id) for row in batch.rows}
    found: dict[tuple[str, str, str], Key] = {}
    for key, document in stored.items():
        if (entry := vector_of(key, document)) is not None and entry[:2] in documents:
            found.setdefault(entry, key)
    return found


def vector_of(key: Key, stored: Document) -> tuple[str, str, str] | None:
    """Namespace, document and hash of the text that a stored row's vector was made from; None if it is not known."""
    mark = Mark.of(stored)
    return (
        (key[0], mark.document, mark.text)
        if mark is not None and mark.text == text_hash(stored.text)
        else None
    )


def _row(
    row: Row, stored: Document | None, mode: Mode, made: Plan, vectors: Mapping[tuple[str, str, str], Key]
) -> None:
    mark = Mark.of(stored) if stored is not None else None
    ours = mark is not None and (mark.document, mark.number) == (row.mark.document, row.mark.number)
    if stored is not None and ours and _same(stored, row.document):
        made.unchanged += 1
        if row.work.wanted is not None:
            made.untouched.append(row)
        return
    if stored is not None and not ours and (mark is not None or row.mark.number is not None):
        made.refuse(row.work, _taken(row.id, mark))
        return
    if stored is not None and mode == "insert":
        made.refuse(row.work, _EXISTS)
        return
    made.write.append(row)
    donor = vectors.get((row.work.namespace, row.work.id, row.mark.text))
    if row.document.vector is None and donor is not None:
        made.reusable[row.key] = donor


def _same(stored: Document, wanted: Document) -> bool:
    """Metadata holds the mark; the rest of it is compared too, for others may have changed the row since."""
    return stored.text == wanted.text and stored.metadata == wanted.metadata


_EXISTS = ("exists", "It is stored already, with other content, and mode='insert' replaces nothing.")


def _taken(row_id: str, mark: Mark | None) -> tuple[str, str]:
    owner = "another document" if mark is None else f"the document {mark.document[:80]!r}"
    return (
        "taken",
        f"The id {row_id[:80]!r} belongs to {owner}. Use ids from which chunk ids cannot be mistaken.",
    )


def chunk_ids(document: str, first: int, end: int) -> Iterator[str]:
    """The ids of chunks from `end - 1` down to `first`, so that chunk 0 goes last."""
    return (chunk_id(document, number) for number in range(end - 1, first - 1, -1))
