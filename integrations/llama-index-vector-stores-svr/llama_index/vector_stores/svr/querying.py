"""Turns a LlamaIndex query with its keyword arguments into searches of the collection, and their hits into nodes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
from llama_index.core.vector_stores import VectorStoreQuery, VectorStoreQueryResult
from llama_index.core.vector_stores.types import VectorStoreQueryMode as Mode
from llama_index.vector_stores.svr import options as checked
from llama_index.vector_stores.svr.filters import Clause, among, both, to_svr_filter
from llama_index.vector_stores.svr.nodes import ID_KEY, SOURCE_KEY, to_node

from svr_retrievers import AtlasEmbedding, Collection, Hit, SearchResult, maximal_marginal_relevance
from svr_retrievers.errors import InputError, NotFound, SVRError, UsageError
from svr_retrievers.search import MAX_LIMIT, Fusion, depth, fuse

Hits: TypeAlias = Sequence[Hit]
Merge: TypeAlias = Callable[[Sequence[Hits]], Hits]
_FATAL: Final = (InputError, NotFound, UsageError)
"""What is wrong for both rankings alike."""
_log: Final = logging.getLogger("llama_index.vector_stores.svr")


@dataclass(frozen=True, slots=True)
class Ask:
    """One call of the collection: `search`, `hybrid` or `keywords`, with its arguments."""

    method: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked of the collection, mostly one call, and how the answers become one."""

    asks: tuple[Ask, ...]
    merge: Merge

    def without(self, error: SVRError) -> SVRError:
        """The error of one ranking, where another may decide alone. Raises it otherwise."""
        if len(self.asks) == 1 or isinstance(error, _FATAL):
            raise error
        return error

    def result(self, answers: Sequence[SearchResult | SVRError]) -> VectorStoreQueryResult:
        """Nodes, scores and ids in step. What LlamaIndex has no room for goes to the log.

        Raises:
            SVRError: the first, where every ranking failed.
        """
        errors = [each for each in answers if isinstance(each, SVRError)]
        if len(errors) == len(answers):
            raise errors[0]
        for answer in answers:
            _tell(answer)
        hits = self.merge([() if isinstance(each, SVRError) else each for each in answers])
        return VectorStoreQueryResult(
            nodes=[to_node(hit.id, hit.text, hit.metadata) for hit in hits],
            similarities=_scores(hits),
            ids=[hit.id for hit in hits],
        )


def prepare(
    query: VectorStoreQuery, options: Mapping[str, Any], collection: Collection, namespace: str
) -> Search:
    """The search that answers this query; it holds nothing of any other.

    Raises:
        TypeError: for a keyword argument that is not known, or not used in the query's mode.
        InputError: for a mode that is not supported, what the mode lacks, or a field that is not used.
    """
    mode = checked.mode_of(query, options)
    common = checked.passed_on(options) | {
        "filter": _restriction(query, options, collection),
        "namespace": namespace,
    }
    if mode is Mode.TEXT_SEARCH:
        limit = query.similarity_top_k if query.sparse_top_k is None else query.sparse_top_k
        return _plain(_keywords(query, common, limit))
    if mode is Mode.HYBRID:
        return _hybrid(query, common, collection)
    if mode is Mode.MMR:
        return _diverse(query, options, common, collection)
    return _plain(_nearest(query, common, collection, query.similarity_top_k))


def restricted(filters: Any, collection: Collection) -> Clause:
    """The metadata filters in the collection's language."""
    scheme = collection.partition_by
    return to_svr_filter(filters, collection.filter_fields, scheme.fields if scheme is not None else ())


def embeds(collection: Collection) -> bool:
    """Whether the server itself makes the vectors, so that it is told texts alone."""
    return isinstance(collection.embedder, AtlasEmbedding)


def _restriction(query: VectorStoreQuery, options: Mapping[str, Any], collection: Collection) -> Clause:
    """`query.node_ids` is no restriction: LlamaIndex fills it with the nodes its own index lists.

    Those are the image and index nodes, or none at all, when the store holds the text, so that text nodes
    would disappear. Who wants a restriction passes `node_ids` as a keyword argument.
    """
    wanted = options.get("node_ids")
    return both(
        restricted(query.filters, collection),
        among(SOURCE_KEY, query.doc_ids) if query.doc_ids is not None else {},
        among(ID_KEY, wanted) if wanted is not None else {},
    )


def _nearest(query: VectorStoreQuery, common: dict[str, Any], collection: Collection, limit: int) -> Ask:
    """By the query's vector, or by its text where the server embeds."""
    by: dict[str, Any] = {"text": _text(query)} if embeds(collection) else {"vector": _vector(query)}
    if "reranker" in common:
        by["rerank_query"] = _text(query)
    return Ask("search", common | by | {"limit": limit})


def _keywords(query: VectorStoreQuery, common: dict[str, Any], limit: int) -> Ask:
    return Ask("keywords", common | {"text": _text(query), "limit": limit})


def _hybrid(query: VectorStoreQuery, common: dict[str, Any], collection: Collection) -> Search:
    """Where `alpha` leaves one ranking no weight, the other is asked alone."""
    alpha = checked.weight_of_vectors(query)
    fusion = checked.fusion(common)
    limit = query.similarity_top_k if query.hybrid_top_k is None else query.hybrid_top_k
    alone = {name: value for name, value in common.items() if name != "fusion"}
    if alpha == 0.0:
        _refuse_reranker(common, "of words alone")
        return _plain(_keywords(query, alone, min(limit, query.sparse_top_k or limit)))
    if alpha == 1.0:
        return _plain(_nearest(query, alone, collection, min(limit, query.similarity_top_k)))
    weights = (alpha, 1.0 - alpha)
    if query.sparse_top_k is not None or query.hybrid_top_k is not None:
        _refuse_reranker(common, "with sparse_top_k or hybrid_top_k")
        return Search(
            _apart(query, alone, collection, limit), lambda found: _fused(found, limit, weights, fusion)
        )
    by = {} if embeds(collection) else {"vector": _vector(query)}
    return _plain(Ask("hybrid", common | by | {"text": _text(query), "weights": weights, "limit": limit}))


def _refuse_reranker(common: Mapping[str, Any], what: str) -> None:
    if "reranker" in common:
        raise InputError(
            f"A hybrid query {what} takes no reranker.",
            hint="Rerank its nodes by the postprocessor SVRRerank.",
        )


def _apart(
    query: VectorStoreQuery, common: dict[str, Any], collection: Collection, limit: int
) -> tuple[Ask, Ask]:
    """Each ranking as deep as the query says, and as the collection goes itself where it says nothing."""
    own = min(depth(limit), MAX_LIMIT)
    near = own if query.hybrid_top_k is None else query.similarity_top_k
    said = own if query.sparse_top_k is None else query.sparse_top_k
    return _nearest(query, common, collection, near), _keywords(query, common, said)


def _fused(answers: Sequence[Hits], limit: int, weights: tuple[float, float], fusion: Fusion) -> list[Hit]:
    near, said = answers
    known = {(hit.namespace, hit.id): hit for hit in [*said, *near]}
    by_vector, by_word = ([((hit.namespace, hit.id), hit.score) for hit in each] for each in answers)
    best = fuse(by_vector, by_word, weights, fusion)[:limit]
    return [replace(known[each.key], score=each.score, legs=each.legs) for each in best]


def _diverse(
    query: VectorStoreQuery, options: Mapping[str, Any], common: dict[str, Any], collection: Collection
) -> Search:
    if embeds(collection):
        raise InputError(
            f"Mode mmr compares the nodes' vectors, which only the server has: it embeds {collection.name!r}.",
            hint="Use the mode default, hybrid or text_search.",
        )
    top_k, share = query.similarity_top_k, checked.balance(query, options)
    ask = _nearest(query, common | {"with_vectors": True}, collection, checked.prefetch(top_k, options))
    return Search((ask,), lambda answers: _varied(answers[0], query.query_embedding, top_k, share))


def _varied(hits: Sequence[Hit], vector: Any, top_k: int, share: float) -> list[Hit]:
    """In the order of selection, each with its own score."""
    if not hits:
        return []
    vectors = np.stack([np.asarray(hit.vector) for hit in hits])
    order = maximal_marginal_relevance(vector, vectors, k=top_k, lambda_mult=share)
    return [hits[index] for index in order]


def _plain(ask: Ask) -> Search:
    return Search((ask,), lambda answers: answers[0])


def _vector(query: VectorStoreQuery) -> list[float]:
    if query.query_embedding is None:
        raise InputError(
            f"The query has no embedding, and mode {Mode(query.mode).value} searches with it.",
            hint="Set query_embedding, or retrieve through an index with an embed_model.",
        )
    return query.query_embedding


def _text(query: VectorStoreQuery) -> str:
    if not query.query_str or not query.query_str.strip():
        raise InputError(
            f"The query has no text, and this search in mode {Mode(query.mode).value} needs its words.",
            hint="Set query_str, or retrieve through an index.",
        )
    return query.query_str


def _scores(hits: Sequence[Hit]) -> list[float]:
    """Those that the order comes from, since LlamaIndex sorts by them; what a reranker did not read stands last."""
    made = [hit.rerank_score for hit in hits if hit.rerank_score is not None]
    if not made:
        return [hit.score for hit in hits]
    return [min(made) if hit.rerank_score is None else hit.rerank_score for hit in hits]


def _tell(answer: SearchResult | SVRError) -> None:
    if isinstance(answer, SVRError):
        _log.warning("one of two rankings failed, the other decided alone: %s", answer.message)
        return
    short = answer.incomplete
    if short is not None:
        level = logging.DEBUG if short.code == "few_matches" else logging.WARNING
        _log.log(level, "%d of %d nodes: %s", len(answer), answer.limit, short.message)
    for note in answer.notes:
        _log.warning("%s", note)
