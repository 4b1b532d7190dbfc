"""The aggregates that searches and listings send. PURE.

A search is one aggregate of up to three parts: what the index answers, the rows that the index has not taken yet
(united from the documents themselves), and the generation of the partition map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from svr_retrievers.backends.mongodb import layout as lay
from svr_retrievers.backends.mongodb.layout import Doc, Layout
from svr_retrievers.control.mongodb_fence import SLOT_BITS, SLOTS

CANDIDATES_EACH: Final = 20
"""Candidates that the graph looks at for each hit asked for, unless told otherwise: the engine's own advice."""
MOST_CANDIDATES: Final = 10_000
GENERATION: Final = "generation"
FRESH: Final = "svr.fresh"
COUNT: Final = "count"
SCORE: Final = "score"
NOTHING: Final[Doc] = {"$nor": [{}]}


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows: of a namespace, in partitions (None: all), that match. `exact`: `match` is the whole filter."""

    namespace: str
    partitions: tuple[int, ...] | None
    match: Doc
    exact: bool
    layout: Layout

    def condition(self, *more: Doc) -> Doc:
        """The predicate of namespace and partition stands outside the filter, which can only narrow it.

        With `more`, which another index serves, the namespace is no range of keys, lest the keys be read instead.
        """
        where: list[Doc] = [{lay.NAMESPACE: self.namespace} if more else self.layout.within(self.namespace)]
        if self.partitions is not None:
            where.append({lay.PARTITION: {"$in": list(self.partitions)}})
        if self.match:
            where.append(self.match)
        return {"$and": [*where, *more]}


@dataclass(frozen=True, slots=True)
class IndexSearch:
    """One question to one index. `push`: what of the filter the index itself applies."""

    index: str
    path: str
    vector: object
    limit: int
    candidates: int | None
    """None: every row is compared."""
    push: Doc | None = None
    text: str | None = None
    """What the server is to embed, in the vector's stead."""

    def stage(self, rows: Rows) -> Doc:
        where: list[Doc] = [{lay.NAMESPACE: {"$eq": rows.namespace}}]
        if rows.partitions is not None:
            where.append({lay.PARTITION: {"$in": list(rows.partitions)}})
        if self.push is not None:
            where.append(self.push)
        asked: Doc = {
            "index": self.index,
            "path": self.path,
            "limit": self.limit,
            "filter": {"$and": where},
        }
        asked |= {"queryVector": self.vector} if self.text is None else {"query": self.text}
        return {"$vectorSearch": asked | self._effort()}

    def _effort(self) -> Doc:
        return {"exact": True} if self.candidates is None else {"numCandidates": self.candidates}


def candidates_for(limit: int, ef_search: int | None) -> int:
    wanted = ef_search if ef_search is not None else CANDIDATES_EACH * limit
    return min(MOST_CANDIDATES, max(wanted, limit))


def fresher(marks: Mapping[int, int]) -> list[Doc]:
    """One condition a slot: rows written after what the index was seen to hold."""
    return [
        {lay.STAMP: {"$gt": (slot << SLOT_BITS) | marks.get(slot, 0), "$lt": (slot + 1) << SLOT_BITS}}
        for slot in range(SLOTS)
    ]


def search(
    ask: IndexSearch,
    rows: Rows,
    fresh: Sequence[Doc],
    fields: Doc,
    *,
    documents: str,
    most_fresh: int | None,
    generation: Sequence[Doc],
    catalog: str,
) -> list[Doc]:
    """The whole search. Rows that wait for the index come from the documents, whatever the index says of them.

    Where the index names one of those, it is answered too, for the count: `fields` tells it by its stamp.
    """
    waiting: list[Doc] = [{"$match": rows.condition({"$or": list(fresh)})}]
    if most_fresh is not None:
        waiting.append({"$limit": most_fresh})
    return [
        ask.stage(rows),
        {"$match": {"$or": [*fresh, rows.condition({"$nor": list(fresh)})]}},
        {"$project": fields},
        {"$set": {f"svr.{SCORE}": {"$meta": "vectorSearchScore"}}},
        {
            "$unionWith": {
                "coll": documents,
                "pipeline": [*waiting, {"$project": fields}, {"$set": {FRESH: True}}],
            }
        },
        united_generation(catalog, generation),
    ]


def search_by_text(
    ask: IndexSearch,
    rows: Rows,
    fresh: Sequence[Doc],
    *,
    most_fresh: int,
    documents: str,
    generation: Sequence[Doc],
    catalog: str,
) -> list[Doc]:
    """As `search`, but rows that wait for the index are only counted, or read where this side has to filter them."""
    waiting: list[Doc] = [
        {"$match": rows.condition({"$or": list(fresh)}, lay.HAS_TEXT)},
        {"$limit": most_fresh},
    ]
    told: Doc = {"$count": COUNT} if rows.exact else {"$project": {**lay.READ, FRESH: {"$literal": True}}}
    return [
        ask.stage(rows),
        {"$match": rows.condition({"$nor": list(fresh)})},
        {"$project": {**lay.READ, SCORE: {"$meta": "vectorSearchScore"}}},
        {"$unionWith": {"coll": documents, "pipeline": [*waiting, told]}},
        united_generation(catalog, generation),
    ]


def counted(rows: Rows, *, generation: Sequence[Doc], catalog: str) -> list[Doc]:
    """How many rows match, or those that may where this side has to filter them."""
    told: Doc = {"$count": COUNT} if rows.exact else {"$project": lay.READ}
    return [{"$match": rows.condition()}, told, united_generation(catalog, generation)]


def scan(rows: Rows, fields: Doc, *, most: int | None, generation: Sequence[Doc], catalog: str) -> list[Doc]:
    """Every row that may match, from the documents themselves."""
    stages: list[Doc] = [{"$match": rows.condition()}]
    if most is not None:
        stages.append({"$limit": most})
    return [*stages, {"$project": fields}, united_generation(catalog, generation)]


def united_generation(catalog: str, generation: Sequence[Doc]) -> Doc:
    return {"$unionWith": {"coll": catalog, "pipeline": list(generation)}}


def probe(index: str, path: str, what: Doc, stamps: Sequence[int]) -> list[Doc]:
    """Which of the rows with these stamps the index holds. `what` is any vector, or any text."""
    return [
        {
            "$vectorSearch": {
                "index": index,
                "path": path,
                **what,
                "limit": len(stamps),
                "exact": True,
                "filter": {lay.STAMP: {"$in": list(stamps)}},
            }
        },
        {"$project": {"_id": 0, "w": f"${lay.STAMP}"}},
    ]
