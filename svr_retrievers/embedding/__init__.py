"""From text to vectors: one protocol that LangChain's `Embeddings` already satisfies.

Providers' SDKs and the caching library are imported when one of the names that need them is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from svr_retrievers.backends.auto_embedding import AtlasEmbedding
from svr_retrievers.embedding.protocol import (
    AsyncEmbedder,
    Embedder,
    check_embedder,
    embed_documents,
    embed_query,
)
from svr_retrievers.spaces import VectorSpace

if TYPE_CHECKING:
    from svr_retrievers.embedding.cache import EmbeddingCache
    from svr_retrievers.embedding.cohere import CohereEmbedder
    from svr_retrievers.embedding.huggingface import SentenceTransformerEmbedder
    from svr_retrievers.embedding.onnx import OnnxEmbedder
    from svr_retrievers.embedding.openai import OpenAIEmbedder
    from svr_retrievers.embedding.service import EmbeddingService
    from svr_retrievers.embedding.voyage import VoyageEmbedder
    from svr_retrievers.providers.calling import RetryPolicy
    from svr_retrievers.providers.limits import Limits
    from svr_retrievers.providers.usage import Usage

__all__ = [
    "AsyncEmbedder",
    "AtlasEmbedding",
    "CohereEmbedder",
    "Embedder",
    "EmbeddingCache",
    "EmbeddingService",
    "Limits",
    "OnnxEmbedder",
    "OpenAIEmbedder",
    "RetryPolicy",
    "SentenceTransformerEmbedder",
    "Usage",
    "VectorSpace",
    "VoyageEmbedder",
    "check_embedder",
    "embed_documents",
    "embed_query",
]

_LATER = {
    "CohereEmbedder": "svr_retrievers.embedding.cohere",
    "EmbeddingCache": "svr_retrievers.embedding.cache",
    "EmbeddingService": "svr_retrievers.embedding.service",
    "Limits": "svr_retrievers.providers.limits",
    "OnnxEmbedder": "svr_retrievers.embedding.onnx",
    "OpenAIEmbedder": "svr_retrievers.embedding.openai",
    "RetryPolicy": "svr_retrievers.providers.calling",
    "SentenceTransformerEmbedder": "svr_retrievers.embedding.huggingface",
    "Usage": "svr_retrievers.providers.usage",
    "VoyageEmbedder": "svr_retrievers.embedding.voyage",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)
