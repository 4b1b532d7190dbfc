"""From text to vectors: one protocol that LangChain's `Embeddings` already satisfies."""

from svr_retrievers.embedding.protocol import (
    AsyncEmbedder,
    Embedder,
    check_embedder,
    embed_documents,
    embed_query,
)

__all__ = ["AsyncEmbedder", "Embedder", "check_embedder", "embed_documents", "embed_query"]
