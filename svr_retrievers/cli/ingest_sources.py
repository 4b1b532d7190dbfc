"""What `svr ingest` reads: each path by its kind, with ids that keep several paths apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from cyclopts import Parameter

from svr_retrievers import Document
from svr_retrievers.errors import InputError
from svr_retrievers.ingest import Reader, read_csv, read_folder, read_json, read_jsonl, read_parquet, replay
from svr_retrievers.ingest.plain import as_json, body_of
from svr_retrievers.ingest.records import Item, Read, Unreadable

Format: TypeAlias = Literal["auto", "folder", "json", "jsonl", "csv", "parquet", "dead-letters"]
_BY_SUFFIX: dict[str, Format] = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Reading:
    """How paths are read, all of them.

    Parameters
    ----------
    format
        What the files are, where their names do not say it.
    id
        The field of a record that is its id.
    text
        The field of a record that is its text.
    id_prefix
        Put in front of every id, to keep apart what comes from different places.
    encoding
        Of text files and CSV, where it is not UTF-8 and no byte order mark says it.
    types
        What a column of CSV holds besides text: year=int, price=float; may be repeated.
    """

    format: Format = "auto"
    id: str = "id"
    text: str = "text"
    id_prefix: str = ""
    encoding: str | None = None
    types: Annotated[list[str] | None, Parameter(negative=())] = None

    def kind(self, path: Path) -> Format:
        if path.is_dir():
            return "folder"
        return self.format if self.format != "auto" else _BY_SUFFIX.get(path.suffix.lower(), "folder")

    def source(self, path: Path, prefix: str) -> Reader:
        """Raises InputError for options that say nothing about such a file."""
        kind = self.kind(path)
        if self.encoding is not None and kind not in {"folder", "csv"}:
            raise InputError(f"--encoding is for text files and CSV; {path.name!r} is {kind}.")
        if self.types and kind != "csv":
            raise InputError(f"--types is for the columns of CSV; {path.name!r} is {kind}.")
        if kind == "folder":
            return read_folder(path, prefix=prefix, encoding=self.encoding)
        if kind == "dead-letters":
            if prefix:
                raise InputError("Dead letters have the ids they had; leave --id-prefix out.")
            return replay(path, id=self.id, text=self.text)
        source = self._records(path, kind)
        return source.map(lambda document: _behind(prefix, document)) if prefix else source

    def _records(self, path: Path, kind: Format) -> Reader:
        if kind == "csv":
            return read_csv(
                path, id=self.id, text=self.text, encoding=self.encoding, types=types_of(self.types or [])
            )
        if kind == "parquet":
            return read_parquet(path, id=self.id, text=self.text)
        read = read_json if kind == "json" else read_jsonl
        return read(path, id=self.id, text=self.text)


AS_NAMED = Reading()


def types_of(words: Sequence[str]) -> dict[str, Callable[[str], object]]:
    """From words such as "year=int" to what reads such a column. Raises InputError."""
    kinds: dict[str, Callable[[str], object]] = {"int": int, "float": float}
    made: dict[str, Callable[[str], object]] = {}
    for word in words:
        column, _, kind = word.rpartition("=")
        if not column or kind not in kinds:
            raise InputError(
                f"--types {word!r} is none.", hint="COLUMN=int or COLUMN=float, e.g. --types year=int"
            )
        made[column] = kinds[kind]
    return made


def _behind(prefix: str, document: Document) -> Document:
    return replace(document, id=prefix + document.id)


def open_sources(paths: Sequence[Path], reading: Reading) -> list[Reader]:
    """Raises InputError where there is nothing to read, or two folders cannot be told apart by their names."""
    if not paths:
        raise InputError("Name at least one file or folder.")
    folders = [path for path in paths if path.is_dir()]
    names = [path.resolve().name for path in folders]
    if len(folders) > 1 and len(set(names)) < len(names):
        raise InputError(
            f"Several folders are called {max(names, key=names.count)!r}, so their documents would have the same ids.",
            hint="Take them in one by one, each with an --id-prefix of its own.",
        )
    apart = len(folders) > 1
    return [
        reading.source(
            path, reading.id_prefix + (f"{path.resolve().name}/" if apart and path.is_dir() else "")
        )
        for path in paths
    ]


def one_after_the_other(sources: Sequence[Reader]) -> Iterator[Item]:
    """All items; a document whose id came from an earlier source is refused, for it would replace that one.

    Of several sources the ids are remembered, some hundred bytes each.
    """
    seen: dict[bytes, int] = {}
    for number, source in enumerate(sources):
        for item in source:
            if len(sources) > 1 and isinstance(item, Read):
                key = f"{item.document.namespace}\0{item.document.id}".encode("utf-8", "surrogatepass")
                earlier = seen.setdefault(hashlib.blake2b(key, digest_size=16).digest(), number)
                if earlier != number:
                    yield _taken(item, sources[earlier])
                    continue
            yield item


def _taken(item: Read, earlier: Reader) -> Unreadable:
    """Kept in a list, so that it is not read again as it is and replaces the other after all."""
    message = (
        f"A document of {earlier!r} has the same id, and this one would replace it. Take them in one by one, "
        "each with an --id-prefix of its own."
    )
    return Unreadable(item.place, message, item.document.id, as_json([body_of(item.document)]), code="taken")
