"""The dead-letter file: what was refused, why and when, one JSON object a line, to be mended and replayed."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from svr_retrievers.errors import InputError
from svr_retrievers.ingest.plain import body_of
from svr_retrievers.ingest.records import Column, Columns, Item, Read, Reader, Unreadable, as_item, told
from svr_retrievers.ingest.sources import existing, guarded
from svr_retrievers.model import Document

_WHOLE = Columns(metadata=None)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One document that was not stored.

    `code` is an error's code, or `exists` or `taken` (its id), `unreadable`, `chunker`, `vector`. `document` is None
    for what could not be read as one; `raw` is then what stood there, as far as it is text: a record as JSON, a line
    as it was. A report holds only so much of it, a dead-letter file all.
    """

    id: str
    place: str
    code: str
    message: str
    document: Document | None = None
    raw: str = ""

    def __str__(self) -> str:
        where = f" ({self.place})" if self.place and self.place != self.id else ""
        return f"{self.id or 'a record'}{where}: {self.message}"


class DeadLetters:
    """Appends refusals to a file, which it creates, readable by its owner alone, when the first one comes.

    A line that a killed run left half written is cut off: that run's successor refuses the same document again.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.absolute().parent.is_dir() or self.path.is_dir():
            raise InputError(
                f"{str(self.path)!r} cannot be written.", hint="Name a file in a folder that exists."
            )
        self._lock = threading.Lock()
        self._mended = False

    def write(self, refusal: Refusal) -> None:
        line = json.dumps(_letter(refusal), ensure_ascii=True) + "\n"
        with self._lock:
            if not self._mended:
                _cut_torn_line(self.path)
                self._mended = True
            self.path.touch(0o600)
            with self.path.open("ab") as file:
                file.write(line.encode())


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65_536)
            file.seek(start)
            at = file.read(end - start).rfind(b"\n")
            end = start if at < 0 else start + at + 1
            if at >= 0:
                break
        file.truncate(end)


def _letter(refusal: Refusal) -> dict[str, object]:
    letter: dict[str, object] = {
        "code": refusal.code,
        "message": refusal.message,
        "place": refusal.place,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if refusal.document is None:
        return {**letter, "id": refusal.id, "raw": refusal.raw}
    return {**letter, "document": body_of(refusal.document)}


def replay(
    path: str | Path,
    *,
    id: Column = "id",
    text: Column = "text",
    vector: str | None = "vector",
    namespace: str | None = "namespace",
    metadata: Sequence[str] | None = None,
) -> Reader:
    """The documents of a dead-letter file as a source, each once, as the file was when reading began.

    What could not be read as a document when it was refused is read again from its `raw`, where that is a JSON
    object, as it is for records: `id`, `text` and so on name its fields as in `read_jsonl`. Anything else is refused
    again until it is mended into one. A document that a function given to `map()` failed on comes as it was before.

    A letter holds its document as it was when it was refused: replayed later, it replaces what has been stored of
    that document since. Delete the file once it is replayed, or give the pipeline mode="insert".
    The file is left as it is. Raises InputError when there is no such file.
    """
    file, columns = existing(path), Columns(id, text, vector, namespace, metadata)

    def read() -> Iterator[Item]:
        end, seen = file.stat().st_size, set[bytes]()
        with file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if stream.tell() > end or not line.endswith(b"\n"):
                    return
                item = _replayed(line, f"{file.name}:{number}", columns)
                key = _content(line)
                if key not in seen:
                    seen.add(key)
                    yield item

    return Reader(f"replay({str(path)!r})", guarded(read, file))


def _content(line: bytes) -> bytes:
    """The same for two letters about the same document, whenever it was refused; what is none is told by its place."""
    try:
        letter = json.loads(line)
        names = ("document",) if letter.get("document") is not None else ("id", "raw", "place")
        line = json.dumps([letter.get(name) for name in names], sort_keys=True).encode()
    except (ValueError, AttributeError):
        pass  # told of by its own item
    return hashlib.blake2b(line, digest_size=16).digest()


def _replayed(line: bytes, place: str, columns: Columns) -> Item:
    try:
        letter = json.loads(line)
        document, raw = letter.get("document"), letter.get("raw")
        before = str(letter.get("place") or place)
    except (ValueError, AttributeError) as error:
        return Unreadable(
            place,
            f"The line is no dead letter: {told(error)}.",
            raw=line.decode("utf-8", "replace").rstrip("\r\n"),
        )
    if isinstance(document, Mapping):
        return _as_it_was(document, before)
    return _mended(raw, before, columns, str(letter.get("message") or ""), str(letter.get("id") or ""))


def _as_it_was(body: Mapping[str, object], place: str) -> Item:
    """A text that is null, or metadata that is no object, stays so and is refused again, unlike in a record."""
    text, metadata = body.get("text", ""), body.get("metadata", {})
    if text is not None and isinstance(metadata, Mapping):
        return as_item(body, place, _WHOLE)
    made: Mapping[str, object] = {"namespace": None, "vector": None, **body}
    parts = (made.get("id"), text, metadata, made["vector"], made["namespace"])
    document: Document = Document(*parts)  # type: ignore[arg-type]
    return Read(document, place)


def _mended(raw: object, place: str, columns: Columns, message: str, doc_id: str) -> Item:
    try:
        record = json.loads(raw) if isinstance(raw, str) else None
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, Mapping):
        return as_item(record, place, columns)
    return Unreadable(place, message or "It could not be read.", doc_id, raw if isinstance(raw, str) else "")
