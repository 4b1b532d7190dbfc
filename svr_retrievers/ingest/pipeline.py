"""The ingest pipeline: from any source to stored chunks, again and again, doing only what is new."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sized
from pathlib import Path

import anyio

from svr_retrievers.blocking import Collection
from svr_retrievers.collection import AsyncCollection
from svr_retrievers.concurrency import first_error
from svr_retrievers.embedding import AsyncEmbedder, Embedder
from svr_retrievers.errors import ConfigError, IngestFailed, InputError, UsageError
from svr_retrievers.ingest.checkpoint import Checkpoint
from svr_retrievers.ingest.flow import Flow
from svr_retrievers.ingest.frameworks import is_framework_document
from svr_retrievers.ingest.options import AnyChunker, AnyPartition, OnError, Options
from svr_retrievers.ingest.placement import Wanted
from svr_retrievers.ingest.planning import Mode
from svr_retrievers.ingest.progress import OnProgress, shown
from svr_retrievers.ingest.records import Reader, Source, told
from svr_retrievers.ingest.refusing import Refused
from svr_retrievers.ingest.report import IngestReport
from svr_retrievers.ingest.target import Target
from svr_retrievers.model import DEFAULT_NAMESPACE, Document


class IngestPipeline:
    """Reads documents, cuts them, embeds what is new and writes it, in memory that does not grow with the source.

    What is stored already is looked up first, by the ids of each batch. So a run may be stopped at any moment, also
    by `kill -9`, and run again: it does what is left to do. Of a changed document only the chunks with new text are
    embedded, those with new metadata alone keep their vectors, and chunks it no longer has are deleted. Documents that
    are no longer in the source stay: delete those with `collection.delete(filter={"svr_ingest.document": id})`.

    A document that comes twice in a run is stored as it came last.

    Rows are named `<document id>#<n>`, from 0; a document stored whole keeps its id. All metadata is the document's,
    plus what the chunker says, plus the key `svr_ingest`, which is the pipeline's own.

    Two runs that write the same documents at the same time are not kept apart. Chunks that they leave behind a
    document's last are deleted by the next run if they lie among the 8 numbers behind it, or, where the document
    became shorter, with no gap of 64 numbers before them. Others stay until
    `collection.delete(filter={"svr_ingest.document": id})` and another run. Of rows that others changed, text and
    metadata are set right; a vector that they changed alone is not noticed.
    """

    def __init__(
        self,
        collection: Collection | AsyncCollection,
        *,
        embedder: Embedder | AsyncEmbedder | None = None,
        chunker: AnyChunker = None,
        mode: Mode = "upsert",
        partition: AnyPartition = None,
        namespace: str = DEFAULT_NAMESPACE,
        batch_size: int = 1000,
        concurrency: int = 4,
        on_error: OnError = "skip",
        dead_letters: str | Path | None = None,
        checkpoint: str | Path | None = None,
        progress: bool | OnProgress = True,
    ) -> None:
        """Nothing is read or written yet.

        Args:
            embedder: Instead of the collection's own; of the same vector space.
            chunker: What cuts texts, or a function of the document that returns one; None stores documents whole.
                Documents that bring a vector are never cut.
            mode: "insert" replaces and deletes nothing: a document that is stored with other content is refused.
            partition: The path of the partition that documents belong to, or a function of the document that
                returns one. Fields of `by_field` that the path names are filled in where a document lacks them;
                a document that would lie elsewhere, or does so unchanged, is refused. A path with other fields than
                the scheme's raises InputError.
            namespace: Of documents that name none.
            batch_size: Rows that are looked up, embedded and written together.
            concurrency: Batches that are looked up and embedded side by side.
            on_error: "skip" leaves out documents that cannot be stored, and goes on; "fail" stops at the first.
            dead_letters: A file that gets every refused document, for `replay`.
            checkpoint: A local file that remembers how far a source was read, so that a resumed run does not look
                up what lies before. For files of records (`read_jsonl`, `read_json`, `read_csv`, `read_parquet`),
                which tell whether they are still the same.
            progress: True shows a bar on a terminal or in a notebook; a function gets the report after each batch.

        Raises InputError for arguments that cannot be used, SpaceMismatch for an embedder of another space.
        """
        self._options = Options(
            chunker, mode, partition, namespace, batch_size, concurrency, on_error, dead_letters, checkpoint
        )
        self._target = Target(collection, embedder)
        if isinstance(partition, str):
            Wanted(self._target.config.scheme, self._target.config.fields).check_path(partition)
        if not callable(progress) and not isinstance(progress, bool):
            raise InputError("progress must be True, False or a function of the report.")
        self._progress = progress

    def __repr__(self) -> str:
        how = f"chunker={self._options.chunker!r}, mode={self._options.mode!r}"
        return f"IngestPipeline({self._target.collection.name!r}, {how})"

    def run(self, source: Source) -> IngestReport:
        """Takes in all documents of a source, and waits for it. For a `Collection`; may be called again and again.

        The source is read in worker threads, one at a time. An asynchronous one is iterated over on the client's loop.

        Raises:
            IngestFailed: the run stopped; its cause is attached, and `written` rows are stored.
        """
        bridge = self._target.bridge
        if bridge is None or not self._target.blocking:
            raise UsageError("This collection is asynchronous.", hint="Await arun(source) instead.")
        scopes: list[anyio.CancelScope] = []

        async def scoped() -> IngestReport:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                return await self.arun(source)
            raise UsageError("The ingest was cancelled.")

        try:
            return bridge.run(scoped)
        except (KeyboardInterrupt, SystemExit):
            for scope in scopes:
                bridge.home.portal.start_task_soon(scope.cancel)
            raise

    async def arun(self, source: Source) -> IngestReport:
        """As `run`, awaited, from any event loop for a `Collection` as well."""
        _check_source(source)
        checkpoint = self._checkpoint(source)
        with shown(self._progress, len(source) if isinstance(source, Sized) else None) as on_progress:
            flow = Flow(self._target, self._options, checkpoint, on_progress)
            try:
                with first_error():
                    return await flow.run(source)
            except (UsageError, ConfigError):
                raise
            except Exception as error:
                raise IngestFailed(
                    f"The ingest into {self._target.collection.name!r} stopped: {told(error)}",
                    written=flow.tally.written,
                    hint=f"{flow.tally.written:,} rows of this run are stored. {_next_step(error)}",
                ) from error

    def _checkpoint(self, source: Source) -> Checkpoint | None:
        """Raises InputError for a source that cannot be told from another of its kind."""
        if self._options.checkpoint is None:
            return None
        if not isinstance(source, Reader) or not source.fingerprint:
            what = repr(source) if isinstance(source, Reader) else f"A {type(source).__name__}"
            raise InputError(
                f"{what:.200} may hold other documents or come in another order next time, so a checkpoint cannot "
                "vouch for its beginning.",
                hint="Leave checkpoint out: the store itself knows what it has. Files read by read_jsonl() and its "
                "siblings can be resumed.",
            )
        target = self._target.collection
        about = (
            f"{target.name}|{self._target.collection_id}|{self._options.namespace}|{self._options.chunker!r}"
        )
        return Checkpoint(self._options.checkpoint, f"{about}|{source.fingerprint}")


def _next_step(error: Exception) -> str:
    if isinstance(error, Refused):
        return 'Mend that document and run it again, or leave such documents out with on_error="skip".'
    return "Run it again: it goes on from there."


def _check_source(source: object) -> None:
    single = isinstance(source, Document | Mapping) or is_framework_document(source)
    if single or isinstance(source, str | bytes | Path) or not isinstance(source, Iterable | AsyncIterable):
        hint = "read_folder(), read_jsonl() and their siblings read files."
        if single:
            hint = "Wrap a single document in a list."
        raise InputError(f"source must be an iterable of documents, not {type(source).__name__}.", hint=hint)
