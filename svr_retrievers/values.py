"""The frozen values that everything else passes around: documents, hits, metrics, and the names of the others."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from svr_retrievers.errors import InputError

Vector: TypeAlias = npt.NDArray[np.float32]
VectorLike: TypeAlias = Sequence[float] | Vector | npt.NDArray[np.float64]
JsonValue: TypeAlias = "None | bool | int | float | str | list[JsonValue] | dict[str, JsonValue]"
OnFailure: TypeAlias = Literal["fail", "partial"]

DEFAULT_NAMESPACE = "default"
Real = TypeVar("Real", np.float32, np.float64)
_ODD = (str, bytes, bool, np.bool_, np.datetime64, np.timedelta64)
"""What numpy takes for numbers, and nobody else does."""


def packed_rows(rows: object, dimensions: int) -> Vector | None:
    """Lists of `dimensions` floats each as rows (n, d), in less than half of numpy's own time.

    None for anything else, such as lists of other lengths or numbers beyond 32 bits, which numpy then judges.
    """
    if not isinstance(rows, list) or not all(type(row) is list for row in rows):
        return None
    pack = struct.Struct(f"{dimensions}f").pack
    try:
        body = bytearray().join([pack(*row) for row in rows])
    except (struct.error, OverflowError, TypeError, ValueError):
        return None
    return np.frombuffer(body, dtype=np.float32).reshape(-1, dimensions)


def as_numbers(value: object, dtype: type[Real]) -> npt.NDArray[Real]:
    """What somebody's code answered, as an array of numbers. numpy also makes some of texts, dates and truths.

    Raises TypeError, ValueError or OverflowError for those, and for anything else that is no array of numbers.
    """
    made = np.asarray(value)
    mixed = made.flat if made.dtype.kind == "O" else value
    if made.dtype.kind in "bSUMmc" or _holds_odd(mixed):
        raise TypeError("no numbers")
    with np.errstate(over="ignore"):
        return made.astype(dtype, copy=False)


def _holds_odd(value: object) -> bool:
    """Whether it, or the first row of it, has members that only look like numbers."""
    if not isinstance(value, list | tuple | np.flatiter):
        return False
    return any(isinstance(each, _ODD) for each in value) or (len(value) > 0 and _holds_odd(value[0]))


class Metric(StrEnum):
    """How closeness is measured. A hit's `score` is always higher for closer."""

    COSINE = "cosine"
    """score = cosine similarity, -1 to 1; distance = 1 - score."""
    L2 = "l2"
    """distance = Euclidean distance; score = -distance."""
    INNER_PRODUCT = "inner_product"
    """score = dot product; distance = -score."""

    @classmethod
    def _missing_(cls, value: object) -> Metric:
        raise InputError(
            f"metric must be 'cosine', 'l2' or 'inner_product', not {value!r}.",
            hint="Most text embedding models are made for cosine.",
        )

    def score(self, distance: float) -> float:
        return 1.0 - distance if self is Metric.COSINE else -distance

    def relevance(self, distance: float) -> float:
        """A number in [0, 1], 1 for best, monotone in closeness and comparable within one collection.

        Cosine: similarity, with everything beyond a right angle at 0. L2: 1 / (1 + distance).
        Inner product: the logistic function of the dot product.
        """
        if self is Metric.COSINE:
            return 0.0 if distance > 1.0 else 1.0 if distance < 0.0 else 1.0 - distance
        if self is Metric.L2:
            return 1.0 / (1.0 + max(distance, 0.0))
        return float(1.0 / (1.0 + np.exp(np.clip(distance, -700.0, 700.0))))


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """One stored text with its metadata and vector. `(namespace, id)` is its key.

    `vector` is any sequence of numbers of the collection's length (numpy arrays are used as they are);
    None means that the collection's embedder makes it from `text`. `metadata` is anything JSON can
    hold, plus `datetime` and `date`, which are stored as ISO 8601 text. `version` counts the writes
    of this key, from 1; it is set by the store.
    """

    id: str
    text: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)
    vector: VectorLike | None = None
    namespace: str | None = None
    version: int = 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Document):
            return NotImplemented
        mine, theirs = self.vector, other.vector
        same = mine is theirs or (mine is not None and theirs is not None and np.array_equal(mine, theirs))
        return same and (
            (self.id, self.text, self.namespace, self.version)
            == (other.id, other.text, other.namespace, other.version)
            and dict(self.metadata) == dict(other.metadata)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        return f"Document(id={self.id!r}, text={text!r}, metadata={dict(self.metadata)!r})"


@dataclass(frozen=True, slots=True)
class Legs:
    """Where a hit stood among the answers by vector and by keyword, from 1; None where it was not among them.

    `vector_score` and `keyword_score` are what it was ranked by there: the metric's score and the engine's score of
    the words.
    """

    vector: int | None
    keyword: int | None
    vector_score: float | None = field(default=None, compare=False)
    keyword_score: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer of a search.

    `score` is higher for closer and never rescaled; `distance` is the metric's own number;
    `relevance` lies in [0, 1]. `partition` is the display path of the partition it came from.
    `vector` is set only when the search asked for vectors. `legs` is set by hybrid searches, whose `score` is the
    fused one; there `distance` is NaN for a hit that the server found by its words and embeds itself.
    `rerank_score` is what a reranker gave it, in the reranker's own measure; None where none did.
    """

    id: str
    score: float
    text: str
    metadata: Mapping[str, JsonValue]
    partition: str
    distance: float
    relevance: float
    namespace: str = DEFAULT_NAMESPACE
    version: int = 1
    vector: Vector | None = field(default=None, compare=False, repr=False)
    legs: Legs | None = None
    rerank_score: float | None = None

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        second = "" if self.rerank_score is None else f", rerank_score={self.rerank_score:.4f}"
        return (
            f"Hit({self.id!r}, score={self.score:.4f}{second}, partition={self.partition!r}, text={text!r})"
        )
