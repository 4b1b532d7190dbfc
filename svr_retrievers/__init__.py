"""Semantic Vector Router: partition, route, search and merge, as one retriever."""

from svr_retrievers import errors
from svr_retrievers.backends.indexes import IndexSpec, flat, hnsw, ivfflat
from svr_retrievers.blocking import Collection, SVRClient
from svr_retrievers.changes import Change
from svr_retrievers.client import AsyncSVRClient
from svr_retrievers.collection import AsyncCollection
from svr_retrievers.embedding import AtlasEmbedding, Embedder
from svr_retrievers.errors import SVRError
from svr_retrievers.model import (
    DEFAULT_NAMESPACE,
    AddResult,
    Adopted,
    Document,
    Explanation,
    Hit,
    Metric,
    Partition,
    PartitionMap,
    Route,
    SearchResult,
    Server,
)
from svr_retrievers.reranking import Reranker
from svr_retrievers.routing.schemes import Scheme, by_cluster, by_field, by_hash, by_namespace, by_time
from svr_retrievers.search.mmr import maximal_marginal_relevance
from svr_retrievers.settings import Settings
from svr_retrievers.spaces import VectorSpace

__version__ = "0.1.0"
__all__ = [
    "DEFAULT_NAMESPACE", "AddResult", "Adopted", "AsyncCollection", "AsyncSVRClient", "AtlasEmbedding", "Change",
    "Collection", "Document", "Embedder", "Explanation", "Hit", "IndexSpec", "Metric", "Partition",
    "PartitionMap", "Reranker", "Route", "SVRClient", "SVRError", "Scheme", "SearchResult", "Server", "Settings",
    "VectorSpace", "by_cluster", "by_field", "by_hash", "by_namespace", "by_time", "errors", "flat", "hnsw", "ivfflat",
    "maximal_marginal_relevance",
]  # fmt: skip
