"""From text to vectors: one protocol that LangChain's `Embeddings` already satisfies."""

from svr_retrievers.backends.auto_embedding import AtlasEmbedding
from svr_retrievers.embedding.protocol import (
    AsyncEmbedder,
    Embedder,
    check_embedder,
    embed_documents,
    embed_query,
)

__all__ = [
    "AsyncEmbedder",
    "AtlasEmbedding",
    "Embedder",
    "check_embedder",
    "embed_documents",
    "embed_query",
]
