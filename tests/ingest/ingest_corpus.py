"""Documents made from their numbers, in two versions, and an embedder whose vectors can be checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from svr_retrievers import Document

DIMENSIONS = 64
CHUNK = 60


def vector_of(text: str) -> np.ndarray:
    """The one vector of a text, in every process."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return np.random.default_rng(seed).standard_normal(DIMENSIONS, dtype=np.float32)


class LoggingEmbedder:
    """Writes every text it embeds into a file before it answers."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def embed_documents(self, texts: Sequence[str]) -> list[np.ndarray]:
        with self._log.open("a") as file:
            file.write("".join(f"{text}\n" for text in texts))
        return [vector_of(text) for text in texts]

    def embed_query(self, text: str) -> np.ndarray:
        return vector_of(text)


def sentences(number: int, version: int) -> list[str]:
    """One to five sentences that no other document has; each of them fills a chunk."""
    count = 1 + number % 3
    if version == 2:
        count = {0: count, 1: 1, 2: count + 2, 3: count}[number % 4]
    made = [f"Document {number} says this as its sentence {n} of many." for n in range(count)]
    if version == 2 and number % 4 == 2:
        made.insert(0, f"Document {number} begins in another way now.")
    if version == 2 and number % 8 == 3:
        made[-1] = f"Document {number} ends in another way now."
    return made


def documents(count: int, version: int) -> Iterator[Document]:
    for number in range(count):
        year = 2000 + number % 25 + (version if number % 16 == 4 else 0)
        metadata = {"year": year, "kind": f"k{number % 4}"}
        yield Document(f"doc-{number}", "\n\n".join(sentences(number, version)), metadata)


def given(count: int) -> Iterator[Document]:
    """Documents that bring their vectors."""
    for number in range(count):
        text = f"Document {number}: " + "some words that make a text of ordinary length, " * 6
        yield Document(f"doc-{number}", text, {"kind": f"k{number % 4}", "number": number}, vector_of(text))


def expected(count: int, version: int) -> dict[str, tuple[str, int]]:
    """The text and year of every row that has to be stored."""
    return {
        f"{document.id}#{n}": (sentence, document.metadata["year"])
        for number, document in enumerate(documents(count, version))
        for n, sentence in enumerate(sentences(number, version))
    }
