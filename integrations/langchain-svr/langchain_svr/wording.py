"""The part of the store that looks for words: keyword search, and hybrid search by words and meaning at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from langchain_core.documents import Document

from langchain_svr.embedding import aembed_query
from langchain_svr.options import COMMON_OPTIONS, HYBRID_OPTIONS, KEYWORD_OPTIONS, RERANK_OPTIONS, Ask
from langchain_svr.searching import SearchingStore, documents, noted, packed, scored
from svr_retrievers import Hit

_HYBRID: Final = COMMON_OPTIONS | HYBRID_OPTIONS | RERANK_OPTIONS
_KEYWORD: Final = COMMON_OPTIONS | KEYWORD_OPTIONS


class WordingStore(SearchingStore):
    """Each call carries its own settings; nothing of one query is kept for the next.

    All take `filter`, `partitions`, `timeout_seconds`, `namespace` and `with_details`. Hybrid searches also
    take `weights`, a pair for meaning and for words, `fusion`, the way in which the two rankings become one
    ("rrf", "distribution" or "convex"), and the options of a reranker. There `with_details` adds
    `svr_vector_rank` and `svr_keyword_rank`, which are None where a document was not in that ranking.
    """

    def hybrid_search(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[Document]:
        """The `k` best documents by two rankings: closeness to the query, and its words in their texts."""
        ask = self._ask("hybrid_search", k, filter, kwargs, _HYBRID)
        return documents(self._hybrid(ask, query), ask)

    async def ahybrid_search(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[Document]:
        ask = self._ask("ahybrid_search", k, filter, kwargs, _HYBRID)
        return documents(await self._ahybrid(ask, query), ask)

    def hybrid_search_with_score(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Documents with their fused score, higher for better and comparable within one answer only."""
        ask = self._ask("hybrid_search_with_score", k, filter, kwargs, _HYBRID)
        return scored(self._hybrid(ask, query), ask)

    async def ahybrid_search_with_score(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        ask = self._ask("ahybrid_search_with_score", k, filter, kwargs, _HYBRID)
        return scored(await self._ahybrid(ask, query), ask)

    def keyword_search(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[Document]:
        """The `k` best documents by the words of the query alone; nothing is embedded."""
        ask = self._ask("keyword_search", k, filter, kwargs, _KEYWORD)
        return documents(self._keywords(ask, query), ask)

    async def akeyword_search(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[Document]:
        ask = self._ask("akeyword_search", k, filter, kwargs, _KEYWORD)
        return documents(await self._akeywords(ask, query), ask)

    def keyword_search_with_score(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Documents with the score of the text search, which each backend counts in its own way."""
        ask = self._ask("keyword_search_with_score", k, filter, kwargs, _KEYWORD)
        return scored(self._keywords(ask, query), ask)

    async def akeyword_search_with_score(
        self, query: str, k: int = 4, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        ask = self._ask("akeyword_search_with_score", k, filter, kwargs, _KEYWORD)
        return scored(await self._akeywords(ask, query), ask)

    def search(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        """As LangChain's, with the search types "hybrid" and "keyword" beside its own."""
        if search_type == "hybrid":
            return self.hybrid_search(query, **kwargs)
        if search_type == "keyword":
            return self.keyword_search(query, **kwargs)
        return super().search(query, search_type, **kwargs)

    async def asearch(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        if search_type == "hybrid":
            return await self.ahybrid_search(query, **kwargs)
        if search_type == "keyword":
            return await self.akeyword_search(query, **kwargs)
        return await super().asearch(query, search_type, **kwargs)

    def _hybrid(self, ask: Ask, query: str) -> Sequence[Hit]:
        if self._connection.existing() is None:
            return ()
        options = ask.options | {"vector": packed(self._embedding.embed_query(query)), "limit": ask.limit}
        return noted(self._connection.read(lambda c: c.hybrid(text=query, **options), None))

    async def _ahybrid(self, ask: Ask, query: str) -> Sequence[Hit]:
        if await self._connection.aexisting() is None:
            return ()
        vector = packed(await aembed_query(self._embedding, query))
        options = ask.options | {"vector": vector, "limit": ask.limit}
        return noted(await self._connection.aread(lambda c: c.hybrid(text=query, **options), None))

    def _keywords(self, ask: Ask, query: str) -> Sequence[Hit]:
        options = ask.options | {"limit": ask.limit}
        return noted(self._connection.read(lambda c: c.keywords(text=query, **options), None))

    async def _akeywords(self, ask: Ask, query: str) -> Sequence[Hit]:
        options = ask.options | {"limit": ask.limit}
        return noted(await self._connection.aread(lambda c: c.keywords(text=query, **options), None))
