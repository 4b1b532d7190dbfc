"""One built version of a text index: postings with positions, and BM25 as Lucene computes it."""

from __future__ import annotations

import math
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from svr_retrievers.testing.mongodb import filters
from svr_retrievers.testing.mongodb.documents import Document, key_of, section
from svr_retrievers.testing.mongodb.filters import Cell
from svr_retrievers.testing.mongodb.found import Found
from svr_retrievers.testing.mongodb.mappings import STRING, TOKEN, Mapping, leaves
from svr_retrievers.testing.mongodb.sources import kept

_K1, _B = 1.2, 0.75
Scores = dict[bytes, float]


@dataclass(slots=True)
class _Entry:
    ident: object
    terms: dict[str, list[str]]
    cells: dict[str, Cell]
    stored: Document


@dataclass(slots=True)
class _Field:
    """The text of one path over all documents: where each term stands, and how long each text is."""

    postings: defaultdict[str, dict[bytes, list[int]]] = field(default_factory=lambda: defaultdict(dict))
    lengths: dict[bytes, int] = field(default_factory=dict)
    total: int = 0

    def add(self, key: bytes, terms: Sequence[str]) -> None:
        for at, term in enumerate(terms):
            self.postings[term].setdefault(key, []).append(at)
        self.lengths[key] = len(terms)
        self.total += len(terms)

    def remove(self, key: bytes, terms: Iterable[str]) -> None:
        for term in set(terms):
            self.postings[term].pop(key, None)
        self.total -= self.lengths.pop(key, 0)

    def rarity(self, term: str) -> float:
        count, having = len(self.lengths), len(self.postings.get(term, ()))
        return math.log(1 + (count - having + 0.5) / (having + 0.5))

    def weight(self, key: bytes, frequency: int) -> float:
        relative = self.lengths[key] / (self.total / len(self.lengths))
        return frequency / (frequency + _K1 * (1 - _B + _B * relative))


class TextStore:
    """Answers the leaves of a `$search` question as scores by document."""

    def __init__(self, definition: Document) -> None:
        self.mapping = Mapping(definition)
        self.stores = bool(definition.get("storedSource"))
        self._keeps = section(definition, "storedSource")
        self._entries: dict[bytes, _Entry] = {}
        self._fields: defaultdict[str, _Field] = defaultdict(_Field)
        self.lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def projection(self) -> dict[str, int] | None:
        return None

    def apply(self, gone: Sequence[object], documents: Sequence[Document]) -> None:
        with self.lock:
            for ident in gone:
                self._drop(key_of(ident))
            for document in documents:
                self._put(document)

    def all(self) -> Scores:
        return dict.fromkeys(self._entries, 1.0)

    def text_paths(self) -> list[str]:
        return list(self._fields)

    def with_terms(self, path: str, terms: Sequence[str], *, all_of_them: bool) -> Scores:
        found: Scores = {}
        field = self._fields[path]
        asked = Counter(terms)
        for term, times in asked.items():
            rarity = field.rarity(term) * times
            for key, places in field.postings.get(term, {}).items():
                found[key] = found.get(key, 0.0) + rarity * field.weight(key, len(places))
        if all_of_them:
            found = {k: s for k, s in found.items() if all(k in field.postings.get(t, {}) for t in asked)}
        return found

    def with_phrase(self, path: str, terms: Sequence[str]) -> Scores:
        field = self._fields[path]
        if not terms:
            return {}
        rarity = sum(field.rarity(term) for term in terms)
        places = [field.postings.get(term, {}) for term in terms]
        found: Scores = {}
        for key, starts in places[0].items():
            after = [set(each.get(key, ())) for each in places]
            times = sum(all(at + n in held for n, held in enumerate(after)) for at in starts)
            if times:
                found[key] = rarity * field.weight(key, times)
        return found

    def with_cell(self, path: str, test: filters.Test) -> Scores:
        return {key: 1.0 for key, entry in self._entries.items() if test(entry.cells.get(path, ()))}

    def having(self, path: str) -> Scores:
        return {
            key: 1.0
            for key, entry in self._entries.items()
            if any(each == path or each.startswith(f"{path}.") for each in (*entry.cells, *entry.terms))
        }

    def found(self, scores: Scores, *, stored: bool) -> list[Found]:
        """Best first; of equal scores the one indexed earlier."""
        order = {key: at for at, key in enumerate(self._entries)}
        ranked = sorted(scores.items(), key=lambda item: (-item[1], order[item[0]]))
        return [self._found(key, score, stored) for key, score in ranked]

    def _found(self, key: bytes, score: float, stored: bool) -> Found:
        entry = self._entries[key]
        return Found(entry.ident, score, entry.stored if stored else None)

    def _put(self, document: Document) -> None:
        key = key_of(document["_id"])
        self._drop(key)
        terms: dict[str, list[str]] = {}
        cells: dict[str, Cell] = {}
        for path, value in leaves(document):
            kinds = self.mapping.fields(path)
            if isinstance(value, str) and STRING in kinds:
                terms.setdefault(path, []).extend(self.mapping.terms(path, value))
            held = filters.cell(value)
            if held[0][0] in kinds or held[0][0] == "null" or (isinstance(value, str) and TOKEN in kinds):
                cells[path] = cells.get(path, ()) + held
        for path, found in terms.items():
            self._fields[path].add(key, found)
        stored = kept(document, self._keeps) if self._keeps else document if self.stores else {}
        self._entries[key] = _Entry(document["_id"], terms, cells, stored)

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        for path, terms in entry.terms.items() if entry is not None else ():
            self._fields[path].remove(key, terms)
