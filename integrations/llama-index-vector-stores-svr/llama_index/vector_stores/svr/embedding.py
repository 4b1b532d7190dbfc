"""`SVREmbedder`: any LlamaIndex embedding model as an embedder of the router's own collections."""

from __future__ import annotations

from typing import Final

from llama_index.core.base.embeddings.base import BaseEmbedding

from svr_retrievers import VectorSpace
from svr_retrievers.errors import InputError


class SVREmbedder:
    """For `client.create_collection(..., embedder=SVREmbedder(model))`, and wherever the router takes an embedder.

    Documents and queries are embedded as the model tells them apart, in the model's own batches. The model is
    called in a worker thread also where the collection is awaited: the asynchronous methods of many models
    block the event loop. `space` declares which vectors these are, so that the collection refuses others; without
    it the collection takes the model at its user's word. Its repr names the model, and no key.
    """

    def __init__(self, model: BaseEmbedding, *, space: VectorSpace | None = None) -> None:
        if not isinstance(model, BaseEmbedding):
            raise InputError(
                f"SVREmbedder wraps a LlamaIndex embedding model, not {type(model).__name__}.",
                hint="Other objects with embed_documents and embed_query are embedders as they are.",
            )
        self._model: Final = model
        self.space: Final = space

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._model.get_text_embedding_batch(texts)

    def embed_query(self, text: str) -> list[float]:
        return self._model.get_query_embedding(text)

    def __repr__(self) -> str:
        return f"SVREmbedder({type(self._model).__name__}: {self._model.model_name})"
