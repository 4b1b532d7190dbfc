"""Reranking: a second, closer look at the best hits, by a model that reads query and text together."""

from importlib import import_module
from typing import TYPE_CHECKING

from svr_retrievers.reranking.protocol import AsyncReranker, Reranker, check_reranker, scores

if TYPE_CHECKING:
    from svr_retrievers.reranking.cohere import CohereReranker
    from svr_retrievers.reranking.voyage import VoyageReranker

_EXTRAS = {"CohereReranker": "cohere", "VoyageReranker": "voyage"}

__all__ = ["AsyncReranker", "CohereReranker", "Reranker", "VoyageReranker", "check_reranker", "scores"]


def __getattr__(name: str) -> object:
    """What needs an extra is imported when it is first asked for."""
    if name in _EXTRAS:
        return getattr(import_module(f"{__name__}.{_EXTRAS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
