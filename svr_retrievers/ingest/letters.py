"""The dead-letter file: what was refused, why and when, one JSON object a line, to be mended and replayed."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from svr_retrievers.errors import InputError
from svr_retrievers.ingest.records import Columns, Item, Read, Reader, Unreadable, as_item, told
from svr_retrievers.ingest.serializer import scalar
from svr_retrievers.ingest.sources import existing, guarded
from svr_retrievers.model import Document

_WHOLE = Columns(metadata=None)
_DEPTH = 100
_TOO_DEEP = "(nested too deep)"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One document that was not stored.

    `code` is an error's code, or `exists` or `taken` (its id), `unreadable`, `chunker`, `vector`. `document` is None
    for what could not be read as one; `raw` is then the beginning of what stood there.
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
    return {**letter, "document": _body(refusal.document)}


def _body(document: Document) -> dict[str, object]:
    body: dict[str, object] = {
        "id": _plain(document.id),
        "text": _plain(document.text),
        "metadata": _plain(document.metadata),
    }
    if document.vector is not None:
        body["vector"] = _plain(document.vector)
    if document.namespace is not None:
        body["namespace"] = _plain(document.namespace)
    return body


def _plain(value: object, depth: int = 0) -> object:
    """What JSON can hold of a value that was refused, perhaps for being none of that."""
    if depth > _DEPTH:
        return _TOO_DEEP
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < 10**4000 else scalar(value)
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), depth + 1)
    if isinstance(value, Mapping):
        return {_name(key): _plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner, depth + 1) for inner in value]
    return _name(value)


def _name(value: object) -> str:
    try:
        return str(value.isoformat() if hasattr(value, "isoformat") else value)
    except Exception:  # noqa: BLE001 - an object of the user's, which was refused already
        return type(value).__name__


def replay(path: str | Path) -> Reader:
    """The documents of a dead-letter file as a source, each once, as the file was when reading began.

    What could not be read as a document when it was refused is refused again, unless its `raw` was mended into a
    JSON object with an id. The file is left as it is. Raises InputError when there is no such file.
    """
    file = existing(path)

    def read() -> Iterator[Item]:
        end, seen = file.stat().st_size, set[bytes]()
        with file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if stream.tell() > end or not line.endswith(b"\n"):
                    return
                item = _replayed(line, f"{file.name}:{number}")
                key = _content(line)
                if key not in seen:
                    seen.add(key)
                    yield item

    return Reader(f"replay({str(path)!r})", guarded(read, file))


def _content(line: bytes) -> bytes:
    """The same for two letters about the same document, whenever it was refused."""
    try:
        letter = json.loads(line)
        line = json.dumps([letter.get(name) for name in ("document", "id", "raw")], sort_keys=True).encode()
    except (ValueError, AttributeError):
        pass  # told of by its own item
    return hashlib.blake2b(line, digest_size=16).digest()


def _replayed(line: bytes, place: str) -> Item:
    try:
        letter = json.loads(line)
        document, raw = letter.get("document"), letter.get("raw")
        before = str(letter.get("place") or place)
    except (ValueError, AttributeError) as error:
        return Unreadable(
            place, f"The line is no dead letter: {told(error)}.", raw=line[:2000].decode("utf-8", "replace")
        )
    if isinstance(document, Mapping):
        return _as_it_was(document, before)
    return _mended(raw, before, str(letter.get("message") or ""), str(letter.get("id") or ""))


def _as_it_was(body: Mapping[str, object], place: str) -> Item:
    """A text that is null, or metadata that is no object, stays so and is refused again, unlike in a record."""
    text, metadata = body.get("text", ""), body.get("metadata", {})
    if text is not None and isinstance(metadata, Mapping):
        return as_item(body, place, _WHOLE)
    made: Mapping[str, object] = {"namespace": None, "vector": None, **body}
    parts = (made.get("id"), text, metadata, made["vector"], made["namespace"])
    document: Document = Document(*parts)  # type: ignore[arg-type]
    return Read(document, place)


def _mended(raw: object, place: str, message: str, doc_id: str) -> Item:
    try:
        record = json.loads(raw) if isinstance(raw, str) else None
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, Mapping):
        return as_item(record, place, _WHOLE)
    return Unreadable(place, message or "It could not be read.", doc_id, raw if isinstance(raw, str) else "")
