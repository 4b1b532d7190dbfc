"""`svr ingest`: files and folders into a collection, cut, embedded by the local model, again and again."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from svr_retrievers import Collection, Document, Embedder, SVRClient, by_field
from svr_retrievers.cli.ingest_sources import AS_NAMED, Reading, one_after_the_other, open_sources
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
)
from svr_retrievers.ingest.folders import passed_over
from svr_retrievers.ingest.records import Read
from svr_retrievers.model import DEFAULT_NAMESPACE

Fail = Annotated[bool, Parameter(negative=(), help="Stop at the first document that is refused.")]
_SHOWN = 10
REFUSED = 1


def ingest(
    *paths: Path,
    collection: str,
    reading: Reading = AS_NAMED,
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
    are. Of several folders the ids begin with the folder's name; an id that a path before had already is refused.
    A collection that does not exist is created. Exits with 1 when a document was refused.

    Parameters
    ----------
    paths
        Files and folders.
    collection
        The collection's name.
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
        A file that gets every refused document; take it in again with --format dead-letters, and delete it then:
        later it would bring old documents back.
    """
    sources = open_sources(paths, reading)
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
        report = pipeline.run(one_after_the_other(sources))
    others = sum((Counter(passed_over(path)) for path in paths if path.is_dir()), Counter[str]())
    _show(report, collection, others, json=json)
    return REFUSED if report.refused else 0


def _chunker(size: int, overlap: int) -> Callable[[Document], Chunker] | None:
    """By headings what is Markdown, or was HTML; anything else at its paragraphs."""
    if size == 0:
        return None
    by_heading, plain = MarkdownChunker(size, overlap), RecursiveChunker(size, overlap)
    return lambda document: by_heading if document.metadata.get("format") in {"markdown", "html"} else plain


def _opened(client: SVRClient, name: str, partition_by: str | None, sources: Sequence[Reader]) -> Collection:
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
    if found.dimensions == LOCAL_DIMENSIONS:
        return client.collection(name, embedder=_local())
    if _first(sources) is not None and _width(sources) is None and found.embedder is None:
        raise InputError(
            f"The collection {name!r} has {found.dimensions} dimensions, but texts are embedded by the local model,"
            f" which has {LOCAL_DIMENSIONS}.",
            hint="Give records with vectors, name another collection, or use IngestPipeline with its embedder.",
        )
    return found


def _width(sources: Sequence[Reader]) -> int | None:
    """How many numbers the vector of the first document has that can be read; None where it has none."""
    first = _first(sources)
    return None if first is None or first.vector is None else len(first.vector)


def _first(sources: Sequence[Reader]) -> Document | None:
    return next((item.document for source in sources for item in source if isinstance(item, Read)), None)


def _local() -> Embedder:
    from svr_retrievers.embedding.local import WordLlamaEmbedder

    return WordLlamaEmbedder()


def _show(report: IngestReport, name: str, others: Mapping[str, int], *, json: bool) -> None:
    if json:
        refusals = [
            {"id": r.id, "place": r.place, "code": r.code, "message": r.message} for r in report.refusals
        ]
        told = {**report.figures, "seconds": round(report.seconds, 3), "passed_over": dict(others)}
        print_json({**told, "refusals": refusals})
        return
    done = [f"{counted(report.written, 'row')} written"]
    done[0] += f" ({report.replaced:,} replaced)" if report.replaced else ""
    done += [f"{report.unchanged:,} unchanged"] if report.unchanged else []
    done += [f"{report.deleted:,} deleted"] if report.deleted else []
    done += [f"{counted(report.refused, 'document')} refused"] if report.refused else []
    print(
        f"Read {counted(report.read, 'document')} into {name!r}: {', '.join(done)}, in {report.seconds:.1f} s."
    )
    if others:
        kinds = ", ".join(kind or "no suffix" for kind in others)
        print(
            f"Passed over {counted(sum(others.values()), 'file')} of kinds that folders are not read for: {kinds}."
        )
    for refusal in report.refusals[:_SHOWN]:
        print(f"refused: {' '.join(str(refusal).split())}", file=sys.stderr)
    if report.refused > _SHOWN:
        print(
            f"refused: {report.refused - _SHOWN:,} more; --dead-letters FILE gets them all", file=sys.stderr
        )
