"""`SVRRetriever`: one question, the documents that answer it, as a runnable and as a tool for agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.tools import StructuredTool
from pydantic import BaseModel, ConfigDict, Field, model_validator

from langchain_svr.options import ROUTING_OPTIONS, refuse_unknown
from langchain_svr.tools import retriever_tool
from langchain_svr.vectorstores import SVRVectorStore

SearchType = Literal["similarity", "mmr", "similarity_score_threshold"]
_BY_TYPE = {
    "similarity": frozenset[str](),
    "mmr": frozenset({"fetch_k", "lambda_mult"}),
    "similarity_score_threshold": frozenset({"score_threshold"}),
}


class SVRRetriever(BaseRetriever):
    """Searches an `SVRVectorStore`. Each field but `vectorstore` may also be given to `invoke` for one call.

    Two are not: `search_type`, and `namespace`, which is a boundary. A `filter` given to `invoke`
    narrows the retriever's own: both must hold, so that a caller cannot reach beyond it.
    """

    vectorstore: SVRVectorStore
    k: int = Field(default=4, ge=1)
    filter: dict[str, Any] | None = None
    search_type: SearchType = "similarity"
    score_threshold: float | None = Field(default=None, ge=0.0, le=1.0)
    """The least relevance, for `similarity_score_threshold`."""
    fetch_k: int = Field(default=20, ge=1)
    """How many of the closest documents `mmr` chooses from."""
    lambda_mult: float = Field(default=0.5, ge=0.0, le=1.0)
    """For `mmr`: 1 weighs closeness only, 0 difference only."""
    namespace: str | None = None
    partitions: list[str] | None = None
    exact: bool = False
    nprobe: int | None = None
    recall_target: float | None = None
    ef_search: int | None = None
    timeout_seconds: float | None = None
    on_failure: Literal["fail", "partial"] = "fail"
    with_details: bool = False
    """Add score, relevance, distance and partition to the metadata, under `svr_...`."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    @model_validator(mode="after")
    def _threshold_has_its_search_type(self) -> SVRRetriever:
        if (self.score_threshold is not None) != (self.search_type == "similarity_score_threshold"):
            raise ValueError(
                "score_threshold and search_type='similarity_score_threshold' need each other: set both."
            )
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
        search = self._search(kwargs)
        if self.search_type == "mmr":
            return self.vectorstore.max_marginal_relevance_search(query, **search)
        if self.search_type == "similarity_score_threshold":
            scored = self.vectorstore.similarity_search_with_relevance_scores(query, **search)
            return [document for document, _ in scored]
        return self.vectorstore.similarity_search(query, **search)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,  # noqa: ARG002 - as above
        **kwargs: Any,
    ) -> list[Document]:
        search = self._search(kwargs)
        if self.search_type == "mmr":
            return await self.vectorstore.amax_marginal_relevance_search(query, **search)
        if self.search_type == "similarity_score_threshold":
            scored = await self.vectorstore.asimilarity_search_with_relevance_scores(query, **search)
            return [document for document, _ in scored]
        return await self.vectorstore.asimilarity_search(query, **search)

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        params["ls_vector_store_provider"] = type(self.vectorstore).__name__
        params["ls_embedding_provider"] = type(self.vectorstore.embeddings).__name__
        return params

    def _search(self, given: dict[str, Any]) -> dict[str, Any]:
        """The keywords of the store's search: the fields, overridden by what this call gave."""
        names = {"k", "filter", "with_details"} | ROUTING_OPTIONS | _BY_TYPE[self.search_type]
        refuse_unknown("invoke", given, names)
        search = {name: getattr(self, name) for name in names} | {
            name: value for name, value in given.items() if name in names and value is not None
        }
        search["filter"] = _both(self.filter, given.get("filter"))
        return search | {"namespace": self.namespace}


def _both(own: Mapping[str, Any] | None, given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if own and given:
        return {"$and": [own, given]}
    return own or given
