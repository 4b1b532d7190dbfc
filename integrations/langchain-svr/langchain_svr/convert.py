"""Turns LangChain's texts, documents and vectors into the core's values, and hits into documents."""

from __future__ import annotations

import copy
import itertools
import math
import struct
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from langchain_core.documents import Document

import svr_retrievers as svr
from svr_retrievers.errors import EmbeddingFailed, InputError, SVRError

VectorLike: TypeAlias = Sequence[float] | npt.NDArray[Any]
Matrix: TypeAlias = npt.NDArray[np.float32]


def rows_of_texts(
    texts: Iterable[str],
    metadatas: Iterable[Mapping[str, Any] | None] | None,
    ids: Iterable[str | None] | None,
) -> Iterator[svr.Document]:
    """One row a text, read lazily if nothing has to be matched up with it."""
    if isinstance(texts, str):
        raise InputError("`texts` is one string.", hint="Pass a list of strings.")
    if metadatas is None and ids is None:
        return (_row(text, None, None) for text in texts)
    found = list(texts)
    parallel = (found, _parallel("metadatas", metadatas, found), _parallel("ids", ids, found))
    return itertools.starmap(_row, zip(*parallel, strict=True))


def rows_of_documents(
    documents: Iterable[Document], ids: Iterable[str | None] | None
) -> Iterator[svr.Document]:
    """`ids` wins over each document's own id, which wins over a new one."""
    if ids is None:
        return (_row(d.page_content, d.metadata, d.id) for d in documents)
    found = list(documents)
    given = _parallel("ids", ids, found)
    return (
        _row(d.page_content, d.metadata, d.id if id_ is None else id_)
        for d, id_ in zip(found, given, strict=True)
    )


def split_pairs(pairs: Iterable[tuple[str, VectorLike]]) -> tuple[list[str], Matrix]:
    """The texts, and their vectors as one matrix."""
    found = list(pairs)
    if not found:
        return [], np.empty((0, 0), np.float32)
    return [text for text, _ in found], matrix([vector for _, vector in found], len(found), error=InputError)


def matrix(
    vectors: Sequence[VectorLike] | npt.NDArray[Any], count: int, *, error: type[SVRError] = EmbeddingFailed
) -> Matrix:
    """The vectors of `count` texts as float32 rows; numpy rows are stacked without becoming lists."""
    rows: npt.NDArray[Any]
    if (packed := _packed(vectors, count)) is not None:
        return packed
    try:
        if isinstance(vectors, list) and any(isinstance(vector, np.ndarray) for vector in vectors):
            rows = np.stack(vectors).astype(np.float32, copy=False)
        else:
            rows = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as cause:
        raise error(f"The vectors differ in length or hold no numbers: {cause}.") from cause
    if rows.shape[:1] != (count,) or len(rows.shape[1:]) != 1:
        raise error(f"Expected {count} vectors, one a text, but got an array of shape {rows.shape}.")
    return rows


def _packed(vectors: object, count: int) -> Matrix | None:
    """Lists of floats of one length, in less than half of numpy's time; None for whatever else there may be."""
    if (
        not isinstance(vectors, list)
        or len(vectors) != count
        or not count
        or not isinstance(vectors[0], list)
    ):
        return None
    pack = struct.Struct(f"{len(vectors[0])}f").pack
    try:
        body = bytearray().join([pack(*vector) for vector in vectors])
    except (struct.error, OverflowError, TypeError, ValueError):
        return None
    return np.frombuffer(body, dtype=np.float32).reshape(count, -1) if body else None


def batches(rows: Iterable[svr.Document], size: int | None) -> Iterator[list[svr.Document]]:
    """Lists of up to `size` rows; all in one if it is None. No rows, no batch."""
    source = iter(rows)
    while batch := list(itertools.islice(source, size)):
        yield batch


def wanted_ids(ids: Iterable[str]) -> list[str]:
    if isinstance(ids, str):
        raise InputError(f"`ids` is one string, {ids!r}.", hint="Pass a list of ids.")
    return [str(id_) for id_ in ids]


def document_of(found: svr.Hit | svr.Document, *, with_details: bool = False) -> Document:
    """The stored document with its own metadata, to which details of a hit are added only on request."""
    metadata = {name: _own(value) for name, value in found.metadata.items()}
    if with_details and isinstance(found, svr.Hit):
        metadata |= _details(found)
    return Document(id=found.id, page_content=found.text, metadata=metadata)


def _details(hit: svr.Hit) -> dict[str, Any]:
    """Numbers that JSON can hold: there is no distance where the server found a document by its words alone."""
    details: dict[str, Any] = {
        "svr_score": hit.score,
        "svr_relevance": hit.relevance,
        "svr_distance": None if math.isnan(hit.distance) else hit.distance,
        "svr_partition": hit.partition,
    }
    if hit.legs is not None:
        details |= {"svr_vector_rank": hit.legs.vector, "svr_keyword_rank": hit.legs.keyword}
    return details if hit.rerank_score is None else details | {"svr_rerank_score": hit.rerank_score}


def _own(value: Any) -> Any:
    """A value that the caller may change without changing what a backend in this process holds."""
    return copy.deepcopy(value) if isinstance(value, list | dict) else value


def _row(text: str, metadata: Mapping[str, Any] | None, id_: object) -> svr.Document:
    if not isinstance(text, str):
        raise InputError(f"A text is a {type(text).__name__}, not a string: {str(text)[:60]!r}.")
    return svr.Document(id=str(uuid.uuid4()) if id_ is None else str(id_), text=text, metadata=metadata or {})


def _parallel(name: str, values: Iterable[Any] | None, texts: Sequence[object]) -> list[Any]:
    if values is None:
        return [None] * len(texts)
    if isinstance(values, str):
        raise InputError(f"`{name}` is one string.", hint="Pass a list as long as the texts.")
    found = list(values)
    if len(found) != len(texts):
        raise InputError(
            f"{len(found)} {name} were given for {len(texts)} texts.", hint="Pass one for each text."
        )
    return found
