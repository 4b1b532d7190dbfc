"""The local embedder: unit vectors, order, bounded batches, and clear refusals."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest

from svr_retrievers.embedding import local
from svr_retrievers.embedding.local import BATCH_CHARACTERS, WordLlamaEmbedder, _batches
from svr_retrievers.errors import EmbeddingFailed, MissingExtra

pytest.importorskip("wordllama")


@pytest.fixture(scope="module")
def embedder() -> WordLlamaEmbedder:
    return WordLlamaEmbedder()


def test_vectors_are_float32_of_length_one(embedder):
    vectors = embedder.matrix(["a short text", "another, somewhat longer text", "x" * 300])
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, embedder.dimensions) == (3, 256)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_order_and_batching_do_not_change_a_vector(embedder):
    texts = [f"text number {n} " + "word " * (n * 7 % 90) for n in range(300)]
    together = embedder.embed_documents(texts)
    assert isinstance(together, list)
    alone = np.stack([embedder.embed_query(text) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_meaning_is_closer_than_noise(embedder):
    question = embedder.embed_query("open a file and read it")
    near, far = embedder.embed_documents(["reading the contents of a file", "the parrot is no more"])
    assert question @ near > question @ far + 0.2


def test_no_texts_give_no_rows(embedder):
    assert embedder.matrix([]).shape == (0, 256)
    assert embedder.embed_documents([]) == []


def test_empty_text_is_refused_by_position(embedder):
    with pytest.raises(EmbeddingFailed, match=r"1 of 2 texts .* number 1: ''"):
        embedder.embed_documents(["something", ""])


def test_lone_surrogate_is_refused_with_a_reason(embedder):
    with pytest.raises(EmbeddingFailed, match="surrogates"):
        embedder.embed_query("bad \ud800 text")


def test_long_text_is_the_average_of_its_pieces(embedder):
    long = "the quick brown fox jumps over the lazy dog. " * 2_000
    assert embedder.embed_query(long) @ embedder.embed_query(long[:16_000]) > 0.999


@pytest.mark.parametrize("lengths", [[5] * 1_000, [100_000, 3, 3, 3], [16_384, 16_384, 16_384], [0, 1]])
def test_batches_stay_within_their_padded_size(lengths):
    texts = ["a" * n for n in lengths]
    seen = [0] * len(texts)
    for owners, pieces in _batches(texts):
        assert max(map(len, pieces)) * len(pieces) <= BATCH_CHARACTERS
        for owner, piece in zip(owners, pieces, strict=True):
            seen[owner] += len(piece)
    assert seen == lengths


def test_loading_leaves_the_root_logger_alone(monkeypatch):
    monkeypatch.delitem(sys.modules, "wordllama")
    before = list(logging.getLogger().handlers), logging.getLogger().level
    local._load.__wrapped__()
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == before


def test_missing_package_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "wordllama", None)
    with pytest.raises(MissingExtra, match=r'pip install "svr-retrievers\[local\]"'):
        local._load.__wrapped__()


def test_repr_says_what_it_is(embedder):
    assert repr(embedder) == "WordLlamaEmbedder(model='l2_supercat', dimensions=256)"


async def test_awaited_and_blocking_calls_give_the_same_vectors(embedder: WordLlamaEmbedder) -> None:
    texts = ["a reentrant lock", "opening a file"]
    assert np.array_equal(await embedder.aembed_documents(texts), embedder.embed_documents(texts))
    assert np.array_equal(await embedder.aembed_query(texts[0]), embedder.embed_query(texts[0]))
