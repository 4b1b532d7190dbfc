"""`SVRRerank`: any reranker of the router as a LangChain document compressor."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict, Field, field_validator

from svr_retrievers.blocking import blocking_scores
from svr_retrievers.errors import SVRError, UsageError
from svr_retrievers.reranking import check_reranker, scores

SCORE_KEY: Final = "relevance_score"
_log = logging.getLogger("langchain_svr")


class SVRRerank(BaseDocumentCompressor):
    """Orders documents by how well they answer the query, and keeps the best `top_n`; all of them for None.

    Each keeps its id and metadata, to which the reranker's score is added as `relevance_score`; the documents
    given are not changed. Equal ones stay in the order given, and those without text stand last, without a
    score. A reranker that fails or is late costs the better order only: the documents come back in the order
    given, without scores, and the log `langchain_svr` says why. With `on_failure="fail"` it raises.

    For a store of this package `store.as_retriever(search_kwargs={"reranker": ...})` does the same with one
    object less; this is for `ContextualCompressionRetriever` and for documents from elsewhere.

    Raises:
        ValueError: for something that is no reranker.
        RerankFailed: under `on_failure="fail"`.
    """

    reranker: Any = Field(repr=False, exclude=True)
    """An object with `rerank(query, texts)` or `arerank(query, texts)`."""
    top_n: int | None = Field(default=None, ge=1)
    timeout_seconds: float | None = Field(default=10.0, gt=0)
    on_failure: str = Field(default="keep", pattern="^(keep|fail)$")

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", hide_input_in_errors=True)

    @field_validator("reranker")
    @classmethod
    def _can_be_asked(cls, given: object) -> object:
        return check_reranker(given)

    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,  # noqa: ARG002 - a reranker reports to nobody
    ) -> list[Document]:
        read = _with_text(documents)
        try:
            texts = [documents[at].page_content for at in read]
            made = blocking_scores(self.reranker, query, texts, timeout_seconds=self.timeout_seconds)
        except SVRError as error:
            return self._kept(documents, error)
        return _ordered(documents, read, made)[: self.top_n]

    async def acompress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,  # noqa: ARG002 - as above
    ) -> list[Document]:
        read = _with_text(documents)
        try:
            texts = [documents[at].page_content for at in read]
            made = await scores(self.reranker, query, texts, timeout_seconds=self.timeout_seconds)
        except SVRError as error:
            return self._kept(documents, error)
        return _ordered(documents, read, made)[: self.top_n]

    def _kept(self, documents: Sequence[Document], error: SVRError) -> list[Document]:
        if self.on_failure == "fail" or isinstance(error, UsageError):
            raise error
        _log.warning("not reranked, the order given stands: %s", error.message)
        return list(documents)[: self.top_n]


def _with_text(documents: Sequence[Document]) -> list[int]:
    return [at for at, document in enumerate(documents) if document.page_content.strip()]


def _ordered(documents: Sequence[Document], read: Sequence[int], made: Sequence[float]) -> list[Document]:
    best = sorted(zip(made, read, strict=True), key=lambda pair: (-pair[0], pair[1]))
    rest = sorted(set(range(len(documents))).difference(read))
    return [_scored(documents[at], score) for score, at in best] + [documents[at] for at in rest]


def _scored(document: Document, score: float) -> Document:
    return document.model_copy(update={"metadata": {**document.metadata, SCORE_KEY: score}})
