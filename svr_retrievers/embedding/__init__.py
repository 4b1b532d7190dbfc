"""From text to vectors: one protocol that LangChain's `Embeddings` already satisfies."""

from svr_retrievers.embedding.protocol import AsyncEmbedder, Embedder, embed_documents, embed_query

__all__ = ["AsyncEmbedder", "Embedder", "embed_documents", "embed_query"]
