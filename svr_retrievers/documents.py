"""Checks a whole batch of documents before anything is written, and turns it into rows. PURE."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from svr_retrievers.backends.indexes import Stored
from svr_retrievers.backends.protocol import Batch, CollectionConfig
from svr_retrievers.errors import BatchError, DimensionMismatch, DocumentProblem, InputError
from svr_retrievers.filters import normalise_metadata, typed_values
from svr_retrievers.model import Document, JsonValue, Metric, Vector
from svr_retrievers.names import MAX_KEY_BYTES, check_key, check_text
from svr_retrievers.routing.place import check_placement, field_value
from svr_retrievers.routing.schemes import Scheme
from svr_retrievers.values import packed_rows

_MOST_SQUARED = float(np.finfo(np.float32).max) / 8
"""Two vectors of at most this squared length have a distance that 32 bits hold."""
_SCALARS = frozenset({str, int, bool, type(None)})


@dataclass(slots=True)
class Draft:
    """A batch on its way: everything checked but the vectors that an embedder still has to make."""

    namespaces: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    metadatas: list[Mapping[str, JsonValue]] = field(default_factory=list)
    typed: list[Mapping[str, object]] = field(default_factory=list)
    problems: list[DocumentProblem] = field(default_factory=list)
    place_fields: tuple[str, ...] = ()
    placeable: set[tuple[tuple[type, object], ...]] = field(default_factory=set)

    def refuse(self, index: int, doc_id: object, argument: str, message: str) -> None:
        self.problems.append(DocumentProblem(index, str(doc_id), argument, message))

    def check_place(
        self, scheme: Scheme, metadata: Mapping[str, JsonValue], typed: Mapping[str, object]
    ) -> None:
        """Raises InputError for what no partition can stand for; a value that was fine once is so again."""
        values = tuple([field_value(field, metadata, typed) for field in self.place_fields])
        known = tuple([(type(value), value) for value in values if type(value) in _SCALARS])
        if len(known) < len(values):
            check_placement(scheme, metadata, typed)
        elif known not in self.placeable:
            check_placement(scheme, metadata, typed)
            self.placeable.add(known)

    def check(self) -> None:
        """Raises BatchError when any document was refused."""
        if self.problems:
            raise BatchError(sorted(self.problems, key=lambda p: p.index))

    def batch(self, vectors: Vector) -> Batch:
        return Batch(self.namespaces, self.ids, self.texts, self.metadatas, self.typed, vectors)


def as_documents(documents: Iterable[Document]) -> list[Document]:
    """The documents as a list. Raises InputError for anything else."""
    if isinstance(documents, Document | str | bytes | Mapping) or not isinstance(documents, Iterable):
        raise InputError(
            f"documents must be an iterable of Document, not {type(documents).__name__}.",
            hint="Wrap a single document in a list: add([document]).",
        )
    found = list(documents)
    for index, document in enumerate(found):
        if not isinstance(document, Document):
            raise InputError(
                f"documents[{index}] is a {type(document).__name__}, not a Document.",
                hint="Build it with svr_retrievers.Document(id=..., text=..., metadata=..., vector=...).",
            )
    return found


def draft(documents: Sequence[Document], config: CollectionConfig, namespace: str) -> Draft:
    """Checks ids, texts, metadata, declared fields and partition keys; collects every problem."""
    made = Draft(place_fields=config.scheme.fields if config.scheme is not None else ())
    seen: dict[tuple[str, str], int] = {}
    for index, document in enumerate(documents):
        try:
            _draft_one(made, index, document, config, namespace, seen)
        except InputError as error:
            made.refuse(index, document.id, _argument_of(error), str(error))
    return made


def _draft_one(
    made: Draft,
    index: int,
    document: Document,
    config: CollectionConfig,
    namespace: str,
    seen: dict[tuple[str, str], int],
) -> None:
    doc_id = check_key(document.id, "id")
    space = namespace if document.namespace is None else check_key(document.namespace, "namespace")
    text = check_text(document.text, "text")
    metadata = normalise_metadata(document.metadata)
    if config.source is not None:
        config.source.check_namespace(space)
        config.source.check_metadata(metadata)
    typed = typed_values(config.fields, metadata)
    _check_lengths(typed)
    if config.scheme is not None:
        made.check_place(config.scheme, metadata, typed)
    first = seen.setdefault((space, doc_id), index)
    if first != index:
        raise InputError(
            f"id appears twice in this batch, first as document {first}.", hint="Keep one of them."
        )
    made.namespaces.append(space)
    made.ids.append(doc_id)
    made.texts.append(text)
    made.metadatas.append(metadata)
    made.typed.append(typed)


def _check_lengths(typed: Mapping[str, object]) -> None:
    for name, value in typed.items():
        if isinstance(value, str) and len(value) * 4 > MAX_KEY_BYTES and len(value.encode()) > MAX_KEY_BYTES:
            raise InputError(
                f"the declared filter field {name!r} holds {len(value.encode())} bytes; "
                f"at most {MAX_KEY_BYTES} fit an index.",
                hint="Leave the field out of filter_fields: it can still be filtered, without an index.",
            )


def _argument_of(error: InputError) -> str:
    word = error.message.split(" ", 1)[0].rstrip(":")
    return word if word in {"id", "namespace", "text", "metadata", "vector"} else "metadata"


def check_all(
    documents: Sequence[Document],
    vectors: npt.ArrayLike | None,
    config: CollectionConfig,
    namespace: str,
    *,
    embeds: bool,
) -> tuple[Draft, Vector, list[int]]:
    """The checked batch, its vectors (n, d), and the positions that an embedder has yet to fill.

    Raises BatchError with every problem of every document at once, InputError or DimensionMismatch
    when `vectors` as a whole has the wrong shape.
    """
    made = draft(documents, config, namespace)
    array, missing = given_vectors(documents, vectors, config, made)
    if not embeds:
        for index in missing:
            made.refuse(
                index, documents[index].id, "vector", "it is missing and the collection has no embedder."
            )
    faulty = {p.index for p in made.problems} | set(missing)
    check_vectors(array, [d.id for d in documents], config, made, leave=faulty)
    made.check()
    return made, array, missing


def check_texts(
    documents: Sequence[Document], vectors: npt.ArrayLike | None, config: CollectionConfig, namespace: str
) -> Batch:
    """The checked batch of a collection that the server embeds: its vectors are empty.

    Raises BatchError with every problem of every document at once, InputError for `vectors`.
    """
    if vectors is not None:
        raise InputError(
            "The server embeds this collection; it takes no vectors.", hint="Add documents only."
        )
    made = draft(documents, config, namespace)
    for index, document in enumerate(documents):
        if document.vector is not None:
            made.refuse(
                index, document.id, "vector", "the server embeds this collection; leave the vector out."
            )
    made.check()
    return made.batch(np.empty((len(documents), 0), dtype=np.float32))


def given_vectors(
    documents: Sequence[Document], vectors: npt.ArrayLike | None, config: CollectionConfig, problems: Draft
) -> tuple[Vector, list[int]]:
    """The vectors (n, d) that came with the documents and the positions that have none yet.

    Raises DimensionMismatch or InputError when `vectors` as a whole has the wrong shape.
    """
    if vectors is not None:
        return _matrix(vectors, len(documents), config.dimensions), []
    plain = packed_rows([document.vector for document in documents], config.dimensions)
    if plain is not None:
        return plain, []
    out = np.zeros((len(documents), config.dimensions), dtype=np.float32)
    missing: list[int] = []
    for index, document in enumerate(documents):
        if document.vector is None:
            missing.append(index)
            continue
        try:
            out[index] = one_vector(document.vector, config.dimensions, "vector")
        except InputError as error:
            problems.refuse(index, document.id, "vector", str(error))
    return out, missing


def one_vector(value: object, dimensions: int, argument: str) -> Vector:
    """Shape (dimensions,), float32. Raises DimensionMismatch or InputError."""
    if isinstance(value, str | bytes | Mapping):
        raise InputError(f"{argument} must be numbers, not {type(value).__name__}.")
    try:
        with np.errstate(over="ignore"):  # becomes infinity, which is refused by name later
            array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"{argument} must be a flat sequence of numbers.", hint="Pass a list of floats or a numpy array."
        ) from None
    if array.ndim != 1:
        raise InputError(f"{argument} has {array.ndim} dimensions as an array; it must be flat.")
    if len(array) != dimensions:
        raise DimensionMismatch(
            f"{argument} has {len(array)} numbers; the collection holds vectors of {dimensions}.",
            hint="Use the embedding model the collection was made for, or another collection.",
        )
    return array


def _matrix(vectors: npt.ArrayLike, count: int, dimensions: int) -> Vector:
    if (rows := packed_rows(vectors, dimensions)) is not None and len(rows) == count:
        return rows
    try:
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(vectors, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise InputError("vectors must be a numeric array of shape (documents, dimensions).") from None
    if count == 0 and array.size == 0:
        return array.reshape(0, dimensions)
    if array.ndim != 2 or len(array) != count:
        raise InputError(
            f"vectors has shape {array.shape}; it must be ({count}, {dimensions}).",
            hint="Give one row per document, in the same order.",
        )
    if array.shape[1] != dimensions:
        raise DimensionMismatch(
            f"vectors has {array.shape[1]} columns; the collection holds vectors of {dimensions}.",
            hint="Use the embedding model the collection was made for, or another collection.",
        )
    return array


def vector_fault(vector: Vector, config: CollectionConfig) -> str | None:
    """Why a vector of the right length still cannot be stored or compared; None when it can."""
    if config.index.vectors != "float32" and not _stored(vector, config.index.vectors).all():
        return _NOT_STORED[config.index.vectors]
    metric = config.metric
    with np.errstate(over="ignore", invalid="ignore"):
        squared = float(np.dot(vector, vector))
    if 0.0 < squared <= _MOST_SQUARED:
        return None
    if not np.isfinite(vector).all():
        return "vector holds NaN or infinity. Check the embedding model's output."
    if squared > _MOST_SQUARED:
        return "vector is too large for 32-bit arithmetic. Normalise it."
    if metric is Metric.COSINE and not squared > 0.0:
        return (
            "vector is zero (or too small), so it has no direction under cosine. "
            "Skip empty texts, or use metric='l2'."
        )
    return None


_NOT_STORED: dict[Stored, str] = {
    "int8": "vector holds numbers that are no whole numbers from -128 to 127, as vectors='int8' stores them. "
    "Ask the embedding model for int8, or use float32 with quantization='scalar'.",
    "bit": "vector holds numbers other than 0 and 1, as vectors='bit' stores them. Ask the embedding model for "
    "bits and unpack them, or use float32 with quantization='binary'.",
}


def _stored(numbers: Vector, kind: Stored) -> npt.NDArray[np.bool_]:
    """Which of the numbers this kind of vector holds as they are."""
    if kind == "int8":
        return np.asarray((numbers == np.rint(numbers)) & (numbers >= -128) & (numbers <= 127))
    if kind == "bit":
        return np.asarray((numbers == 0) | (numbers == 1))
    return np.ones_like(numbers, dtype=np.bool_)


def check_vectors(
    vectors: Vector,
    ids: Sequence[str],
    config: CollectionConfig,
    problems: Draft,
    *,
    leave: Collection[int] = (),
) -> None:
    """Records every row that `vector_fault` refuses, except those to `leave`; one pass when all is well."""
    with np.errstate(over="ignore", invalid="ignore"):
        squared = np.einsum("ij,ij->i", vectors, vectors)
    fine = squared <= _MOST_SQUARED
    if config.metric is Metric.COSINE:
        fine &= squared > 0.0
    if config.index.vectors != "float32":
        fine &= _stored(vectors, config.index.vectors).all(axis=1)
    for index in np.flatnonzero(~fine).tolist():
        fault = None if index in leave else vector_fault(vectors[index], config)
        if fault is not None:
            problems.refuse(index, ids[index], "vector", fault)
