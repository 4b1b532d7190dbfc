"""What scores texts against a query, and the one call that asks any such thing, bounded in time and checked."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Sequence
from typing import Protocol, runtime_checkable

import anyio
import numpy as np

from svr_retrievers.concurrency import foreign
from svr_retrievers.errors import InputError, RerankFailed, SVRError
from svr_retrievers.reranking.threads import threads
from svr_retrievers.values import as_numbers


@runtime_checkable
class Reranker(Protocol):
    """Scores each text against the query: one number per text, in the order given, higher for better.

    `rerank` runs in a worker thread, never on the event loop. An object that also has `arerank`, with the same
    arguments and answer, is awaited instead. `name`, where there is one, is what messages call it.
    """

    def rerank(self, query: str, texts: list[str]) -> Sequence[float]: ...


@runtime_checkable
class AsyncReranker(Protocol):
    def arerank(self, query: str, texts: list[str]) -> Awaitable[Sequence[float]]: ...


AnyReranker = Reranker | AsyncReranker


def check_reranker(reranker: object) -> AnyReranker:
    """Itself, when it can be asked. Raises InputError."""
    if inspect.isroutine(reranker):
        called = getattr(reranker, "__name__", "it")
        raise InputError(
            f"reranker is the function {called} itself, not a reranker.",
            hint=f"Call it, if it makes one: {called}(). A function that scores goes into an object, as its rerank.",
        )
    if isinstance(reranker, type) or not isinstance(reranker, Reranker | AsyncReranker):
        kind = f"the class {reranker.__name__}" if isinstance(reranker, type) else type(reranker).__name__
        raise InputError(
            f"reranker must be an object with rerank(query, texts) or arerank(query, texts), not {kind}.",
            hint="e.g. VoyageReranker(), CohereReranker(), or a class of your own.",
        )
    if not isinstance(reranker, AsyncReranker) and inspect.iscoroutinefunction(reranker.rerank):
        raise InputError(
            f"{type(reranker).__name__}.rerank is a coroutine function.",
            hint="Name it arerank: rerank is called in a worker thread.",
        )
    return reranker


def name_of(reranker: object) -> str:
    """Its `name`, else the name of its class; never its repr, which may show more than a message should."""
    try:
        name = getattr(reranker, "name", None)
    except Exception:  # noqa: BLE001 - a message is no reason to fail
        name = None
    return name[:80] if isinstance(name, str) and name else type(reranker).__name__


async def scores(
    reranker: AnyReranker, query: str, texts: Sequence[str], *, timeout_seconds: float | None = None
) -> list[float]:
    """One finite number per text, in the order given. Without texts nothing is asked.

    A blocking reranker that is late goes on in its thread, which nobody waits for; an awaited one is cancelled.

    Raises:
        RerankFailed: the reranker failed, was late (`reason="timeout"`), or answered anything but that.
    """
    if not texts:
        return []
    name = name_of(reranker)
    try:
        with anyio.move_on_after(timeout_seconds):
            return _checked(await _ask(reranker, query, list(texts)), len(texts), name)
    except SVRError:
        raise
    except Exception as error:
        raise RerankFailed(
            f"The reranker {name} failed: {type(error).__name__}.",
            hint="The cause is attached to this error (`__cause__`).",
            provider=name,
        ) from error
    raise RerankFailed(
        f"The reranker {name} did not answer within {timeout_seconds or 0:.3g} s.",
        hint="Give it more time, or fewer texts.",
        reason="timeout",
        provider=name,
    )


async def _ask(reranker: AnyReranker, query: str, texts: list[str]) -> object:
    if isinstance(reranker, AsyncReranker):
        return await foreign(reranker.arerank(query, texts))
    answer, error = await asyncio.wrap_future(threads().submit(lambda: reranker.rerank(query, texts)))
    if error is not None:
        raise error
    return answer


def _checked(made: object, count: int, name: str) -> list[float]:
    """Scores as floats. Raises RerankFailed for anything but `count` finite numbers."""
    try:
        array = as_numbers(made, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise _nonsense(name, "something other than numbers") from None
    if array.ndim != 1:
        raise _nonsense(name, f"an array of {array.ndim} dimensions")
    if len(array) != count:
        raise _nonsense(name, f"{len(array)} scores for {count} texts")
    if not np.isfinite(array).all():
        raise _nonsense(name, "scores that are not finite numbers")
    return [float(score) for score in array]


def _nonsense(name: str, what: str) -> RerankFailed:
    return RerankFailed(
        f"The reranker {name} answered {what}.",
        hint="It must answer one number per text, in order.",
        reason="answer",
        provider=name,
    )
