"""`SVRRetriever`: one question, the documents that answer it, as a runnable and as a tool for agents."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.tools import StructuredTool
from langchain_core.vectorstores import VectorStoreRetriever
from pydantic import BaseModel, ConfigDict, Field, model_validator

from langchain_svr.options import (
    HYBRID_OPTIONS,
    KEYWORD_OPTIONS,
    RERANK_OPTIONS,
    ROUTING_OPTIONS,
    of_use,
    refuse_unknown,
)
from langchain_svr.tools import retriever_tool
from langchain_svr.vectorstores import SVRVectorStore

SearchType = Literal["similarity", "mmr", "similarity_score_threshold", "hybrid", "keyword"]
_BY_TYPE = {
    "similarity": ROUTING_OPTIONS | RERANK_OPTIONS,
    "mmr": ROUTING_OPTIONS | {"fetch_k", "lambda_mult"},
    "similarity_score_threshold": ROUTING_OPTIONS | RERANK_OPTIONS | {"score_threshold"},
    "hybrid": HYBRID_OPTIONS | RERANK_OPTIONS,
    "keyword": KEYWORD_OPTIONS,
}
_OF_SOME_TYPE = frozenset[str]().union(*_BY_TYPE.values())


class StoreRetriever(VectorStoreRetriever):
    """What `store.as_retriever()` makes: LangChain's own, with `search_type` "hybrid" and "keyword" as well."""

    allowed_search_types: ClassVar[Collection[str]] = tuple(_BY_TYPE)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        if self.search_type not in {"hybrid", "keyword"}:
            return super()._get_relevant_documents(query, run_manager=run_manager, **kwargs)
        return self.vectorstore.search(query, self.search_type, **(self.search_kwargs | kwargs))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        if self.search_type not in {"hybrid", "keyword"}:
            return await super()._aget_relevant_documents(query, run_manager=run_manager, **kwargs)
        return await self.vectorstore.asearch(query, self.search_type, **(self.search_kwargs | kwargs))


class SVRRetriever(BaseRetriever):
    """Searches an `SVRVectorStore`. Each field but `vectorstore` may also be given to `invoke` for one call.

    Two are not: `search_type`, and `namespace`, which is a boundary. A `filter` given to `invoke`
    narrows the retriever's own: both must hold, so that a caller cannot reach beyond it.

    A field that the `search_type` has no use for is refused, here and in `invoke`.
    """

    vectorstore: SVRVectorStore
    k: int = Field(default=4, ge=1)
    filter: dict[str, Any] | None = None
    search_type: SearchType = "similarity"
    """`hybrid` ranks by meaning and by words, `keyword` by words alone."""
    score_threshold: float | None = Field(default=None, ge=0.0, le=1.0)
    """The least relevance, for `similarity_score_threshold`."""
    fetch_k: int | None = Field(default=None, ge=1)
    """How many of the best documents `mmr` (20) or a reranker (4 times `k`, at least 50) chooses from."""
    lambda_mult: float = Field(default=0.5, ge=0.0, le=1.0)
    """For `mmr`: 1 weighs closeness only, 0 difference only."""
    weights: tuple[float, float] | None = None
    """For `hybrid`: how much meaning and words count, (1.0, 1.0) if left out."""
    fusion: str | None = None
    """For `hybrid`: how two rankings become one: "rrf" (reciprocal ranks, if left out), "distribution", "convex"."""
    reranker: Any = Field(default=None, repr=False, exclude=True)
    """An object with `rerank(query, texts)` or `arerank(query, texts)`: its scores decide the order."""
    rerank_timeout_seconds: float | None = None
    namespace: str | None = None
    partitions: list[str] | None = None
    exact: bool = False
    nprobe: int | None = None
    recall_target: float | None = None
    ef_search: int | None = None
    timeout_seconds: float | None = None
    on_failure: Literal["fail", "partial"] = "fail"
    with_details: bool = False
    """Add score, relevance, distance, ranks and partition to the metadata, under `svr_...`."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    @model_validator(mode="after")
    def _every_field_is_of_use(self) -> SVRRetriever:
        if (self.score_threshold is not None) != (self.search_type == "similarity_score_threshold"):
            raise ValueError(
                "score_threshold and search_type='similarity_score_threshold' need each other: set both."
            )
        for name in sorted(_OF_SOME_TYPE - self._known({})):
            if getattr(self, name) != type(self).model_fields[name].default:
                without = name in _BY_TYPE[self.search_type]
                why = "without a reranker" if without else f"in search_type={self.search_type!r}"
                raise ValueError(f"{name} has no use {why}: leave it out.")
        return self

    def as_tool(
        self,
        args_schema: type[BaseModel] | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
        arg_types: dict[str, type] | None = None,
    ) -> StructuredTool:
        """A tool for agents with the arguments `query`, `k` and `filter`.

        It returns the texts as content and the documents as the artifact. A filter that the model
        got wrong comes back to it as an error message it can learn from. `args_schema` replaces the
        description of the arguments, e.g. to offer the query alone.
        """
        if arg_types is not None:
            raise TypeError("as_tool() knows its arguments: pass `args_schema` instead of `arg_types`.")
        return retriever_tool(
            self,
            name=name or "search_documents",
            description=description or "Search the documents for passages on a subject.",
            args_schema=args_schema,
            fields=self.vectorstore.filter_fields,
            partition_fields=self.vectorstore.partition_fields,
            default_k=self.k,
        )

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain passes it
        **kwargs: Any,
    ) -> list[Document]:
        return self.vectorstore.search(query, self.search_type, **self._search(kwargs))

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,  # noqa: ARG002 - as above
        **kwargs: Any,
    ) -> list[Document]:
        return await self.vectorstore.asearch(query, self.search_type, **self._search(kwargs))

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        params["ls_vector_store_provider"] = type(self.vectorstore).__name__
        params["ls_embedding_provider"] = type(self.vectorstore.embeddings).__name__
        return params

    def _search(self, given: dict[str, Any]) -> dict[str, Any]:
        """The keywords of the store's search: the fields, overridden by what this call gave."""
        names = {"k", "filter", "with_details"} | self._known(given)
        refuse_unknown("invoke", given, names, with_reranker=_BY_TYPE[self.search_type] - names)
        search = {name: getattr(self, name) for name in names} | {
            name: value for name, value in given.items() if name in names and value is not None
        }
        if search.get("fetch_k", 0) is None:
            del search["fetch_k"]
        search["filter"] = _both(self.filter, given.get("filter"))
        return search | {"namespace": self.namespace}

    def _known(self, given: Mapping[str, Any]) -> frozenset[str]:
        """The options that this search type uses; those of a reranker only where there is one."""
        known = _BY_TYPE[self.search_type]
        if "reranker" not in known:
            return known
        reranker = self.reranker if given.get("reranker") is None else given["reranker"]
        return of_use(known, {"reranker": reranker})


def _both(own: Mapping[str, Any] | None, given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if own and given:
        return {"$and": [own, given]}
    return own or given
