"""`svr ingest`: files and folders into a collection, cut, embedded by the local model, again and again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from cyclopts import Parameter

from svr_retrievers import Collection, Document, Embedder, SVRClient, by_field
from svr_retrievers.cli.search import LOCAL_DIMENSIONS
from svr_retrievers.cli.store import HERE, Json, Store, print_json
from svr_retrievers.demo.report import counted
from svr_retrievers.errors import CollectionNotFound, InputError
from svr_retrievers.ingest import (
    Chunker,
    IngestPipeline,
    IngestReport,
    MarkdownChunker,
    Reader,
    RecursiveChunker,
    read_csv,
    read_folder,
    read_json,
    read_jsonl,
    read_parquet,
    replay,
)
from svr_retrievers.ingest.records import Item, Read
from svr_retrievers.model import DEFAULT_NAMESPACE

Fail = Annotated[bool, Parameter(negative=(), help="Stop at the first document that is refused.")]
Format: TypeAlias = Literal["auto", "folder", "json", "jsonl", "csv", "parquet", "dead-letters"]
_BY_SUFFIX: dict[str, Format] = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
_SHOWN = 10
REFUSED = 1


def ingest(
    *paths: Path,
    collection: str,
    format: Format = "auto",
    id: str = "id",
    text: str = "text",
    chunk_size: int = 1000,
    overlap: int = 0,
    partition_by: str | None = None,
    partition: str | None = None,
    namespace: str = DEFAULT_NAMESPACE,
    mode: Literal["upsert", "insert"] = "upsert",
    dead_letters: Path | None = None,
    fail: Fail = False,
    store: Store = HERE,
    json: Json = False,
) -> int:
    """Take in files and folders. Run it again after a change or a crash: it does only what is left to do.

    Folders give a document for each .txt, .md, .html and .pdf file; data files one for each record, whose other
    fields become metadata. Texts are cut and embedded by the local model; records with vectors are stored as they
    are. A collection that does not exist is created. Exits with 1 when a document was refused.

    Parameters
    ----------
    paths
        Files and folders.
    collection
        The collection's name.
    format
        What the files are, where their names do not say it.
    id
        The field of a record that is its id.
    text
        The field of a record that is its text.
    chunk_size
        The most characters of a chunk; 0 stores documents whole.
    overlap
        How many characters a chunk may repeat of the one before.
    partition_by
        Create the collection with a partition for each value of this field ("folder": the first sub-folder).
    partition
        The path of the partition that all documents belong to.
    namespace
        Of documents that name none.
    mode
        "insert" replaces nothing: documents that are there with other content are refused.
    dead_letters
        A file that gets every refused document; take it in again with --format dead-letters.
    """
    sources = [_source(path, format, id, text) for path in paths]
    if not sources:
        raise InputError("Name at least one file or folder.")
    chunker = _chunker(chunk_size, overlap)
    with store.client() as client:
        pipeline = IngestPipeline(
            _opened(client, collection, partition_by, sources),
            chunker=chunker,
            mode=mode,
            partition=partition,
            namespace=namespace,
            on_error="fail" if fail else "skip",
            dead_letters=dead_letters,
        )
        report = pipeline.run(_one_after_the_other(sources))
    _show(report, collection, json=json)
    return REFUSED if report.refused else 0


def _source(path: Path, format: Format, id: str, text: str) -> Reader:
    kind = format if format != "auto" else _BY_SUFFIX.get(path.suffix.lower(), "folder")
    if kind == "folder" or path.is_dir():
        return read_folder(path)
    if kind == "dead-letters":
        return replay(path)
    if kind == "csv":
        return read_csv(path, id=id, text=text)
    if kind == "parquet":
        return read_parquet(path, id=id, text=text)
    return read_json(path, id=id, text=text) if kind == "json" else read_jsonl(path, id=id, text=text)


def _one_after_the_other(sources: list[Reader]) -> Iterator[Item]:
    for source in sources:
        yield from source


def _chunker(size: int, overlap: int) -> Callable[[Document], Chunker] | None:
    """By headings what is Markdown, or was HTML; anything else at its paragraphs."""
    if size == 0:
        return None
    by_heading, plain = MarkdownChunker(size, overlap), RecursiveChunker(size, overlap)
    return lambda document: by_heading if document.metadata.get("format") in {"markdown", "html"} else plain


def _opened(client: SVRClient, name: str, partition_by: str | None, sources: list[Reader]) -> Collection:
    """The collection, made for the vectors of the first record, or for the local model where that has none."""
    scheme = None if partition_by is None else by_field(partition_by)
    try:
        found = client.collection(name)
    except CollectionNotFound:
        width = _width(sources)
        embedder = _local() if width is None else None
        return client.create_collection(name, dimensions=width, partition_by=scheme, embedder=embedder)
    if scheme is not None and found.partition_by != scheme:
        raise InputError(
            f"The collection {name!r} is partitioned by {found.partition_by!r}, not by {scheme!r}."
        )
    return client.collection(name, embedder=_local()) if found.dimensions == LOCAL_DIMENSIONS else found


def _width(sources: list[Reader]) -> int | None:
    """How many numbers the vector of the first document has that can be read; None where it has none."""
    first = next((item for item in _one_after_the_other(sources) if isinstance(item, Read)), None)
    return None if first is None or first.document.vector is None else len(first.document.vector)


def _local() -> Embedder:
    from svr_retrievers.embedding.local import WordLlamaEmbedder

    return WordLlamaEmbedder()


def _show(report: IngestReport, name: str, *, json: bool) -> None:
    if json:
        refusals = [
            {"id": r.id, "place": r.place, "code": r.code, "message": r.message} for r in report.refusals
        ]
        print_json({**report.figures, "seconds": round(report.seconds, 3), "refusals": refusals})
        return
    done = [f"{counted(report.written, 'row')} written"]
    done += [f"{report.unchanged:,} unchanged"] if report.unchanged else []
    done += [f"{report.deleted:,} deleted"] if report.deleted else []
    done += [f"{counted(report.refused, 'document')} refused"] if report.refused else []
    print(
        f"Read {counted(report.read, 'document')} into {name!r}: {', '.join(done)}, in {report.seconds:.1f} s."
    )
    for refusal in report.refusals[:_SHOWN]:
        print(f"refused: {' '.join(str(refusal).split())}", file=sys.stderr)
    if report.refused > _SHOWN:
        print(
            f"refused: {report.refused - _SHOWN:,} more; --dead-letters FILE gets them all", file=sys.stderr
        )
