"""Gets the corpus into the database, both ways, or finds it there from an earlier run."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from svr_retrievers.demo import routed
from svr_retrievers.demo.compare import Truth
from svr_retrievers.demo.corpus import Source, folder_corpus
from svr_retrievers.demo.postgres_table import SharedTable
from svr_retrievers.demo.standard_library import standard_library_corpus
from svr_retrievers.embedding.local import WordLlamaEmbedder
from svr_retrievers.errors import CollectionNotFound, InputError
from svr_retrievers.model import Document, Vector

if TYPE_CHECKING:
    from svr_retrievers import Collection, SVRClient

EMBED_BATCH = 1_000
COMPARABLE_DOCUMENTS = 50

OnStep = Callable[[int, int], None]


class Progress(Protocol):
    """Shows one step at a time: `with progress.step("Reading") as on_step: on_step(done, total)`."""

    def step(self, title: str) -> AbstractContextManager[OnStep]: ...


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for. `path` is a folder of the user's own texts, None the standard library."""

    path: Path | None = None
    fresh: bool = False
    limit: int | None = None
    questions: int = 100

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit must be at least 1, not {self.limit}.")
        if self.questions < 1:
            raise InputError(f"--questions must be at least 1, not {self.questions}.")

    @property
    def place(self) -> str:
        """The collection, and the schema of the plain tables; a folder has its own, so that none replaces another."""
        if self.path is None:
            return routed.COLLECTION
        folder = self.path.expanduser().resolve()
        name = re.sub(r"[^a-z0-9]+", "_", folder.name.lower()).strip("_")[:30]
        digest = hashlib.sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()[:6]
        return "_".join(part for part in (routed.COLLECTION, name, digest) if part)

    def source(self) -> Source:
        return standard_library_corpus() if self.path is None else folder_corpus(self.path)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The corpus, stored both ways. `seconds` holds what each step took in this run; empty if warm."""

    corpus: str
    files: int
    skipped: int
    warm: bool
    truth: Truth
    collection: Collection
    embedder: WordLlamaEmbedder
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def comparable(self) -> bool:
        """Below this, every way finds everything and the figures are noise."""
        return len(self.truth.documents) >= COMPARABLE_DOCUMENTS


@dataclass(frozen=True, slots=True)
class Stores:
    """Where the demo works: a client, and a connection to the same database for the plain tables."""

    client: SVRClient
    table: SharedTable


def prepare(
    stores: Stores, source: Source, embedder: WordLlamaEmbedder, options: Options, progress: Progress
) -> Prepared:
    fingerprint = f"{source.fingerprint(options.limit)} {embedder!r}"
    facts = {} if options.fresh else stores.table.facts()
    if facts.get("fingerprint") == fingerprint:
        found = _stored(stores, options.place, embedder)
        if found is not None:
            collection, truth = found
            return Prepared(
                source.name,
                int(str(facts["files"])),
                int(str(facts["skipped"])),
                warm=True,
                truth=truth,
                collection=collection,
                embedder=embedder,
            )
    return _store(stores, source, options, embedder, progress, fingerprint)


def _stored(stores: Stores, place: str, embedder: WordLlamaEmbedder) -> tuple[Collection, Truth] | None:
    """What an earlier run left, if the collection is still whole."""
    try:
        collection = stores.client.collection(place, embedder=embedder)
    except CollectionNotFound:
        return None
    documents, vectors = stores.table.read()
    return (collection, Truth(documents, vectors)) if collection.count() == len(documents) else None


def _store(
    stores: Stores,
    source: Source,
    options: Options,
    embedder: WordLlamaEmbedder,
    progress: Progress,
    fingerprint: str,
) -> Prepared:
    seconds: dict[str, float] = {}
    stores.table.drop()
    with progress.step("Reading") as on_step, _timed(seconds, "read"):
        corpus = source.read(on_step).limited(options.limit)
    documents = tuple(sorted(corpus.documents, key=lambda d: d.id))
    with progress.step("Embedding") as on_step, _timed(seconds, "embed"):
        vectors = _embedded(embedder, documents, on_step)
    total = len(documents)
    with progress.step("Storing behind one shared index") as on_step, _timed(seconds, "store_shared"):
        stores.table.fill(documents, vectors, lambda done: on_step(done, total))
    with progress.step("Storing behind routed partitions") as on_step, _timed(seconds, "store_routed"):
        collection = routed.fill(
            stores.client, options.place, documents, vectors, embedder, lambda done: on_step(done, total)
        )
    stores.table.remember({"fingerprint": fingerprint, "files": corpus.files, "skipped": corpus.skipped})
    truth = Truth(documents, vectors)
    return Prepared(
        corpus.name, corpus.files, corpus.skipped, warm=False, truth=truth, collection=collection,
        embedder=embedder, seconds=seconds,
    )  # fmt: skip


def _embedded(embedder: WordLlamaEmbedder, documents: tuple[Document, ...], on_step: OnStep) -> Vector:
    parts = []
    for start in range(0, len(documents), EMBED_BATCH):
        parts.append(embedder.matrix([d.text for d in documents[start : start + EMBED_BATCH]]))
        on_step(min(start + EMBED_BATCH, len(documents)), len(documents))
    return np.concatenate(parts)


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started
