"""`SVRRerank`: any reranker of the router as a LlamaIndex node postprocessor."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from llama_index.core import instrumentation
from llama_index.core.bridge.pydantic import ConfigDict, Field, field_validator
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from svr_retrievers.blocking import blocking_scores
from svr_retrievers.errors import InputError, SVRError, UsageError
from svr_retrievers.reranking import check_reranker, scores

_events: Final = instrumentation.get_dispatcher(__name__)  # type: ignore[attr-defined]
_log: Final = logging.getLogger("llama_index.vector_stores.svr")


class SVRRerank(BaseNodePostprocessor):
    """Orders nodes by how well they answer the query, and keeps the best `top_n`; all of them for None.

    The reranker reads what an embedding model would: the text with the metadata that is not excluded there. Its
    score replaces the node's; the nodes given, and their scores, are not changed. Equal ones stay in the order
    given, and those without text stand last, without a score. A reranker that fails or is late costs the better
    order only: the nodes come back in the order given, with the scores they had, and the log
    `llama_index.vector_stores.svr` says why. With `on_failure="fail"` it raises. No dump holds the reranker.

    Raises:
        ValueError: for something that is no reranker.
        InputError: when it is asked without a query.
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

    @classmethod
    def class_name(cls) -> str:
        return "SVRRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query, texts = self._begun(nodes, query_bundle), _texts(nodes)
        try:
            made = blocking_scores(
                self.reranker, query, list(texts.values()), timeout_seconds=self.timeout_seconds
            )
        except SVRError as error:
            return self._kept(nodes, error)
        return self._ended(_ordered(nodes, dict(zip(texts, made, strict=True))))

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query, texts = self._begun(nodes, query_bundle), _texts(nodes)
        try:
            made = await scores(
                self.reranker, query, list(texts.values()), timeout_seconds=self.timeout_seconds
            )
        except SVRError as error:
            return self._kept(nodes, error)
        return self._ended(_ordered(nodes, dict(zip(texts, made, strict=True))))

    def _begun(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None) -> str:
        """The question, told to who watches LlamaIndex' events."""
        if query_bundle is None:
            raise InputError("A reranker needs the question.", hint="Pass query_str=... or query_bundle=....")
        name = str(getattr(self.reranker, "name", type(self.reranker).__name__))
        top_n = self.top_n or len(nodes)
        _events.event(ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=top_n, model_name=name))
        return query_bundle.query_str

    def _ended(self, ordered: Sequence[NodeWithScore]) -> list[NodeWithScore]:
        best = list(ordered)[: self.top_n]
        _events.event(ReRankEndEvent(nodes=best))
        return best

    def _kept(self, nodes: Sequence[NodeWithScore], error: SVRError) -> list[NodeWithScore]:
        if self.on_failure == "fail" or isinstance(error, UsageError):
            raise error
        _log.warning("not reranked, the order given stands: %s", error.message)
        return self._ended(nodes)


def _texts(nodes: Sequence[NodeWithScore]) -> dict[int, str]:
    """Those that have one, by their place."""
    return {
        at: each.node.get_content(metadata_mode=MetadataMode.EMBED)
        for at, each in enumerate(nodes)
        if each.node.get_content().strip()
    }


def _ordered(nodes: Sequence[NodeWithScore], made: dict[int, float]) -> list[NodeWithScore]:
    best = sorted(made, key=lambda at: (-made[at], at))
    rest = [at for at in range(len(nodes)) if at not in made]
    return [NodeWithScore(node=nodes[at].node, score=made.get(at)) for at in [*best, *rest]]
