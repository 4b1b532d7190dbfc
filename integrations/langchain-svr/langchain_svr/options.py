"""Checks the keyword arguments that LangChain passes through untyped, so that no typing error is lost."""

from __future__ import annotations

import difflib
import operator
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from svr_retrievers.errors import InputError

ROUTING_OPTIONS = frozenset({
    "partitions", "exact", "nprobe", "recall_target", "ef_search", "timeout_seconds", "on_failure",
})  # fmt: skip
COMMON_OPTIONS = frozenset({"filter", "namespace", "with_details"})
SEARCH_OPTIONS = ROUTING_OPTIONS | COMMON_OPTIONS
RERANK_OPTIONS = frozenset({"reranker", "fetch_k", "rerank_timeout_seconds"})
KEYWORD_OPTIONS = frozenset({"partitions", "timeout_seconds"})
HYBRID_OPTIONS = KEYWORD_OPTIONS | {"weights", "fusion"}
ADD_OPTIONS = frozenset({"ids", "metadatas", "batch_size", "namespace"})

# `Runnable.invoke(..., verbose=True)` and older chains hand these down to every store.
_FROM_LANGCHAIN = frozenset({"verbose", "callbacks", "run_id"})
_BELONGS_TO = {
    "score_threshold": "it belongs to similarity_search_with_relevance_scores "
    "and to search_type='similarity_score_threshold'",
    "fetch_k": "it belongs to max_marginal_relevance_search, and to a `reranker`",
    "rerank_timeout_seconds": "it belongs to a `reranker`",
    "reranker": "it belongs to similarity and hybrid searches by text",
    "weights": "it belongs to hybrid_search",
    "fusion": "it belongs to hybrid_search",
    "lambda_mult": "it belongs to max_marginal_relevance_search",
    "pre_filter": "the filter is passed as `filter`",
    "where": "the filter is passed as `filter`",
    "top_k": "the number of results is `k`",
    "limit": "the number of results is `k`",
}

# What methods of these names take as parameters of their own.
_PARAMETERS = {
    "marginal": frozenset({"fetch_k", "lambda_mult"}),
    "relevance_scores": frozenset({"score_threshold"}),
}


@dataclass(frozen=True, slots=True)
class Ask:
    """One checked request: how many hits, the options of the core's search, and the shape of the answer."""

    limit: int
    options: dict[str, Any]
    with_details: bool

    @classmethod
    def checked(
        cls,
        method: str,
        k: int,
        given: Mapping[str, Any],
        *,
        namespace: str,
        known: frozenset[str] = SEARCH_OPTIONS,
    ) -> Ask:
        """None means that an option was not given, as everywhere in LangChain."""
        usable = of_use(known, given)
        refuse_unknown(method, given, usable | {"k"}, with_reranker=known - usable)
        options = {name: given[name] for name in usable & given.keys() if given[name] is not None}
        with_details = bool(options.pop("with_details", False))
        options.setdefault("namespace", namespace)
        return cls(positive("k", k), options, with_details)


def of_use(known: frozenset[str], given: Mapping[str, Any]) -> frozenset[str]:
    """The options that do something: those of a reranker only where there is one."""
    return known if given.get("reranker") is not None else known - (RERANK_OPTIONS - {"reranker"})


def positive(name: str, value: int) -> int:
    """`value` as an int of at least 1; numpy's whole numbers are fine."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise InputError(f"{name} must be a whole number of at least 1, not {value!r}.")
    return number


def refuse_unknown(
    method: str, given: Mapping[str, Any], known: Collection[str], *, with_reranker: Collection[str] = ()
) -> None:
    """Raises TypeError, which lists all that is taken; `with_reranker` are those that need one beside them."""
    for name in given:
        if name not in known and name not in _FROM_LANGCHAIN:
            own = next((own for part, own in _PARAMETERS.items() if part in method), frozenset())
            raise TypeError(_unknown(method, name, own.union(known), with_reranker))


def refuse_misspelt(method: str, given: Mapping[str, Any]) -> None:
    """Adding tolerates arguments meant for other stores, aloud; a near miss of one of ours is refused."""
    for name in given:
        if difflib.get_close_matches(name, ADD_OPTIONS, n=1, cutoff=0.7) or name in SEARCH_OPTIONS:
            raise TypeError(_unknown(method, name, ADD_OPTIONS))
        if name not in _FROM_LANGCHAIN:
            warnings.warn(f"{method}() has no use for {name!r} and ignores it.", UserWarning, stacklevel=3)


def _unknown(method: str, name: str, known: Collection[str], with_reranker: Collection[str] = ()) -> str:
    near = difflib.get_close_matches(name, [*known, *with_reranker], n=1, cutoff=0.6)
    why = _BELONGS_TO.get(name) or (f"did you mean {near[0]!r}?" if near else "")
    also = f"; with a reranker also {', '.join(sorted(with_reranker))}" if with_reranker else ""
    first = f"{method}() takes no {name!r}{': ' + why if why else ''}"
    return f"{first}{'' if first.endswith('?') else '.'} It takes {', '.join(sorted(known))}{also}."
