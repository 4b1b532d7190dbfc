"""What turns text into vectors, and the two calls that make any such thing awaitable."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol, cast, runtime_checkable

import numpy as np

from svr_retrievers.concurrency import NeedsLoop, beside, foreign, on_loop
from svr_retrievers.errors import EmbeddingFailed, InputError, SVRError
from svr_retrievers.model import Vector, VectorLike
from svr_retrievers.values import as_numbers, packed_rows


@runtime_checkable
class Embedder(Protocol):
    """Embeds documents and queries. Blocking calls run in a worker thread, never on the event loop.

    An object that also has `aembed_documents` and `aembed_query` is awaited instead.
    """

    def embed_documents(self, texts: list[str]) -> Sequence[VectorLike]: ...

    def embed_query(self, text: str) -> VectorLike: ...


@runtime_checkable
class AsyncEmbedder(Protocol):
    def aembed_documents(self, texts: list[str]) -> Awaitable[Sequence[VectorLike]]: ...

    def aembed_query(self, text: str) -> Awaitable[VectorLike]: ...


def check_embedder(embedder: object) -> None:
    """Raises InputError for something that is no embedder; None is fine."""
    if isinstance(embedder, type):
        raise InputError(
            f"embedder is the class {embedder.__name__} itself.", hint=f"Pass {embedder.__name__}(...)."
        )
    if embedder is not None and not isinstance(embedder, Embedder | AsyncEmbedder):
        raise InputError(
            f"embedder must have embed_documents and embed_query; {type(embedder).__name__} has not.",
            hint="Pass a LangChain Embeddings object, or any object with these two methods.",
        )


async def embed_documents(embedder: Embedder | AsyncEmbedder, texts: list[str]) -> Vector:
    """Shape (len(texts), dimensions), float32, in the order given.

    Raises:
        EmbeddingFailed: when the embedder fails or returns something else than one vector a text.
    """
    made = await _call(embedder, "documents", texts)
    if isinstance(made, list) and len(made) == len(texts) > 0 and isinstance(made[0], list):
        rows = packed_rows(made, len(made[0]))
        if rows is not None and not any(isinstance(number, bool) for number in made[0]):
            return rows
    try:
        array = as_numbers(made, np.float32)
    except (TypeError, ValueError, OverflowError):
        raise EmbeddingFailed("The embedder returned vectors of different lengths, or no numbers.") from None
    if array.ndim != 2 or len(array) != len(texts):
        raise EmbeddingFailed(
            f"The embedder returned an array of shape {array.shape} for {len(texts)} texts.",
            hint="embed_documents must return one vector per text, in order.",
        )
    return array


async def embed_query(embedder: Embedder | AsyncEmbedder, text: str) -> Vector:
    """Shape (dimensions,), float32. Raises EmbeddingFailed."""
    made = await _call(embedder, "query", text)
    try:
        array = as_numbers(made, np.float32)
    except (TypeError, ValueError, OverflowError):
        raise EmbeddingFailed("The embedder did not return numbers for the query.") from None
    if array.ndim != 1:
        raise EmbeddingFailed(f"The embedder returned an array of shape {array.shape} for one query.")
    return array


async def _call(embedder: Embedder | AsyncEmbedder, what: str, argument: list[str] | str) -> object:
    """On a thread without an event loop the blocking method is preferred: it holds up nobody else."""
    waits = isinstance(embedder, AsyncEmbedder)
    if waits and not on_loop():
        if not isinstance(embedder, Embedder):
            raise NeedsLoop
        waits = False
    try:
        if waits:
            awaited: Awaitable[object] = getattr(embedder, f"aembed_{what}")(argument)
            return await foreign(awaited)
        return cast("object", await foreign(beside(getattr(embedder, f"embed_{what}"), argument)))
    except SVRError:
        raise
    except Exception as error:
        raise EmbeddingFailed(
            f"The embedder {type(embedder).__name__} failed: {type(error).__name__}.",
            hint="The cause is attached to this error (`__cause__`). Nothing was written.",
        ) from error
