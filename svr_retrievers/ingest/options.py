"""What a pipeline was told, checked once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from svr_retrievers.errors import InputError
from svr_retrievers.ingest.chunking import Chunker
from svr_retrievers.ingest.planning import Mode
from svr_retrievers.model import DEFAULT_NAMESPACE, Document
from svr_retrievers.names import check_key

OnError: TypeAlias = Literal["skip", "fail"]
AnyChunker: TypeAlias = "Chunker | Callable[[Document], Chunker | None] | None"
AnyPartition: TypeAlias = "str | Callable[[Document], str | None] | None"
MAX_BATCH = 10_000
MAX_CONCURRENCY = 64


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of `IngestPipeline` besides its collection, embedder and progress."""

    chunker: AnyChunker = None
    mode: Mode = "upsert"
    partition: AnyPartition = None
    namespace: str = DEFAULT_NAMESPACE
    batch_size: int = 1000
    concurrency: int = 4
    on_error: OnError = "skip"
    dead_letters: str | Path | None = None
    checkpoint: str | Path | None = None

    def __post_init__(self) -> None:
        if self.mode not in {"upsert", "insert"}:
            raise InputError(f"mode must be 'upsert' or 'insert', not {self.mode!r}.")
        if self.on_error not in {"skip", "fail"}:
            raise InputError(f"on_error must be 'skip' or 'fail', not {self.on_error!r}.")
        if self.chunker is not None and not isinstance(self.chunker, Chunker) and not callable(self.chunker):
            raise InputError(
                f"chunker must cut texts; {type(self.chunker).__name__} has no method cut(text).",
                hint="e.g. RecursiveChunker(1000), or None to store documents whole.",
            )
        if (
            self.partition is not None
            and not isinstance(self.partition, str)
            and not callable(self.partition)
        ):
            raise InputError("partition must be a path, or a function of the document that gives one.")
        check_key(self.namespace, "namespace")
        _check("batch_size", self.batch_size, MAX_BATCH)
        _check("concurrency", self.concurrency, MAX_CONCURRENCY)

    def chunker_of(self, document: Document) -> Chunker | None:
        return (
            self.chunker
            if self.chunker is None or isinstance(self.chunker, Chunker)
            else self.chunker(document)
        )

    def partition_of(self, document: Document) -> str | None:
        return (
            self.partition
            if self.partition is None or isinstance(self.partition, str)
            else self.partition(document)
        )


def _check(name: str, value: object, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InputError(f"{name} must be a whole number from 1 to {most:,}, not {value!r}.")
