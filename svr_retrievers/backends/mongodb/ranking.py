"""Puts the documents that came back in order: exact distances from their own vectors, ties by key. PURE."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from svr_retrievers.backends.distance import distances
from svr_retrievers.backends.mongodb import layout as lay
from svr_retrievers.backends.mongodb.layout import Layout
from svr_retrievers.backends.mongodb.pipelines import COUNT, GENERATION, SCORE
from svr_retrievers.backends.protocol import Candidate, CollectionConfig, Query
from svr_retrievers.filters import Node, evaluate
from svr_retrievers.model import JsonValue, Vector

Found = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an aggregate answered: documents of the index and fresh ones, and the generation it saw.

    `read` counts the documents before those went that only this side could see not to match, `named` those that the
    index named, whatever they are now.
    """

    indexed: Sequence[Found]
    fresh: Sequence[Found]
    generation: int | None
    read: int = 0
    named: int = 0


def sorted_out(found: Iterable[Found]) -> Answer:
    indexed, fresh = [], []
    generation = None
    for each in found:
        if GENERATION in each and "_id" not in each:
            generation = lay.number(each[GENERATION])
        elif (COUNT in each and "_id" not in each) or lay.own(each).get("fresh"):
            fresh.append(each)
        else:
            indexed.append(each)
    return Answer(indexed, fresh, generation, len(indexed) + len(fresh), len(indexed))


def is_indexed(found: Found) -> bool:
    """Whether the index named it, rather than being read from the documents."""
    return SCORE in lay.own(found)


def score_of(found: Found) -> float:
    """The engine's own score, by which it cut its answer; higher is closer."""
    return float(cast("float", lay.own(found)[SCORE]))


def matching(found: Iterable[Found], node: Node, config: CollectionConfig, layout: Layout) -> list[Found]:
    """Those the filter holds for, decided as in memory: for filters that the server can only narrow down."""
    kept = []
    for each in found:
        metadata = layout.metadata_of(each)
        if evaluate(node, metadata, layout.typed_of(metadata, config.fields)):
            kept.append(each)
    return kept


def newest(found: Iterable[Found], layout: Layout) -> list[Found]:
    """Each document once, in its newest version: one that is replaced meanwhile may be read twice."""
    kept: dict[tuple[str, str], Found] = {}
    for each in found:
        name = layout.key_of(each)
        other = kept.get(name)
        if other is None or lay.number(lay.own(each)["v"]) > lay.number(lay.own(other)["v"]):
            kept[name] = each
    return list(kept.values())


def ranked(
    found: Sequence[Found], query: Query, config: CollectionConfig, layout: Layout
) -> list[tuple[float, Found]]:
    """By exact distance, equal ones by namespace and id."""
    pairs = layout.with_vectors(found)
    if not pairs:
        return []
    found = [each for each, _ in pairs]
    rows = np.stack([vector for _, vector in pairs])
    far = distances(query.vector, rows, config.metric)
    order = sorted(range(len(found)), key=lambda at: (far[at], layout.key_of(found[at])))
    return [(far[at], found[at]) for at in order]


def candidates(best: Iterable[tuple[float, Found]], query: Query, layout: Layout) -> tuple[Candidate, ...]:
    return tuple(_candidate(far, each, query, layout) for far, each in best)


def _candidate(far: float, found: Found, query: Query, layout: Layout) -> Candidate:
    namespace, doc_id = layout.key_of(found)
    own = lay.own(found)
    metadata: dict[str, JsonValue] = layout.metadata_of(found)
    vector: Vector | None = layout.vector_of(found) if query.with_vectors else None
    return Candidate(
        namespace,
        doc_id,
        layout.text_of(found),
        metadata,
        lay.number(own["v"]),
        lay.number(own["p"]),
        far,
        vector,
    )
