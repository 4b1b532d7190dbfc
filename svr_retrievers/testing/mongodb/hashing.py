"""Embeds texts without a model: words are hashed to directions, so that texts with words in common lie close."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt


class Embed(Protocol):
    """Turns texts into vectors of `dimensions`; `purpose` is "document" or "query"."""

    def __call__(
        self, texts: Sequence[str], *, model: str, purpose: str, dimensions: int
    ) -> Sequence[Sequence[float]] | npt.NDArray[np.float32]: ...


def hash_embed(texts: Sequence[str], *, model: str, purpose: str, dimensions: int) -> npt.NDArray[np.float32]:
    """Unit vectors, the same in every process; a model of another name gives other vectors."""
    del purpose  # symmetric: a text finds itself
    return np.stack([_embedded(text, model, dimensions) for text in texts])


def _embedded(text: str, model: str, dimensions: int) -> npt.NDArray[np.float32]:
    words = re.findall(r"\w+", text.lower()) or [text]
    total = np.sum([_direction(word, model, dimensions) for word in words], axis=0)
    return np.asarray(total / np.linalg.norm(total), dtype=np.float32)


def _direction(word: str, model: str, dimensions: int) -> npt.NDArray[np.float64]:
    seed = hashlib.sha256(f"{model}\0{word}".encode()).digest()
    return np.random.default_rng(int.from_bytes(seed[:8], "big")).normal(size=dimensions)
