"""Turns a LlamaIndex query with its keyword arguments into the arguments of one search, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final

import numpy as np
from llama_index.core.vector_stores import VectorStoreQuery, VectorStoreQueryResult
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.vector_stores.svr.filters import Clause, among, both, to_svr_filter
from llama_index.vector_stores.svr.nodes import ID_KEY, SOURCE_KEY, to_node

from svr_retrievers import Collection, Hit, maximal_marginal_relevance
from svr_retrievers.errors import InputError

_SEARCH: Final = ("partitions", "exact", "nprobe", "recall_target", "timeout_seconds", "ef_search")
_MMR: Final = ("mmr_threshold", "mmr_prefetch_factor", "mmr_prefetch_k")
_OWN: Final = ("node_ids",)
_PREFETCH: Final = 4.0
_BALANCE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Search:
    """One search: the arguments for the collection, and what to do with its hits."""

    limit: int
    diverse: bool
    balance: float = _BALANCE
    vector: Any = None
    arguments: dict[str, Any] = field(default_factory=dict)

    def result(self, hits: Sequence[Hit]) -> VectorStoreQueryResult:
        """Nodes, scores and ids in step; the score is the hit's own, also where MMR decides the order."""
        chosen = self._diverse(hits) if self.diverse else hits
        return VectorStoreQueryResult(
            nodes=[to_node(hit.id, hit.text, hit.metadata) for hit in chosen],
            similarities=[hit.score for hit in chosen],
            ids=[hit.id for hit in chosen],
        )

    def _diverse(self, hits: Sequence[Hit]) -> list[Hit]:
        if not hits:
            return []
        vectors = np.stack([np.asarray(hit.vector) for hit in hits])
        order = maximal_marginal_relevance(self.vector, vectors, k=self.limit, lambda_mult=self.balance)
        return [hits[index] for index in order]


def prepare(
    query: VectorStoreQuery, options: Mapping[str, Any], collection: Collection, namespace: str
) -> Search:
    """The search that answers this query.

    Raises:
        TypeError: for a keyword argument that is not known, or not used in the query's mode.
        InputError: for a mode that is not supported, a missing embedding or a field that is not used.
    """
    diverse = _is_diverse(query)
    _check_options(options, diverse=diverse)
    if query.query_embedding is None:
        raise InputError(
            f"The query has no embedding, and mode {query.mode.value} searches with it.",
            hint="Set query_embedding, or retrieve through an index with an embed_model.",
        )
    _check_top_k(query.similarity_top_k)
    arguments: dict[str, Any] = {name: options[name] for name in _SEARCH if name in options}
    arguments |= {
        "vector": query.query_embedding,
        "limit": _prefetch(query.similarity_top_k, options) if diverse else query.similarity_top_k,
        "filter": _restriction(query, options, collection),
        "namespace": namespace,
        "with_vectors": diverse,
    }
    return Search(query.similarity_top_k, diverse, _balance(query, options), query.query_embedding, arguments)


def restricted(filters: Any, collection: Collection) -> Clause:
    """The metadata filters in the collection's language."""
    scheme = collection.partition_by
    return to_svr_filter(filters, collection.filter_fields, scheme.fields if scheme is not None else ())


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


def _is_diverse(query: VectorStoreQuery) -> bool:
    unused = [name for name in ("output_fields", "embedding_field") if getattr(query, name) is not None]
    if unused:
        raise InputError(f"SVRVectorStore does not use {' and '.join(unused)}.", hint="Leave it out.")
    if query.mode not in {VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR}:
        raise InputError(
            f"SVRVectorStore 0.1 supports the query modes default and mmr, not {query.mode.value}.",
            hint="Text and hybrid search are planned for a later release; until then combine "
            "retrievers with llama_index.core's QueryFusionRetriever.",
        )
    return query.mode is VectorStoreQueryMode.MMR


def _check_options(options: Mapping[str, Any], *, diverse: bool) -> None:
    valid = (*_SEARCH, *_OWN, *_MMR)
    reject_unknown("query", options, valid)
    if not diverse and (misplaced := [name for name in options if name in _MMR]):
        raise TypeError(f'{", ".join(misplaced)} needs vector_store_query_mode="mmr".')


def reject_unknown(method: str, options: Mapping[str, Any], valid: Sequence[str] = ()) -> None:
    """Raises TypeError naming what is not known and what is."""
    unknown = sorted(set(options) - set(valid))
    if unknown:
        known = f"valid are {', '.join(valid)}" if valid else "it takes none"
        raise TypeError(f"{method}() got unknown keyword arguments {', '.join(unknown)}; {known}.")


def _check_top_k(top_k: object) -> None:
    if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
        raise InputError(f"similarity_top_k must be a whole number from 1, not {top_k!r}.")


def _balance(query: VectorStoreQuery, options: Mapping[str, Any]) -> float:
    threshold = options.get("mmr_threshold", query.mmr_threshold)
    if threshold is None:
        return _BALANCE
    if not isinstance(threshold, (int, float)) or not 0.0 <= threshold <= 1.0:
        raise InputError(f"mmr_threshold must lie between 0 and 1, not {threshold!r}.")
    return threshold


def _prefetch(top_k: int, options: Mapping[str, Any]) -> int:
    """How many nearest nodes MMR chooses from: `mmr_prefetch_k`, or `mmr_prefetch_factor` times top_k."""
    count, factor = options.get("mmr_prefetch_k"), options.get("mmr_prefetch_factor")
    if count is not None and factor is not None:
        raise TypeError("mmr_prefetch_k and mmr_prefetch_factor exclude each other; give one.")
    wanted = count if count is not None else ceil(top_k * (_PREFETCH if factor is None else factor))
    return max(top_k, wanted)
