"""The half of the store that writes: add, delete, drop, each blocking and awaitable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

import svr_retrievers as svr
from langchain_svr import convert
from langchain_svr.connection import Connection
from langchain_svr.convert import Matrix, VectorLike
from langchain_svr.embedding import Embedding, aembed_documents
from langchain_svr.options import positive, refuse_misspelt, refuse_unknown


class WritingStore(VectorStore):
    """Upserts by id: a document added again replaces the earlier one."""

    _embedding: Embedding
    _connection: Connection
    _namespace: str

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int | None = None,
        namespace: str | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Embed and store texts; returns their ids in order. Missing ids become new UUIDs.

        Everything is written in one transaction, or in one for each `batch_size` texts. An iterator
        without metadatas and ids is then read a batch at a time.
        """
        refuse_misspelt("add_texts", kwargs)
        return self._add(convert.rows_of_texts(texts, metadatas, ids), batch_size, namespace)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int | None = None,
        namespace: str | None = None,
        **kwargs: Any,
    ) -> list[str]:
        refuse_misspelt("aadd_texts", kwargs)
        return await self._aadd(convert.rows_of_texts(texts, metadatas, ids), batch_size, namespace)

    def add_documents(
        self,
        documents: Iterable[Document],
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int | None = None,
        namespace: str | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """As `add_texts`. An entry of `ids` wins over the document's own id, None leaves it."""
        refuse_misspelt("add_documents", kwargs)
        return self._add(convert.rows_of_documents(documents, ids), batch_size, namespace)

    async def aadd_documents(
        self,
        documents: Iterable[Document],
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int | None = None,
        namespace: str | None = None,
        **kwargs: Any,
    ) -> list[str]:
        refuse_misspelt("aadd_documents", kwargs)
        return await self._aadd(convert.rows_of_documents(documents, ids), batch_size, namespace)

    def add_embeddings(
        self,
        text_embeddings: Iterable[tuple[str, VectorLike]],
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        ids: Iterable[str | None] | None = None,
        *,
        batch_size: int | None = None,
        namespace: str | None = None,
    ) -> list[str]:
        """Store texts with vectors that exist already, e.g. `zip(texts, matrix)` with a numpy matrix."""
        texts, vectors = convert.split_pairs(text_embeddings)
        rows = convert.rows_of_texts(texts, metadatas, ids)
        written: list[str] = []
        for batch, part in _with_vectors(rows, vectors, batch_size):
            written += self._connection.write(part.shape[1], self._adding(batch, part, namespace)).ids
        return written

    async def aadd_embeddings(
        self,
        text_embeddings: Iterable[tuple[str, VectorLike]],
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        ids: Iterable[str | None] | None = None,
        *,
        batch_size: int | None = None,
        namespace: str | None = None,
    ) -> list[str]:
        texts, vectors = convert.split_pairs(text_embeddings)
        rows = convert.rows_of_texts(texts, metadatas, ids)
        written: list[str] = []
        for batch, part in _with_vectors(rows, vectors, batch_size):
            written += (
                await self._connection.awrite(part.shape[1], self._aadding(batch, part, namespace))
            ).ids
        return written

    def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        **kwargs: Any,
    ) -> bool:
        """Delete by id, by filter, or what both select; with neither, every document of the namespace.

        An empty list deletes nothing, and so do ids that do not exist. True means that none of the
        selected documents is left.
        """
        refuse_unknown("delete", kwargs, ("ids", "filter", "namespace"))
        wanted, where = None if ids is None else convert.wanted_ids(ids), self._in(namespace)
        if wanted is None and filter is None:
            self._connection.read(lambda c: c.clear(namespace=where), 0)
        else:
            self._connection.read(lambda c: c.delete(wanted, filter=filter, namespace=where), 0)
        return True

    async def adelete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        **kwargs: Any,
    ) -> bool:
        refuse_unknown("adelete", kwargs, ("ids", "filter", "namespace"))
        wanted, where = None if ids is None else convert.wanted_ids(ids), self._in(namespace)
        if wanted is None and filter is None:
            await self._connection.aread(lambda c: c.clear(namespace=where), 0)
        else:
            await self._connection.aread(lambda c: c.delete(wanted, filter=filter, namespace=where), 0)
        return True

    def delete_collection(self) -> None:
        """Drop the whole collection, every namespace of it. The next write makes a new one."""
        self._connection.drop()

    async def adelete_collection(self) -> None:
        await self._connection.adrop()

    def _add(self, rows: Iterator[svr.Document], batch_size: int | None, namespace: str | None) -> list[str]:
        written: list[str] = []
        for batch in convert.batches(rows, _size(batch_size)):
            vectors = convert.matrix(self._embedding.embed_documents([r.text for r in batch]), len(batch))
            written += self._connection.write(vectors.shape[1], self._adding(batch, vectors, namespace)).ids
        return written

    async def _aadd(
        self, rows: Iterator[svr.Document], batch_size: int | None, namespace: str | None
    ) -> list[str]:
        written: list[str] = []
        for batch in convert.batches(rows, _size(batch_size)):
            embedded = await aembed_documents(self._embedding, [r.text for r in batch])
            vectors = convert.matrix(embedded, len(batch))
            added = await self._connection.awrite(vectors.shape[1], self._aadding(batch, vectors, namespace))
            written += added.ids
        return written

    def _in(self, namespace: str | None) -> str:
        """An empty namespace is a mistake that the core refuses, not a wish for the store's own."""
        return self._namespace if namespace is None else namespace

    def _adding(
        self, batch: list[svr.Document], vectors: Matrix, namespace: str | None
    ) -> Callable[[svr.Collection], svr.AddResult]:
        return lambda c: c.add(batch, vectors=vectors, namespace=self._in(namespace))

    def _aadding(
        self, batch: list[svr.Document], vectors: Matrix, namespace: str | None
    ) -> Callable[[svr.AsyncCollection], Awaitable[svr.AddResult]]:
        return lambda c: c.add(batch, vectors=vectors, namespace=self._in(namespace))


def _size(batch_size: int | None) -> int | None:
    return None if batch_size is None else positive("batch_size", batch_size)


def _with_vectors(
    rows: Iterator[svr.Document], vectors: Matrix, batch_size: int | None
) -> Iterator[tuple[list[svr.Document], Matrix]]:
    done = 0
    for batch in convert.batches(rows, _size(batch_size)):
        yield batch, vectors[done : done + len(batch)]
        done += len(batch)
