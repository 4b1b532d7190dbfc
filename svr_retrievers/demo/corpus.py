"""Where the demo's documents come from: text files, read and cut into passages of about a paragraph."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from svr_retrievers.errors import InputError
from svr_retrievers.model import Document

PASSAGE_CHARACTERS = 1_000
MINIMUM_CHARACTERS = 20
TEXT_SUFFIXES = (".txt", ".md")
# Part of the fingerprint: raised when the same files would give other documents.
FORMAT = 1

OnFile = Callable[[int, int], None]


class Undecodable(Exception):
    """A file that is not UTF-8 text; it is skipped and counted."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents, each with the same metadata: category, module, kind, name, line, length."""

    name: str
    documents: tuple[Document, ...]
    files: int
    skipped: int = 0

    def limited(self, limit: int | None) -> Corpus:
        """At most `limit` documents, spread evenly, so that every large category keeps its share."""
        total = len(self.documents)
        if limit is None or limit >= total:
            return self
        chosen = tuple(self.documents[i * total // limit] for i in range(limit))
        return Corpus(self.name, chosen, self.files, self.skipped)


@dataclass(frozen=True, slots=True)
class Source:
    """Files and the way to read one of them. `fingerprint` changes when any file does."""

    name: str
    root: Path
    files: tuple[Path, ...]
    read_file: Callable[[Path, Path], Iterable[Document]]

    def fingerprint(self, limit: int | None = None) -> str:
        digest = hashlib.sha256(f"{FORMAT}|{self.name}|{limit}".encode())
        for path in self.files:
            stat = path.stat()
            name = path.relative_to(self.root).as_posix()
            digest.update(f"|{name}|{stat.st_size}|{stat.st_mtime_ns}".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:32]

    def read(self, on_file: OnFile | None = None) -> Corpus:
        """Every document of every file; texts that were seen before are left out."""
        seen: set[str] = set()
        documents: list[Document] = []
        skipped = 0
        for done, path in enumerate(self.files, start=1):
            try:
                documents += (d for d in self.read_file(self.root, path) if _first_time(d.text, seen))
            except (Undecodable, OSError):
                skipped += 1
            if on_file is not None:
                on_file(done, len(self.files))
        if not documents:
            raise InputError(
                f"No text was found in {self.root} ({len(self.files)} files, {skipped} of them unreadable).",
                hint=f"Texts of fewer than {MINIMUM_CHARACTERS} characters are left out.",
            )
        return Corpus(self.name, tuple(documents), len(self.files), skipped)


def folder_corpus(path: str | Path) -> Source:
    """A folder of .txt and .md files; the category is the first sub-folder, "." for files at the top."""
    root = Path(path).expanduser()
    if not root.is_dir():
        problem = (
            f"{str(root)!r} is no folder." if root.exists() else f"The folder {str(root)!r} does not exist."
        )
        raise InputError(problem, hint="Name a folder of .txt or .md files.")
    root = root.resolve()
    files = tuple(sorted(p for p in root.rglob("*") if p.suffix.lower() in TEXT_SUFFIXES and p.is_file()))
    if not files:
        raise InputError(
            f"No .txt or .md file was found in {root}.",
            hint="Only these two kinds are read.",
        )
    return Source(str(root), root, files, _read_text_file)


def _first_time(text: str, seen: set[str]) -> bool:
    if len(text) < MINIMUM_CHARACTERS or text in seen:
        return False
    seen.add(text)
    return True


def read_utf8(path: Path) -> str:
    """The text, without NUL characters, which PostgreSQL cannot store; `Undecodable` if it is not UTF-8."""
    try:
        return path.read_text("utf-8-sig").replace("\x00", "")
    except UnicodeDecodeError as error:
        raise Undecodable(path) from error


def _read_text_file(root: Path, path: Path) -> Iterator[Document]:
    relative = path.relative_to(root)
    category = relative.parts[0] if len(relative.parts) > 1 else "."
    module = relative.as_posix()
    for number, (line, text) in enumerate(passages(read_utf8(path))):
        yield Document(
            id=f"{module}#{number}",
            text=text,
            metadata={
                "category": category,
                "module": module,
                "kind": kind_of(text),
                "name": path.stem,
                "line": line,
                "length": len(text),
            },
        )


def kind_of(passage: str) -> str:
    """What a passage of plain text or Markdown looks like, by its first characters."""
    if passage.startswith("#"):
        return "heading"
    if passage.startswith(("```", "    ", "\t")):
        return "code"
    if re.match(r"([-*+]|\d+[.)])\s", passage):
        return "list"
    return "paragraph"


def passages(text: str, size: int = PASSAGE_CHARACTERS) -> Iterator[tuple[int, str]]:
    """(first line, passage): whole paragraphs gathered up to `size` characters.

    A paragraph longer than that is cut at the last white space before the limit, or at the limit.
    """
    held, held_line = "", 1
    for line, paragraph in _paragraphs(text):
        for offset, part in _cut(paragraph, size):
            here = line + paragraph.count("\n", 0, offset)
            if held and len(held) + 2 + len(part) > size:
                yield held_line, held
                held = ""
            held, held_line = (f"{held}\n\n{part}", held_line) if held else (part, here)
    if held:
        yield held_line, held


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    line = 1
    for block in re.split(r"(\n\s*\n)", text):
        if stripped := block.strip("\n").rstrip():
            lead = len(block) - len(block.lstrip("\n"))
            yield line + lead, stripped
        line += block.count("\n")


def _cut(paragraph: str, size: int) -> Iterator[tuple[int, str]]:
    start = 0
    while len(paragraph) - start > size:
        space = max(paragraph.rfind(c, start + 1, start + size + 1) for c in " \n\t")
        end = space if space > start else start + size
        if part := paragraph[start:end].rstrip():
            yield start, part
        start = end
        while start < len(paragraph) and paragraph[start].isspace():
            start += 1
    if start < len(paragraph):
        yield start, paragraph[start:]
