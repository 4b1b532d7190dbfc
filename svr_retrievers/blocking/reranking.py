"""Asking a reranker from code that does not await: for adapters, whose frameworks hand over texts of their own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from svr_retrievers.blocking.loop import running_loop
from svr_retrievers.loopfree import Bridge
from svr_retrievers.reranking.protocol import AnyReranker, scores


def blocking_scores(
    reranker: AnyReranker, query: str, texts: Sequence[str], *, timeout_seconds: float | None = None
) -> list[float]:
    """As `scores`, from any thread, also under a running event loop, which waits meanwhile.

    One that awaits lives on the background loop, as in searches of a blocking collection: what it keeps between
    calls, such as connections, is never met by another loop.

    Raises:
        RerankFailed: as `scores`.
        CalledFromLoop: from the background loop itself.
    """
    return Bridge(running_loop()).run(
        partial(scores, reranker, query, texts, timeout_seconds=timeout_seconds)
    )
