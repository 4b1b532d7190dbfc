"""Foreign embedders behind the service: LangChain's, LlamaIndex's, or any object with the two methods."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from secrets import token_hex
from typing import cast

import anyio.to_thread
import numpy as np
from anyio import CapacityLimiter

from svr_retrievers.concurrency import foreign
from svr_retrievers.embedding.model import Batching, Kind, Made, checked, estimated_tokens, wrong_answer
from svr_retrievers.errors import EmbeddingFailed, InputError, SVRError
from svr_retrievers.model import Vector
from svr_retrievers.providers.home import is_here
from svr_retrievers.providers.limits import Limits
from svr_retrievers.providers.usage import Meter
from svr_retrievers.spaces import VectorSpace, space_of
from svr_retrievers.values import as_numbers

Blocking = Callable[[object], object]
Awaited = Callable[[object], Awaitable[object]]

BATCH_TEXTS = 256
_NAMES: tuple[dict[Kind, tuple[str, str]], ...] = (
    {"document": ("embed_documents", "aembed_documents"), "query": ("embed_query", "aembed_query")},
    {
        "document": ("get_text_embedding_batch", "aget_text_embedding_batch"),
        "query": ("get_query_embedding", "aget_query_embedding"),
    },
)
"""How LangChain and LlamaIndex call the same things."""


def wrapped(embedder: object, space: VectorSpace | None, limits: Limits | None) -> ForeignModel:
    """The embedder as a model, recognised by its methods; no framework is imported.

    Raises:
        InputError: for something that is no embedder.
    """
    for names in _NAMES:
        calls = {kind: _calls(embedder, *pair) for kind, pair in names.items()}
        if all(any(pair) for pair in calls.values()):
            return ForeignModel(embedder, calls, space if space is not None else space_of(embedder), limits)
    raise InputError(
        f"{type(embedder).__name__} is no embedder.",
        hint="It needs embed_documents and embed_query, or get_text_embedding_batch and get_query_embedding.",
    )


def _calls(embedder: object, blocking: str, awaited: str) -> tuple[Blocking | None, Awaited | None]:
    first, second = getattr(embedder, blocking, None), getattr(embedder, awaited, None)
    return (
        cast("Blocking", first) if callable(first) else None,
        cast("Awaited", second) if callable(second) else None,
    )


class ForeignModel:
    """Calls the embedder the way the caller does: awaited on the caller's loop, blocking in a worker thread.

    Its own retries and time-outs stay its own.
    """

    concurrency = 1
    batching = Batching(BATCH_TEXTS)
    asked = False

    def __init__(
        self,
        embedder: object,
        calls: dict[Kind, tuple[Blocking | None, Awaited | None]],
        space: VectorSpace | None,
        limits: Limits | None,
    ) -> None:
        self.label = type(embedder).__name__
        self.token = token_hex()
        self.meter = Meter()
        self._calls = calls
        self._space = space
        self._limits = limits or Limits()

    @property
    def space(self) -> VectorSpace | None:
        return self._space

    def learn(self, dimensions: int) -> None:
        """The space is the user's to tell."""

    def inputs(self, kind: Kind) -> str:
        return kind

    async def embed(self, texts: Sequence[str], kind: Kind) -> Made:
        guess = sum(map(estimated_tokens, texts))
        waited_seconds = await self._limits.take(inputs=len(texts), tokens=guess)
        self.meter.request(waited_seconds=waited_seconds)
        try:
            rows = [await self._call("query", text) for text in texts] if kind == "query" else None
            made = rows if rows is not None else await self._call("document", list(texts))
        except SVRError:
            self.meter.failure()
            raise
        except Exception as error:
            self.meter.failure()
            raise EmbeddingFailed(
                f"The embedder {self.label} failed: {type(error).__name__}.",
                hint="The cause is attached to this error (`__cause__`).",
                provider=self.label,
            ) from error
        self.meter.tokens(None, guess)
        vectors = checked(_array(made), len(texts), None)
        self._check_length(vectors.shape[1])
        return Made(vectors)

    def _check_length(self, length: int) -> None:
        """Raises EmbeddingFailed where the vectors have another length than the space that they were said to be of."""
        if self._space is not None and self._space.dimensions != length:
            raise EmbeddingFailed(
                f"The embedder {self.label} makes vectors of {length} dimensions,"
                f" but its space says {self._space.dimensions}.",
                hint=f"Say how long they are: VectorSpace({self._space.provider!r}, {self._space.model!r}, {length}).",
                reason="answer",
                provider=self.label,
            )

    async def _call(self, kind: Kind, argument: object) -> object:
        """On the common loop a blocking caller waits, who wants the blocking method; other loops want the other."""
        blocking, awaited = self._calls[kind]
        if awaited is not None and (blocking is None or not is_here()):
            return await foreign(awaited(argument))
        assert blocking is not None
        return await foreign(anyio.to_thread.run_sync(blocking, argument, limiter=CapacityLimiter(1)))

    async def aclose(self) -> None:
        """A foreign embedder is its owner's to close."""


def _array(made: object) -> Vector:
    try:
        array: Vector = as_numbers(made, np.float32)
    except (TypeError, ValueError, OverflowError):
        raise wrong_answer("vectors of different lengths, or no numbers") from None
    return array
