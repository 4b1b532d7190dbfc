"""LlamaIndex vector store over Semantic Vector Router, with its rerankers and embedding models for either."""

from llama_index.vector_stores.svr.base import SVRVectorStore
from llama_index.vector_stores.svr.embedding import SVREmbedder
from llama_index.vector_stores.svr.reranking import SVRRerank

__all__ = ["SVREmbedder", "SVRRerank", "SVRVectorStore"]
