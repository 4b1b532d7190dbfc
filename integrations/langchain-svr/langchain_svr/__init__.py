"""Semantic Vector Router for LangChain: a vector store, a retriever and a tool for agents."""

from __future__ import annotations

from langchain_svr.reranking import SVRRerank
from langchain_svr.retrievers import SVRRetriever
from langchain_svr.self_query import SVRTranslator
from langchain_svr.vectorstores import SVRVectorStore

__all__ = ["SVRRerank", "SVRRetriever", "SVRTranslator", "SVRVectorStore"]
__version__ = "0.1.0"
