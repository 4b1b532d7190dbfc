"""Small documents whose right answers can be worked out by anyone, and the plain code that does so."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from svr_retrievers.model import Document, JsonValue, Metric, Vector, VectorLike

DIMENSIONS = 4
CATEGORIES = ("tickets", "wiki", "mail")
LANGUAGES = ("en", "de", "ja", "fr", "en")
START = datetime(2024, 1, 31, 12, tzinfo=UTC)

AWKWARD_TEXTS = (
    "plain",
    "with space",
    "🦊 emoji 👩‍👩‍👧",
    "quote'\"`",
    "back\\slash\\",
    "percent%s %(x)s {y} $1",
    "'; drop table documents; --",
    '"; drop schema svr cascade; --',
    "é",
    "e\u0301",
    "\uff26\uff35\uff2c\uff2c",
    "\ttab and\nnewline",
    "null",
    "NULL",
    "../../etc",
    "x" * 300,
    "ア" * 300,
)
"""Texts that have broken other stores, all different from one another."""

METADATA: dict[str, JsonValue] = {
    "int": 1,
    "zero": 0,
    "negative": -7,
    "big": 2**53 + 1,
    "beyond 64 bits": 2**70,
    "float": 0.1,
    "whole float": 2.0,
    "tiny": 5e-324,
    "large": 1.7976931348623157e308,
    "yes": True,
    "no": False,
    "nothing": None,
    "empty": "",
    "text": "ünïcode 🦊 'quoted' \"twice\" \\ %s",
    "list": [1, "two", None, [3.5, {"deep": True}], {}],
    "empty list": [],
    "object": {"a": {"b": {"c": [1, 2, 3]}}, "": "empty key"},
    "key with . and $": "odd key",
    "ключ": "значение",
}


def vector(number: int) -> list[float]:
    """Small whole numbers, so that every distance is the same on every machine; never zero."""
    return [float(number % 7 + 1), float(number % 5), float(number % 3 - 1), float(number // 7 % 4)]


def document(number: int) -> Document:
    """The `number`th sample document. Every eighth has no category, every ninth a null one."""
    metadata: dict[str, object] = {
        "number": number,
        "category": CATEGORIES[number % 3],
        "lang": LANGUAGES[number % 5],
        "year": 2018 + number % 6,
        "price": number / 4,
        "sold": number % 2 == 0,
        "tags": [f"t{number % 4}", f"t{number % 6}"],
        "author": {"name": f"Author {number % 4}", "age": 30 + number % 10},
        "at": START + timedelta(days=11 * number),
    }
    if number % 8 == 7:
        del metadata["category"]
    elif number % 9 == 8:
        metadata["category"] = None
    return Document(id=f"d{number:03d}", text=f"Text {number}", metadata=metadata, vector=vector(number))


def documents(count: int = 40) -> list[Document]:
    return [document(number) for number in range(count)]


def distance(query: VectorLike, row: VectorLike, metric: Metric) -> float:
    """The metric's definition, in 64 bits."""
    a, b = np.asarray(query, dtype=np.float64), np.asarray(row, dtype=np.float64)
    if metric is Metric.L2:
        return float(np.sqrt(((a - b) ** 2).sum()))
    if metric is Metric.INNER_PRODUCT:
        return -float(a @ b)
    return 1.0 - float(a @ b) / float(np.sqrt(a @ a) * np.sqrt(b @ b))


def nearest(query: VectorLike, stored: Sequence[Document], metric: Metric, limit: int) -> list[str]:
    """The ids of the closest documents, equal distances in the order of ids: what a search must answer."""

    def rank(candidate: Document) -> tuple[float, str]:
        assert candidate.vector is not None
        return round(distance(query, candidate.vector, metric), 6), candidate.id

    return [found.id for found in sorted(stored, key=rank)[:limit]]


def topics(rows: int, dimensions: int, *, count: int = 40, spread: float = 1.0, seed: int = 0) -> Vector:
    """Shape (rows, dimensions), float32: unit vectors around `count` centres, as embeddings of texts lie.

    The centres depend on `count` and `dimensions` alone, so that questions and documents share their topics.
    """
    centres = np.random.default_rng((count, dimensions)).normal(size=(count, dimensions))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(rows, dimensions)) * spread / np.sqrt(dimensions)
    made = centres[rng.integers(0, count, rows)] + noise
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), dtype=np.float32)
