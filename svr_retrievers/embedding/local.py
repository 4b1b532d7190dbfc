"""A local embedder that needs no network, no key and no GPU: static word embeddings of 256 dimensions."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread
import numpy as np

from svr_retrievers.errors import EmbeddingFailed, MissingExtra
from svr_retrievers.model import Vector

if TYPE_CHECKING:
    from wordllama.inference import WordLlamaInference

DIMENSIONS = 256
# The model pads every text of a batch to the longest, so a batch is limited by its padded size:
# 32,768 characters are at most 32,768 tokens of 1 KiB each, 32 MiB.
BATCH_CHARACTERS = 32_768
PIECE_CHARACTERS = 16_384


class WordLlamaEmbedder:
    """Static embeddings (WordLlama, 256 dimensions) from the model inside the `wordllama` wheel.

    Nothing is downloaded. Tens of thousands of short texts a second on one core make it good for demos,
    tests and first experiments; it knows words, not word order, so a trained sentence model ranks better.
    Vectors are float32 of length 1. Memory stays within a few dozen MiB whatever the texts: one beyond
    16,384 characters is embedded in pieces, averaged by their length.
    """

    def __init__(self) -> None:
        self._model = _load()

    @property
    def dimensions(self) -> int:
        return DIMENSIONS

    def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        """One vector per text, in order. A text without a single token raises `EmbeddingFailed`."""
        return list(self.matrix(texts))

    def embed_query(self, text: str) -> Vector:
        row: Vector = self.matrix([text])[0]
        return row

    async def aembed_documents(self, texts: Sequence[str]) -> list[Vector]:
        """As `embed_documents`, in a worker thread."""
        return await anyio.to_thread.run_sync(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> Vector:
        """As `embed_query`, in a worker thread."""
        return await anyio.to_thread.run_sync(self.embed_query, text)

    def matrix(self, texts: Sequence[str]) -> Vector:
        """The same vectors as one array, a row per text."""
        sums = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
        for owners, pieces in _batches(texts):
            weights = np.array([len(piece) for piece in pieces], dtype=np.float32)
            np.add.at(sums, owners, self._embed(pieces) * weights[:, None])
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        _refuse_empty(texts, lengths[:, 0])
        sums /= lengths
        return sums

    def _embed(self, pieces: list[str]) -> Vector:
        try:
            return np.asarray(self._model.embed(pieces, batch_size=len(pieces)), dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise EmbeddingFailed(
                f"The local embedder refused a text: {error}.",
                hint="Texts must be valid Unicode strings, without lone surrogates.",
                reason="request",
            ) from error

    def __repr__(self) -> str:
        return f"WordLlamaEmbedder(model='l2_supercat', dimensions={DIMENSIONS})"


def _batches(texts: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
    """Pieces of similar length together, each batch within `BATCH_CHARACTERS` after padding."""
    spans = [
        (min(len(text) - start, PIECE_CHARACTERS), index, start)
        for index, text in enumerate(texts)
        for start in range(0, len(text), PIECE_CHARACTERS)
    ]
    owners: list[int] = []
    pieces: list[str] = []
    for length, index, start in sorted(spans):
        if pieces and length * (len(pieces) + 1) > BATCH_CHARACTERS:
            yield owners, pieces
            owners, pieces = [], []
        owners.append(index)
        pieces.append(texts[index][start : start + length])
    if pieces:
        yield owners, pieces


def _refuse_empty(texts: Sequence[str], lengths: Vector) -> None:
    bad = np.flatnonzero(~(lengths > 0))
    if bad.size:
        first = int(bad[0])
        raise EmbeddingFailed(
            f"{bad.size} of {len(texts)} texts hold nothing to embed; the first is number {first}: "
            f"{texts[first][:40]!r}.",
            hint="Leave empty texts out, or give those documents a vector.",
            reason="request",
        )


@cache
def _load() -> WordLlamaInference:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        import wordllama
    except ImportError as error:
        raise MissingExtra(
            "The local embedder needs the package `wordllama`, which is not installed.",
            hint='Run: pip install "svr-retrievers[local]"',
        ) from error
    finally:
        # Importing wordllama configures the process's root logger, which is the application's to do.
        root.handlers[:] = handlers
        root.setLevel(level)
    folder = Path(wordllama.__file__).parent
    model: WordLlamaInference = wordllama.WordLlama.load(cache_dir=str(folder), disable_download=True)
    return model
