"""LlamaIndex vector store over Semantic Vector Router."""

from llama_index.vector_stores.svr.base import SVRVectorStore

__all__ = ["SVRVectorStore"]
