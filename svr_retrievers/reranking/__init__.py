"""Reranking: a second, closer look at the best hits, by a model that reads query and text together.

Providers' SDKs are imported when one of the names that need them is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from svr_retrievers.reranking.protocol import AsyncReranker, Reranker, check_reranker, scores

if TYPE_CHECKING:
    from svr_retrievers.providers.calling import RetryPolicy
    from svr_retrievers.providers.limits import Limits
    from svr_retrievers.providers.usage import Usage
    from svr_retrievers.reranking.cohere import CohereReranker
    from svr_retrievers.reranking.cross_encoder import CrossEncoderReranker
    from svr_retrievers.reranking.voyage import VoyageReranker

__all__ = [
    "AsyncReranker",
    "CohereReranker",
    "CrossEncoderReranker",
    "Limits",
    "Reranker",
    "RetryPolicy",
    "Usage",
    "VoyageReranker",
    "check_reranker",
    "scores",
]

_LATER = {
    "CohereReranker": "svr_retrievers.reranking.cohere",
    "CrossEncoderReranker": "svr_retrievers.reranking.cross_encoder",
    "Limits": "svr_retrievers.providers.limits",
    "RetryPolicy": "svr_retrievers.providers.calling",
    "Usage": "svr_retrievers.providers.usage",
    "VoyageReranker": "svr_retrievers.reranking.voyage",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
