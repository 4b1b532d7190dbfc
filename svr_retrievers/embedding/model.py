"""What the embedding service asks for vectors: one batch of texts at a time."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from svr_retrievers.errors import EmbeddingFailed, InputError
from svr_retrievers.model import Vector
from svr_retrievers.providers.usage import Meter
from svr_retrievers.spaces import VectorSpace
from svr_retrievers.values import as_numbers

Kind = Literal["document", "query"]
DType = Literal["float32", "int8", "binary"]


@dataclass(frozen=True, slots=True)
class Batching:
    """The most of one request: `texts`, and `tokens` as estimated by `estimated_tokens`; None is without limit."""

    texts: int
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """An array with a row per text, and the tokens that the provider counted; None where it does not say."""

    vectors: Vector
    tokens: int | None = None


@runtime_checkable
class EmbeddingModel(Protocol):
    """A model, without batching, caching or limits on how many calls are under way.

    `token` stands for the space in the memory of this process where the space is not known.
    """

    label: str
    token: str
    batching: Batching
    concurrency: int
    meter: Meter

    @property
    def space(self) -> VectorSpace | None:
        """None where it is not known: of a model that must be asked, or that was never said to have one."""

    @property
    def asked(self) -> bool:
        """Whether one answer would tell the space."""

    def learn(self, dimensions: int) -> None:
        """The length of the first vectors."""

    def inputs(self, kind: Kind) -> str:
        """What sets vectors of this kind of input apart from others of the same space."""

    async def embed(self, texts: Sequence[str], kind: Kind) -> Made:
        """One vector per text, in order. Raises EmbeddingFailed."""

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Facts:
    """What a provider documents about a model. `choices` are the output dimensions that can be asked for.

    `price` is in USD for a million tokens, `batch_tokens` the most of one request.
    """

    dimensions: int
    choices: tuple[int, ...] = ()
    price: float | None = None
    batch_tokens: int | None = None
    family: str = ""


def estimated_tokens(text: str) -> int:
    """A guess on the high side, without a tokenizer: a quarter token an ASCII character, up to 1.75 for others.

    Raises ValueError for text with a lone surrogate, which no JSON can carry.
    """
    size = len(text)
    return size // 4 + (len(text.encode()) - size) // 2 + 1


def check_texts(given: Iterable[str]) -> list[str]:
    """The texts. Raises InputError for what is no text, and EmbeddingFailed for texts that no model can embed."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InputError(
            f"embed_documents takes a list of texts, not a {type(given).__name__}.",
            hint="Use embed_query for one text, or [text].",
        )
    texts = list(given)
    bad = [index for index, text in enumerate(texts) if not isinstance(text, str)]
    if bad:
        raise InputError(f"Text {bad[0]} is of type {type(texts[bad[0]]).__name__}, not str.")
    bad = [index for index, text in enumerate(texts) if not text.strip() or not _encodable(text)]
    if bad:
        raise unembeddable(
            f"{len(bad)} of {len(texts)} texts hold nothing to embed, or half a character; "
            f"the first is number {bad[0]}.",
            bad,
        )
    return texts


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def unembeddable(message: str, positions: Sequence[int]) -> EmbeddingFailed:
    error = EmbeddingFailed(
        message, hint="Leave these texts out, or give those documents a vector.", reason="request", attempts=0
    )
    error.texts = tuple(positions)
    return error


def check_dimensions(model: str, facts: Facts | None, dimensions: int | None) -> None:
    """Raises InputError for output dimensions that a known model does not offer."""
    if dimensions is None:
        return
    if not isinstance(dimensions, int) or isinstance(dimensions, bool) or dimensions < 1:
        raise InputError(f"dimensions must be a whole number from 1 on, not {dimensions!r}.")
    if facts is None or dimensions == facts.dimensions or dimensions in facts.choices:
        return
    raise InputError(
        f"{model} has no output of {dimensions} dimensions.",
        hint=f"It offers {_listed(sorted({facts.dimensions, *facts.choices}))}.",
    )


def _listed(lengths: Sequence[int]) -> str:
    """Ordered lengths as a reader wants them: neighbours as "1 to 1536", others one by one."""
    whole = lengths[-1] - lengths[0] == len(lengths) - 1
    return f"{lengths[0]} to {lengths[-1]}" if whole and len(lengths) > 2 else ", ".join(map(str, lengths))


def check_batch(label: str, batch_size: int | None, most: int) -> int | None:
    """Raises InputError for a batch size that the provider would refuse."""
    whole = isinstance(batch_size, int) and not isinstance(batch_size, bool)
    if batch_size is not None and not (whole and 1 <= batch_size <= most):
        raise InputError(
            f"batch_size must be from 1 to {most:,} for {label}, not {batch_size!r}.",
            hint=f"{most:,} texts are the most that one request may hold.",
        )
    return batch_size


def decoded(rows: Sequence[object], dtype: DType) -> Vector:
    """Answers as float32. int8 keeps its whole numbers; packed bits become +1 and -1, the first bit first.

    With +1 and -1 the inner product, cosine and Euclidean distance all order vectors as the Hamming distance
    of the bits does.

    Raises:
        EmbeddingFailed: for anything but rows of numbers of one length.
    """
    try:
        if dtype == "binary":
            bits = np.unpackbits(np.asarray(rows, dtype=np.uint8), axis=1)
            return bits.astype(np.float32) * 2 - 1
        array = as_numbers([_row(row) for row in rows], np.float32)
    except (TypeError, ValueError, OverflowError, binascii.Error) as error:
        raise wrong_answer(f"vectors that cannot be read ({error})") from None
    return array


def _row(row: object) -> object:
    return np.frombuffer(base64.b64decode(row, validate=True), dtype="<f4") if isinstance(row, str) else row


def checked(vectors: Vector, texts: int, dimensions: int | None) -> Vector:
    """Raises EmbeddingFailed unless there is one finite vector per text, of these dimensions."""
    if vectors.ndim != 2 or len(vectors) != texts or not vectors.shape[1]:
        raise wrong_answer(f"an array of shape {vectors.shape} for {texts} texts")
    if dimensions is not None and vectors.shape[1] != dimensions:
        raise wrong_answer(f"vectors of {vectors.shape[1]} dimensions, where {dimensions} are expected")
    if not np.isfinite(vectors).all():
        raise wrong_answer("vectors with numbers that are not finite")
    return vectors


def wrong_answer(what: str) -> EmbeddingFailed:
    return EmbeddingFailed(
        f"The embedding model returned {what}.",
        hint="Check the model's name, its dimensions, and that the address leads to the provider's API.",
        reason="answer",
    )
