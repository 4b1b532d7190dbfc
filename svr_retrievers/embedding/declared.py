"""Embedders that are only declared, since the server embeds: what may be combined with them, and what not."""

from __future__ import annotations

from svr_retrievers.backends.auto_embedding import AtlasEmbedding
from svr_retrievers.backends.indexes import IndexSpec
from svr_retrievers.backends.protocol import Backend, CollectionConfig
from svr_retrievers.embedding.protocol import AsyncEmbedder, Embedder, check_embedder
from svr_retrievers.errors import CollectionMismatch, ConfigError, InputError
from svr_retrievers.model import Metric
from svr_retrievers.routing.schemes import ClusterLevel, Scheme

AnyEmbedder = Embedder | AsyncEmbedder | AtlasEmbedding | None


def declared_by(embedder: AnyEmbedder) -> AtlasEmbedding | None:
    """The embedder where it only says that the server embeds. Raises InputError for what is no embedder at all."""
    if isinstance(embedder, AtlasEmbedding):
        return embedder
    check_embedder(embedder)
    return None


def embedder_of(config: CollectionConfig, given: AnyEmbedder) -> AnyEmbedder:
    """Raises CollectionMismatch for another embedder than the server's own, or where the server does not embed."""
    if config.embedding is None and not isinstance(given, AtlasEmbedding):
        return given
    if given is not None and given != config.embedding:
        made = f"is embedded by {config.embedding!r}" if config.embedding else "holds vectors of its own"
        raise CollectionMismatch(
            f"The collection {config.name!r} {made}, not by {given!r:.200}.",
            hint="Open it without an embedder." if config.embedding else "Pass the embedder of its vectors.",
        )
    return config.embedding


def check_embedding(
    embedding: AtlasEmbedding,
    dimensions: int,
    metric: Metric,
    scheme: Scheme | None,
    index: IndexSpec,
    backend: Backend,
) -> None:
    """Raises ConfigError where the server cannot embed, InputError for what needs vectors of our own."""
    if not backend.capabilities.embeds:
        raise ConfigError(
            f"The {backend.name} backend does not embed texts by itself.",
            hint="AtlasEmbedding needs MongoDB Atlas: SVRClient('mongodb+srv://...'). Elsewhere pass an embedder.",
        )
    if dimensions != embedding.dimensions:
        raise InputError(f"dimensions is {dimensions}, but the embedding has {embedding.dimensions}.")
    if metric is not Metric.COSINE:
        raise InputError(
            f"AtlasEmbedding makes vectors of length 1: use metric 'cosine', not {metric.value!r}."
        )
    if scheme is not None and any(isinstance(level, ClusterLevel) for level in scheme.levels):
        raise InputError(
            "by_cluster needs vectors, and with AtlasEmbedding only the server has them.",
            hint="Partition by metadata: by_field(), by_time(), by_hash() or by_namespace().",
        )
    if index.quantization != "none" or index.vectors != "float32":
        raise InputError("With AtlasEmbedding the quantization is said there, not in the index.")
    if index.mode not in ("auto", "source"):
        raise InputError(
            f"mode={index.mode!r} would have the server embed each text again; AtlasEmbedding takes 'source'."
        )
