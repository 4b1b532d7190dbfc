"""Documents from a folder: every text, Markdown, HTML and PDF file below it is one."""

from __future__ import annotations

import fnmatch
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from svr_retrievers.errors import InputError
from svr_retrievers.ingest.files import LOADERS
from svr_retrievers.ingest.records import Item, Read, Reader, Unreadable, told
from svr_retrievers.model import Document

MAX_FILE_BYTES = 64 * 2**20
"""A larger file is refused: it would be held in memory several times over."""


def read_folder(
    path: str | Path,
    *,
    patterns: Sequence[str] = ("*",),
    prefix: str = "",
    metadata: Mapping[str, object] | None = None,
    encoding: str | None = None,
    follow_symlinks: bool = False,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> Reader:
    """Every .txt, .md, .html and .pdf file below a folder, or one such file; in the order of their names.

    A document's id is the file's path below the folder, with slashes, behind `prefix`: folders that go into the same
    collection need different ones, for `README.md` of one would replace that of another. Its metadata holds `path`
    (below the folder), `format` (text, markdown, html, pdf), `folder` (the first folder on the way, if any), a PDF's
    or a page's `title`, a PDF's number of `pages`, and what `metadata` says for all. HTML becomes Markdown; a PDF's
    pages are separated by form feeds. `patterns` select names ("*.md") or paths ("guides/*"). Text is UTF-8, or what
    the byte order mark or `encoding` says.

    Hidden files and folders are left out, other kinds of files too. A file that cannot be read is refused alone.
    Linked folders are followed only on request, and none twice.

    Raises InputError when there is no such folder, MissingExtra when a format needs a package that is not there.
    """
    root = Path(path)
    if not root.exists():
        raise InputError(f"The folder {str(root)!r} does not exist.")
    if isinstance(patterns, str):
        raise InputError("patterns must be a list.", hint=f"e.g. patterns=[{patterns!r}]")
    if not isinstance(prefix, str):
        raise InputError(f"prefix must be text, not {type(prefix).__name__}.")
    common = dict(metadata or {})

    def read() -> Iterator[Item]:
        if root.is_file():
            yield _file(root, root.name, prefix, common, encoding, max_file_bytes)
            return
        for found in _walk(root, follow_symlinks):
            if isinstance(found, Unreadable):
                yield found
                continue
            name = found.relative_to(root).as_posix()
            if found.suffix.lower() in LOADERS and _wanted(name, patterns):
                yield _file(found, name, prefix, common, encoding, max_file_bytes)

    return Reader(f"read_folder({str(path)!r})", read)


def passed_over(path: str | Path) -> dict[str, int]:
    """How many files below a folder are of kinds that `read_folder` does not read, by their suffixes."""
    root = Path(path)
    if not root.is_dir():
        return {}
    files = (found for found in _walk(root, follow=False) if isinstance(found, Path) and found.is_file())
    kinds = Counter(found.suffix.lower() for found in files)
    return {kind: kinds[kind] for kind in sorted(kinds) if kind not in LOADERS}


def _wanted(name: str, patterns: Sequence[str]) -> bool:
    bare = name.rsplit("/", 1)[-1]
    return any(fnmatch.fnmatch(bare, p) or fnmatch.fnmatch(name, p) for p in patterns)


def _walk(folder: Path, follow: bool) -> Iterator[Path | Unreadable]:
    """The files below a folder, sorted; a folder that links lead to a second time is not entered again."""
    seen: set[tuple[int, int]] = set()
    _first_visit(folder, seen)
    failed: list[Unreadable] = []

    def cannot(error: OSError) -> None:
        failed.append(Unreadable(str(error.filename), f"The folder cannot be read: {error.strerror}."))

    for here, below, files in os.walk(folder, followlinks=follow, onerror=cannot):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if follow:
            below[:] = [name for name in below if _first_visit(Path(here, name), seen)]
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(here, name)
        yield from failed
        failed.clear()
    yield from failed


def _first_visit(folder: Path, seen: set[tuple[int, int]]) -> bool:
    try:
        found = folder.stat()
    except OSError:
        return False
    key = found.st_dev, found.st_ino
    if key in seen:
        return False
    seen.add(key)
    return True


def _file(
    file: Path, name: str, prefix: str, common: Mapping[str, object], encoding: str | None, most: int
) -> Item:
    doc_id = prefix + name
    loader = LOADERS.get(file.suffix.lower())
    if loader is None:
        return Unreadable(name, f"Files of the kind {file.suffix!r} are not read.", doc_id)
    try:
        size = file.stat().st_size
        if size > most:
            return Unreadable(
                name, f"The file has {size:,} bytes; at most {most:,} are read (max_file_bytes).", doc_id
            )
        loaded = loader(file, encoding)
    except OSError as error:
        return Unreadable(name, f"The file cannot be read: {error.strerror or type(error).__name__}.", doc_id)
    except InputError as error:
        return Unreadable(name, told(error), doc_id)
    folder = {"folder": name.split("/", 1)[0]} if "/" in name else {}
    return Read(Document(doc_id, loaded.text, {"path": name, **folder, **loaded.metadata, **common}), name)
