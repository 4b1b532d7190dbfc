"""Every error the package raises, with a stable code and a hint that says what to do.

SVRError
├── InputError (also ValueError)      the call was wrong; nothing was written
│   ├── BatchError                    one or more documents of a batch were refused
│   ├── DimensionMismatch             a vector's length is not the collection's
│   ├── FilterError                   a filter that cannot be understood
│   ├── InvalidName                   a name that cannot be a name
│   └── SpaceMismatch                 vectors of one embedding space for a collection of another
├── NotFound (also LookupError)
│   ├── CollectionNotFound
│   ├── ConsumerNotFound
│   ├── OperationNotFound
│   ├── PartitionNotFound
│   └── ServerNotFound
├── CollectionExists
├── CollectionMismatch                an existing collection was created with other settings
├── Conflict                          somebody else changed it first: read it anew, then decide again
│   └── OperationPending              an operation for the same cause is not finished
├── LeaseLost                         the lease ran out, was released, or is another holder's by now
├── EventsPruned                      events that were asked for are deleted: what followed from them must be checked
├── ConfigError
│   └── MissingExtra                  an optional dependency is not installed
├── BackendError                      the database answered with an error
│   ├── ConnectionFailed
│   │   └── AuthenticationFailed
│   ├── ExtensionMissing
│   ├── IndexFailed                   the server gave up building a search index
│   ├── IndexLimitReached             the deployment's tier allows no further search index
│   ├── PermissionDenied
│   ├── SchemaTooNew
│   ├── SearchUnavailable             the MongoDB server has no vector search
│   ├── ServerTooOld
│   └── WriteConflict                 the partition map kept changing under a write
├── SearchError
│   ├── PartitionFailed               a partition could not be searched
│   └── DeadlineExceeded (also TimeoutError)
├── ProviderFailed                    a model, here or behind an API, did not do what it was asked; `reason` says why
│   ├── EmbeddingFailed
│   │   └── EmbeddingLimited          the embedding service takes no more requests for the moment
│   └── RerankFailed
├── IngestFailed                      an ingest stopped before its end; what was written is told, and stays
└── UsageError (also RuntimeError)
    ├── CalledFromLoop
    ├── ClientClosed
    └── ForkedClient
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

ProviderReason: TypeAlias = Literal["key", "limited", "unavailable", "timeout", "answer", "request", "failed"]


class SVRError(Exception):
    """Base of everything raised on purpose. `code` is stable, `hint` says how to mend it."""

    code: ClassVar[str] = "svr"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip() if self.hint else self.message


class InputError(SVRError, ValueError):
    code = "input"


@dataclass(frozen=True, slots=True)
class DocumentProblem:
    """Why one document of a batch was refused: its position, its id, the argument, the fix."""

    index: int
    id: str
    argument: str
    message: str

    def __str__(self) -> str:
        return f"document {self.index} (id {self.id[:80]!r}): {self.argument}: {self.message}"


class BatchError(InputError):
    """The batch holds documents that cannot be stored. Nothing of it was written.

    `problems` names each refused document, in the order of the batch.
    """

    code = "batch"

    def __init__(self, problems: Sequence[DocumentProblem]) -> None:
        self.problems = tuple(problems)
        shown = "; ".join(str(p).rstrip(".") for p in self.problems[:3])
        more = f"; and {len(self.problems) - 3} more" if len(self.problems) > 3 else ""
        count = len({p.index for p in self.problems})
        super().__init__(
            f"{count} document{'s' if count != 1 else ''} refused: {shown}{more}.",
            hint="Nothing was written; `error.problems` lists them all.",
        )


class DimensionMismatch(InputError):
    code = "dimensions"


class FilterError(InputError):
    code = "filter"


class InvalidName(InputError):
    code = "name"


class SpaceMismatch(InputError):
    code = "space"


class NotFound(SVRError, LookupError):
    code = "not_found"


class CollectionNotFound(NotFound):
    code = "collection_not_found"


class ConsumerNotFound(NotFound):
    code = "consumer_not_found"


class OperationNotFound(NotFound):
    code = "operation_not_found"


class PartitionNotFound(NotFound):
    code = "partition_not_found"


class ServerNotFound(NotFound):
    code = "server_not_found"


class CollectionExists(SVRError):
    code = "collection_exists"


class CollectionMismatch(SVRError):
    code = "collection_mismatch"


class Conflict(SVRError):
    """What the call was based on has changed since it was read."""

    code = "conflict"


class OperationPending(Conflict):
    """An operation for the same cause is not finished; `number` is its number."""

    code = "operation_pending"

    def __init__(self, message: str, *, number: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.number = number


class LeaseLost(SVRError):
    """Who gets this must stop at once: another holder may be at work. Nothing was written."""

    code = "lease_lost"


class EventsPruned(SVRError):
    """Events after the position are deleted, up to `pruned`; whoever depends on them starts anew from there."""

    code = "events_pruned"

    def __init__(self, message: str, *, pruned: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.pruned = pruned


class ConfigError(SVRError):
    code = "config"


class MissingExtra(ConfigError):
    """An optional dependency is missing; the hint holds the command that installs it."""

    code = "missing_extra"


class BackendError(SVRError):
    code = "backend"


class ConnectionFailed(BackendError):
    code = "connection"


class AuthenticationFailed(ConnectionFailed):
    code = "authentication"


class ExtensionMissing(BackendError):
    code = "extension_missing"


class IndexFailed(BackendError):
    code = "index_failed"


class IndexLimitReached(BackendError):
    code = "index_limit"


class SearchUnavailable(BackendError):
    code = "search_unavailable"


class ServerTooOld(BackendError):
    code = "server_too_old"


class PermissionDenied(BackendError):
    code = "permission"


class SchemaTooNew(BackendError):
    code = "schema_too_new"


class WriteConflict(BackendError):
    code = "write_conflict"


class SearchError(SVRError):
    code = "search"


class PartitionFailed(SearchError):
    """A partition could not be searched and the policy is `fail`; `partitions` names it."""

    code = "partition_failed"

    def __init__(self, message: str, *, partitions: Sequence[str], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.partitions = tuple(partitions)


class DeadlineExceeded(SearchError, TimeoutError):
    code = "deadline"


class ProviderFailed(SVRError):
    """A model did not answer as asked.

    `reason` is one of `key` (refused credentials), `limited` (429, after all retries), `unavailable` (5xx, no
    connection), `timeout`, `answer` (an answer that makes no sense), `request` (the provider refused the input) and
    `failed` (anything else). `status` is the HTTP status, where there was one; `attempts` counts the calls made.
    """

    code = "provider"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        reason: ProviderReason = "failed",
        provider: str = "",
        status: int | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__(message, hint=hint)
        self.reason: ProviderReason = reason
        self.provider = provider
        self.status = status
        self.attempts = attempts


class EmbeddingFailed(ProviderFailed):
    """`texts` are the positions, in the call's list, of those that could not be embedded; empty where unknown."""

    code = "embedding"
    texts: tuple[int, ...] = ()


class EmbeddingLimited(EmbeddingFailed):
    code = "embedding_limited"


class RerankFailed(ProviderFailed):
    code = "rerank"


class IngestFailed(SVRError):
    """The run stopped; `written` documents are stored, and the next run goes on behind them."""

    code = "ingest"

    def __init__(self, message: str, *, written: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.written = written


class UsageError(SVRError, RuntimeError):
    code = "usage"


class CalledFromLoop(UsageError):
    """The blocking client was called from its own event loop, which would wait for itself."""

    code = "called_from_loop"


class ClientClosed(UsageError):
    code = "closed"


class ForkedClient(UsageError):
    """A client made before `fork` was used in the child, where its thread does not exist."""

    code = "forked"
