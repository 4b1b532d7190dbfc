"""What a query may be told, by its mode: keyword arguments, counts and weights, each checked. PURE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, Final

from llama_index.core.vector_stores import VectorStoreQuery
from llama_index.core.vector_stores.types import VectorStoreQueryMode as Mode

from svr_retrievers.errors import InputError
from svr_retrievers.search import Fusion, check_fusion

_WORDS: Final = ("partitions", "timeout_seconds")
_SEARCH: Final = ("partitions", "exact", "nprobe", "recall_target", "timeout_seconds", "ef_search")
_HYBRID: Final = ("fusion",)
_RERANK: Final = ("reranker", "fetch_k", "rerank_timeout_seconds")
_MMR: Final = ("mmr_threshold", "mmr_prefetch_factor", "mmr_prefetch_k")
_OWN: Final = ("node_ids",)
_BY_MODE: Final[dict[Mode, tuple[str, ...]]] = {
    Mode.DEFAULT: (*_SEARCH, *_OWN, *_RERANK),
    Mode.MMR: (*_SEARCH, *_OWN, *_MMR),
    Mode.TEXT_SEARCH: (*_WORDS, *_OWN),
    Mode.HYBRID: (*_WORDS, *_OWN, *_HYBRID, *_RERANK),
}
_ALL: Final = (*_SEARCH, *_OWN, *_MMR, *_HYBRID, *_RERANK)
_LIKE_WORDS: Final = {Mode.SPARSE, Mode.SEMANTIC_HYBRID}
_COUNTS: Final = {"sparse_top_k": {Mode.HYBRID, Mode.TEXT_SEARCH}, "hybrid_top_k": {Mode.HYBRID}}
_PREFETCH: Final = 4.0
_BALANCE: Final = 0.5


def mode_of(query: VectorStoreQuery, options: Mapping[str, Any]) -> Mode:
    """The query's mode. Raises InputError or TypeError for what it, or this store, cannot use."""
    unused = [name for name in ("output_fields", "embedding_field") if getattr(query, name) is not None]
    if unused:
        raise InputError(f"SVRVectorStore does not use {' and '.join(unused)}.", hint="Leave it out.")
    mode = next((each for each in _BY_MODE if each == query.mode), None)
    if mode is None:
        raise InputError(
            f"SVRVectorStore knows the query modes {', '.join(_BY_MODE)}, not {_named(query.mode)}.",
            hint="text_search ranks by words, hybrid by words and vectors."
            if query.mode in _LIKE_WORDS
            else "",
        )
    _check_options(mode, options)
    check_count("similarity_top_k", query.similarity_top_k)
    for name, modes in _COUNTS.items():
        if mode in modes and getattr(query, name) is not None:
            check_count(name, getattr(query, name))
    return mode


def _named(mode: object) -> str:
    return mode.value if isinstance(mode, Mode) else str(mode)[:40]


def _check_options(mode: Mode, options: Mapping[str, Any]) -> None:
    reject_unknown("query", options, _ALL)
    misplaced = [name for name in options if name not in _BY_MODE[mode]]
    if misplaced:
        fitting = [f'"{each.value}"' for each, names in _BY_MODE.items() if set(misplaced) <= set(names)]
        where = " or ".join(fitting) or "another mode"
        raise TypeError(f"{', '.join(misplaced)} needs vector_store_query_mode={where}.")
    idle = [name for name in _RERANK if options.get(name) is not None]
    if idle and "reranker" not in idle:
        raise TypeError(f"{', '.join(idle)} needs a reranker.")


def reject_unknown(method: str, options: Mapping[str, Any], valid: Sequence[str] = ()) -> None:
    """Raises TypeError naming what is not known and what is."""
    unknown = sorted(set(options) - set(valid))
    if unknown:
        known = f"valid are {', '.join(valid)}" if valid else "it takes none"
        raise TypeError(f"{method}() got unknown keyword arguments {', '.join(unknown)}; {known}.")


def check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} must be a whole number from 1, not {value!r}.")


def passed_on(options: Mapping[str, Any]) -> dict[str, Any]:
    """What goes to the collection as it is; None means that an option was not given."""
    own = {*_OWN, *_MMR}
    return {name: value for name, value in options.items() if name not in own and value is not None}


def weight_of_vectors(query: VectorStoreQuery) -> float:
    """`alpha`: 0 for words alone, 1 for vectors alone; 0.5 where it is not given, which 0 is not."""
    alpha = _BALANCE if query.alpha is None else query.alpha
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha must lie between 0 (words) and 1 (vectors), not {alpha!r}.")
    return float(alpha)


def fusion(options: Mapping[str, Any]) -> Fusion:
    """How the two rankings become one. Raises InputError for a name that is none."""
    return check_fusion(options.get("fusion", "rrf"))


def balance(query: VectorStoreQuery, options: Mapping[str, Any]) -> float:
    threshold = options.get("mmr_threshold", query.mmr_threshold)
    if threshold is None:
        return _BALANCE
    if not isinstance(threshold, (int, float)) or not 0.0 <= threshold <= 1.0:
        raise InputError(f"mmr_threshold must lie between 0 and 1, not {threshold!r}.")
    return threshold


def prefetch(top_k: int, options: Mapping[str, Any]) -> int:
    """How many nearest nodes MMR chooses from: `mmr_prefetch_k`, or `mmr_prefetch_factor` times top_k."""
    count, factor = options.get("mmr_prefetch_k"), options.get("mmr_prefetch_factor")
    if count is not None and factor is not None:
        raise TypeError("mmr_prefetch_k and mmr_prefetch_factor exclude each other; give one.")
    wanted = count if count is not None else ceil(top_k * (_PREFETCH if factor is None else factor))
    return max(top_k, wanted)
