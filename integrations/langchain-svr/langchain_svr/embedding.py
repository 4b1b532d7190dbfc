"""Awaits any embedding: its own `aembed_*` where it has them, else the blocking method in a worker thread."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol, cast

from langchain_svr.convert import VectorLike


class Embedding(Protocol):
    """What a store embeds with: any LangChain `Embeddings`, or any object with these two methods."""

    def embed_documents(self, texts: list[str], /) -> Sequence[VectorLike]: ...

    def embed_query(self, text: str, /) -> VectorLike: ...


async def aembed_documents(embedding: Embedding, texts: list[str]) -> Sequence[VectorLike]:
    own = getattr(embedding, "aembed_documents", None)
    if own is None:
        return await asyncio.to_thread(embedding.embed_documents, texts)
    return cast("Sequence[VectorLike]", await own(texts))


async def aembed_query(embedding: Embedding, text: str) -> VectorLike:
    own = getattr(embedding, "aembed_query", None)
    if own is None:
        return await asyncio.to_thread(embedding.embed_query, text)
    return cast("VectorLike", await own(text))
