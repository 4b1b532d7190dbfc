"""A cache that the caller makes is the one that is used, however empty it is."""

from __future__ import annotations

import pytest

from svr_retrievers.embedding import EmbeddingCache, EmbeddingService
from svr_retrievers.spaces import VectorSpace

pytestmark = pytest.mark.providers


def test_an_empty_cache_that_is_given_is_used() -> None:
    class Counted:
        calls = 0

        def embed_documents(self, texts):
            self.calls += 1
            return [[1.0, float(len(text))] for text in texts]

        def embed_query(self, text):
            return self.embed_documents([text])[0]

    model, cache = Counted(), EmbeddingCache()
    service = EmbeddingService(model, space=VectorSpace("test", "counted", 2), cache=cache)
    for _ in range(3):
        service.embed_documents(["a", "bb"])
    assert model.calls == 1
