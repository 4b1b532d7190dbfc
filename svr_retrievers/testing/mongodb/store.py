"""One built version of a vector index: what the search process keeps of the documents, and how it answers."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from svr_retrievers.testing.mongodb import filters
from svr_retrievers.testing.mongodb.definitions import Field, compatible, filter_paths, vector_fields
from svr_retrievers.testing.mongodb.documents import Document, at_path, key_of, section
from svr_retrievers.testing.mongodb.found import Found
from svr_retrievers.testing.mongodb.hashing import Embed
from svr_retrievers.testing.mongodb.queries import VectorQuery, check_vector
from svr_retrievers.testing.mongodb.refusals import in_query
from svr_retrievers.testing.mongodb.rows import Rows
from svr_retrievers.testing.mongodb.settings import Settings
from svr_retrievers.testing.mongodb.sources import kept
from svr_retrievers.testing.mongodb.vectors import BIT, FLOAT, FloatArray, Vector, vector


class VectorStore:
    """Safe to fill in one thread and to ask in another; a batch shows as a whole or not at all."""

    def __init__(self, definition: Document, embed: Embed) -> None:
        self.definition = definition
        self._embed = embed
        self._fields = {field.path: field for field in vector_fields(definition)}
        self._filter_paths = filter_paths(definition)
        self._rows = Rows({f.path: f.dimensions for f in self._fields.values()}, self._filter_paths)
        self._keeps = section(definition, "storedSource")
        self._stored: dict[bytes, Document] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def size(self) -> int:
        """How many numbers a search goes through, at most."""
        return len(self) * max(field.dimensions for field in self._fields.values())

    @property
    def stores(self) -> bool:
        """Whether it keeps the parts of documents that stored source names."""
        return bool(self._keeps)

    @property
    def projection(self) -> dict[str, int] | None:
        """The part of a document it needs; None for all of it."""
        roots = {path.partition(".")[0] for path in (*self._fields, *self._filter_paths)}
        if self._keeps or any(root.startswith("$") for root in roots):
            return None
        return dict.fromkeys(sorted(roots), 1)

    def apply(self, gone: Iterable[object], documents: Sequence[Document]) -> None:
        """Takes documents out and others in, as one change."""
        found = [self._vectors(document) for document in documents]
        self._embed_into(documents, found)
        with self._lock:
            for ident in gone:
                self._drop(ident)
            for document, vectors in zip(documents, found, strict=True):
                self._put(document, vectors)

    def search(self, query: VectorQuery, settings: Settings) -> list[Found]:
        field = self._fields.get(query.path)
        if field is None:
            raise in_query(f"{query.path} is not indexed as vector")
        sought = self._sought(field, query, settings)
        check_vector(sought, field.dimensions, field.similarity)
        tree = filters.parse(query.filter, self._filter_paths) if query.filter is not None else None
        with self._lock:
            matrix = self._rows.matrix(query.path, sought.kind)
            if matrix is None:  # vectors of another kind match nothing, and nothing is said
                return []
            mask = matrix.held if tree is None else matrix.held & tree(self._rows)
            rows = np.flatnonzero(mask)
            ranks = matrix.scores(rows, sought, field.similarity)
            rows, ranks = self._reachable(rows, ranks, query, settings)
            best = _best(ranks, query.limit)
            return [self._found(int(rows[at]), float(ranks[at])) for at in best]

    def _sought(self, field: Field, query: VectorQuery, settings: Settings) -> Vector:
        if query.vector is not None:
            return query.vector
        if field.kind != "autoEmbed" or query.text is None:
            raise in_query(f"{query.path} is not indexed as autoEmbed")
        if settings.embed_limited:
            raise in_query("the rate limit of the embedding model has been exceeded")
        if query.model is not None and not compatible(query.model, field.model):
            raise in_query(f"model {query.model} is not compatible with {field.model}, which the index uses")
        [made] = self._embedded([query.text], field, "query")
        return made

    def _embedded(self, texts: Sequence[str], field: Field, purpose: str) -> list[Vector]:
        made = self._embed(texts, model=field.model, purpose=purpose, dimensions=field.dimensions)
        return [Vector(FLOAT, np.asarray(values, dtype=np.float32)) for values in made]

    def _vectors(self, document: Document) -> dict[str, Vector]:
        """What can be compared of a document; anything else in a vector's place is passed over without a word."""
        found = {}
        for path, field in self._fields.items():
            held = vector(at_path(document, path)) if field.kind == "vector" else None
            if held is not None and _fits(held, field):
                found[path] = held
        return found

    def _embed_into(self, documents: Sequence[Document], found: Sequence[dict[str, Vector]]) -> None:
        for path, field in self._fields.items():
            if field.kind == "autoEmbed":
                texts = {
                    n: t for n, d in enumerate(documents) if isinstance(t := at_path(d, path), str) and t
                }
                made = self._embedded(list(texts.values()), field, "document") if texts else []
                for n, held in zip(texts, made, strict=True):
                    if _fits(held, field):
                        found[n][path] = held

    def _put(self, document: Document, vectors: dict[str, Vector]) -> None:
        ident = document["_id"]
        if not vectors:
            self._drop(ident)
            return
        cells = {path: filters.cell(at_path(document, path)) for path in self._filter_paths}
        self._rows.put(ident, vectors, cells)
        if self._keeps:
            self._stored[key_of(ident)] = kept(document, self._keeps)

    def _drop(self, ident: object) -> None:
        self._rows.drop(ident)
        self._stored.pop(key_of(ident), None)

    def _reachable(
        self, rows: npt.NDArray[np.intp], ranks: FloatArray, query: VectorQuery, settings: Settings
    ) -> tuple[npt.NDArray[np.intp], FloatArray]:
        """Leaves out what an approximate search is told to miss: always the same documents, fewer the more it looks."""
        share = settings.recall_share * len(self)
        if settings.recall >= 1 or query.candidates is None or query.candidates >= share:
            return rows, ranks
        missed = (1 - settings.recall) * (1 - query.candidates / share)
        luck = np.fromiter((_luck(self._rows.ids[row]) for row in rows), dtype=np.float64, count=rows.size)
        return rows[luck >= missed], ranks[luck >= missed]

    def _found(self, row: int, score: float) -> Found:
        ident = self._rows.ids[row]
        return Found(ident, score, self._stored.get(key_of(ident)) if self._keeps else None)


def _fits(held: Vector, field: Field) -> bool:
    if held.values.size != field.dimensions or not np.isfinite(held.values).all():
        return False
    if held.kind == BIT:
        return field.similarity == "euclidean"
    return field.similarity != "cosine" or bool(held.values.any())


def _best(ranks: FloatArray, limit: int) -> npt.NDArray[np.intp]:
    """Places of the highest scores, best first; of equal ones the earlier row."""
    if limit < ranks.size:
        least = np.partition(ranks, ranks.size - limit)[ranks.size - limit]
        above = np.flatnonzero(ranks > least)
        level = np.flatnonzero(ranks == least)[: limit - above.size]
        places = np.sort(np.concatenate([above, level]))
    else:
        places = np.arange(ranks.size)
    return np.asarray(places[np.argsort(-ranks[places], kind="stable")], dtype=np.intp)


def _luck(ident: object) -> float:
    return zlib.crc32(key_of(ident)) / 2**32
