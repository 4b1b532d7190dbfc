"""What to declare: judges every metadata field by a sample of documents, and says what it would bring. PURE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from svr_retrievers.filters.choice import Part, ScanCosts, exact_cost
from svr_retrievers.filters.statistics import FieldStatistics, of_metadata
from svr_retrievers.filters.tree import FieldType
from svr_retrievers.filters.values import Refused, typed_moment
from svr_retrievers.model import JsonValue, Vector

Verdict: TypeAlias = Literal["declare", "keep", "drop", "leave"]

BTREE_BYTES_A_ROW = 10
BTREE_MICROSECONDS_A_ROW = 1.5
"""Measured: what one more B-tree costs each row written, of the 7 us of a document without any."""
_NEAR = 10
_COHERENT = 0.5
_MOST_PARTITIONS = 1_000
_COUNTED_FROM = 20
_ALMOST_ALL = 0.95


@dataclass(frozen=True, slots=True)
class FieldAdvice:
    """One field: what it holds, and whether it should be declared. Shares are of all rows.

    `share` is that of the rows an average document's own value selects. `coherence` says how much more often
    than by chance close neighbours share the value: from 0 to 1. `gain_ms` is what declaring saves a
    search that filters on this field alone and looks at all rows.
    """

    field: str
    type: str
    declared: bool
    present: float
    distinct: int
    share: float
    coherence: float | None
    searches: int
    gain_ms: float
    index_bytes: int
    verdict: Verdict
    why: str

    @property
    def partition_key(self) -> bool:
        """Whether partitions by this field would hold what lies close together."""
        return (
            self.coherence is not None
            and self.coherence >= _COHERENT
            and 2 <= self.distinct <= _MOST_PARTITIONS
            and self.present >= 0.9
        )


@dataclass(frozen=True, slots=True)
class Analysis:
    """What `collection.analyze()` found, the fields most worth attention first."""

    collection: str
    rows: int
    sampled: int
    filtered_searches: int
    fields: tuple[FieldAdvice, ...]

    @property
    def declare(self) -> dict[str, str]:
        """The `filter_fields` this collection should have: field and type."""
        return {f.field: f.type for f in self.fields if f.verdict in ("declare", "keep")}

    @property
    def partition_keys(self) -> tuple[str, ...]:
        """Fields whose values gather what lies close together, the most coherent first."""
        keys = [f for f in self.fields if f.partition_key]
        return tuple(f.field for f in sorted(keys, key=lambda f: -(f.coherence or 0.0)))


@dataclass(frozen=True, slots=True)
class Sample:
    """Documents drawn at random: their metadata, and their vectors of shape (n, d) where coherence is asked for."""

    metadata: Sequence[Mapping[str, JsonValue]]
    vectors: Vector
    rows: int


def advise(
    collection: str,
    sample: Sample,
    declared: Mapping[str, FieldType],
    asked: Mapping[str, int],
    searches: int,
) -> Analysis:
    """`asked` counts by field the searches of this client that filtered on it, of `searches` in all."""
    known = of_metadata(sample.metadata, sample.rows)
    known |= {name: FieldStatistics(missing=1.0) for name in declared if name not in known}
    neighbours = _neighbours(sample.vectors)
    found = [
        _advice(name, one, sample, declared.get(name), asked.get(name, 0), searches, neighbours)
        for name, one in known.items()
    ]
    order = {"declare": 0, "drop": 1, "keep": 2, "leave": 3}
    found.sort(key=lambda f: (order[f.verdict], -f.searches, -f.gain_ms, f.field))
    return Analysis(collection, sample.rows, len(sample.metadata), searches, tuple(found))


def _advice(
    name: str,
    known: FieldStatistics,
    sample: Sample,
    declared: FieldType | None,
    asked: int,
    searches: int,
    neighbours: Sequence[Sequence[int]],
) -> FieldAdvice:
    values = [_at(metadata, name) for metadata in sample.metadata]
    kind = declared.value if declared is not None else _type_of(values)
    share = _own_share(known)
    verdict, why = _verdict(known, kind, share, sample.rows, declared, asked, searches)
    scalar = not known.is_list and kind not in ("mixed", "none")
    return FieldAdvice(
        field=name,
        type=kind,
        declared=declared is not None,
        present=1.0 - known.missing,
        distinct=round(known.distinct),
        share=share,
        coherence=_coherence(values, neighbours) if scalar else None,
        searches=asked,
        gain_ms=_gain(sample.rows, share),
        index_bytes=round(sample.rows * (1.0 - known.missing) * BTREE_BYTES_A_ROW),
        verdict=verdict,
        why=why,
    )


def _verdict(
    known: FieldStatistics,
    kind: str,
    share: float,
    rows: int,
    declared: FieldType | None,
    asked: int,
    searches: int,
) -> tuple[Verdict, str]:
    """In this order: what cannot help, what is not used, what tells nothing, and the rest."""
    if declared is not None:
        if known.missing >= 1.0:
            return "drop", "no sampled document has it"
        if share >= _ALMOST_ALL:
            return "drop", "nearly all documents have the same value"
        if searches >= _COUNTED_FROM and not asked:
            return "drop", f"none of {searches:,} filtered searches asked for it"
        return "keep", "typed and indexed"
    if kind == "mixed":
        return "leave", "its values are of several types"
    if share >= _ALMOST_ALL:
        return "leave", "nearly all documents have the same value"
    if kind in ("str", "int") and known.distinct >= 0.9 * rows * (1.0 - known.missing) and not asked:
        return "leave", "nearly every document has a value of its own: find it by id"
    if known.missing > 0.99 and not asked:
        return "leave", "hardly any document has it"
    if asked:
        return "declare", f"{asked:,} searches filtered on it, each reading the metadata"
    return "declare", f"a value selects about {share:.1%} of the rows"


def _own_share(known: FieldStatistics) -> float:
    """The share of the rows that the value of a random document selects."""
    present = 1.0 - known.missing
    if present <= 0.0:
        return 0.0
    squares = sum(share * share for _, share in known.common)
    if known.is_list:
        total = sum(share for _, share in known.common)
        return squares / total if total else 0.0
    others = max(1.0, known.distinct - len(known.common))
    return (squares + known.rest**2 / others) / present


def _gain(rows: int, share: float) -> float:
    costs = ScanCosts()
    read = exact_cost(Part(rows, share, "none", read=1.0), costs)
    return max(0.0, read - exact_cost(Part(rows, share, "none"), costs)) / 1e3


def _neighbours(vectors: Vector) -> list[list[int]]:
    """The closest few of the sample for each of it, by cosine."""
    if len(vectors) <= _NEAR:
        return []
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths == 0.0, 1.0, lengths)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -np.inf)
    near: list[list[int]] = np.argpartition(scores, -_NEAR, axis=1)[:, -_NEAR:].tolist()
    return near


def _coherence(values: Sequence[object], neighbours: Sequence[Sequence[int]]) -> float | None:
    """(shared - by chance) / (1 - by chance), over documents that have a value."""
    keys = [None if value is None else repr(value) for value in values]
    present = [key for key in keys if key is not None]
    if not neighbours or not present:
        return None
    chance = sum((n / len(present)) ** 2 for n in Counter(present).values())
    pairs = [keys[i] == keys[j] for i, near in enumerate(neighbours) if keys[i] is not None for j in near]
    shared = sum(pairs) / len(pairs)
    return max(0.0, (shared - chance) / (1.0 - chance)) if chance < 1.0 else 0.0


def _at(metadata: Mapping[str, JsonValue], name: str) -> JsonValue:
    """The value under a dotted name as `of_metadata` makes them."""
    if name in metadata:
        return metadata[name]
    body: JsonValue = dict(metadata)
    for step in name.replace("\\.", "\0").split("."):
        if not isinstance(body, dict):
            return None
        body = body.get(step.replace("\0", ".").replace("\\\\", "\\"))
    return body


def _type_of(values: Sequence[object]) -> str:
    """The filter type that holds all the values; `mixed` where there is none."""
    present = [value for value in values if value is not None]
    lists = [value for value in present if isinstance(value, list)]
    if lists:
        inner = {_one_type(v) for value in lists for v in value} - {"none"}
        kind = _common_type(inner)
        fits = len(lists) == len(present) and kind in ("int", "float", "str")
        return f"list[{kind}]" if fits else "mixed"
    kinds = {_one_type(value) for value in present}
    if kinds == {"str"} and all(_is_moment(str(value)) for value in present):
        return "datetime"
    return _common_type(kinds)


def _common_type(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    return "float" if kinds == {"int", "float"} else "none" if not kinds else "mixed"


def _one_type(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "bool"
    return next((t.__name__ for t in (int, float, str) if isinstance(value, t)), "mixed")


def _is_moment(text: str) -> bool:
    try:
        typed_moment(text)
    except Refused:
        return False
    return len(text) >= len("2024-01-01")


__all__ = ["Analysis", "FieldAdvice", "Sample", "advise"]
