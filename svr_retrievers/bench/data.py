"""A seeded corpus that is clustered, unequal and heterogeneous, with queries, filters and exact answers. PURE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from svr_retrievers.model import Vector

SUPER_TOPICS, TOPICS, CATEGORIES, MONTHS = 12, 64, 40, 24
AGREEING = 0.85
"""Share of the rows whose category is that of their topic."""
BETWEEN = 0.1
"""Share of the queries that lie between two topics, evenly among them: any range of queries has this share."""
DISAGREEING = 0.3
"""Share of the queries whose category is drawn without regard to their topic."""
LIMIT = 10
RANDOM_FIELDS = {"r10": 10, "r100": 100, "r1000": 1_000}
"""Fields of that many equally frequent values, unrelated to the vectors: filters of 10 %, 1 % and 0.1 %."""
_WORDS = (
    *(
        "partition",
        "route",
        "recall",
        "vector",
        "index",
        "query",
        "document",
        "filter",
        "cluster",
        "centroid",
    ),
    *("graph", "table", "search", "merge", "distance", "neighbour", "budget", "ledger", "harbour", "granite"),
    *("willow", "copper", "meadow", "signal", "lantern", "orbit"),
)
NAMES = {"cat": tuple(f"category-{number:02d}" for number in range(CATEGORIES))}
MOMENT = "created_at"
_BLOCK = 50_000
_SCORES = 32_000_000
"""Scores held at a time: 128 MB."""
_START = datetime(2024, 1, 1, tzinfo=UTC)

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Values by field, one number an entry. `names` gives the words that numbers stand for, where they do."""

    fields: Mapping[str, Ints]
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def value(self, name: str, at: int) -> str | int:
        """What a user of the library stores or asks for."""
        number = int(self.fields[name][at])
        if name == MOMENT:
            return moment(number).isoformat()
        return self.names[name][number] if name in self.names else number


@dataclass(frozen=True, kw_only=True)
class Rows(Fields):
    """Vectors of unit length with their metadata, one entry a row; without `texts`, thirty words are made up."""

    vectors: Vector
    topics: Ints
    texts: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def metadata(self, row: int) -> dict[str, object]:
        return {name: self.value(name, row) for name in self.fields}

    def text(self, row: int) -> str:
        """Without real texts thirty words, the same for the same row: what a short passage weighs."""
        if self.texts is not None:
            return self.texts[row]
        step = 1 + row % 7
        words = [_WORDS[(row + i * step) % len(_WORDS)] for i in range(28)]
        return f"passage {row} " + " ".join(words)

    def part(self, start: int, stop: int) -> Rows:
        return Rows(
            vectors=self.vectors[start:stop],
            topics=self.topics[start:stop],
            fields={name: values[start:stop] for name, values in self.fields.items()},
            names=self.names,
            texts=None if self.texts is None else self.texts[start:stop],
        )

    def joined(self, more: Rows) -> Rows:
        """These rows, then those. For made-up texts: a row's text goes by its number in the whole."""
        assert self.texts is None
        assert more.texts is None
        return Rows(
            vectors=np.concatenate([self.vectors, more.vectors]),
            topics=np.concatenate([self.topics, more.topics]),
            fields={name: np.concatenate([self.fields[name], more.fields[name]]) for name in self.fields},
            names=self.names,
        )


@dataclass(frozen=True, kw_only=True)
class Queries(Fields):
    """Queries none of which is a row; `between` marks those between two topics."""

    vectors: Vector
    between: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, slots=True)
class Corpus:
    rows: Rows
    fresh: Rows
    queries: Queries


def moment(hours: int) -> datetime:
    return _START + timedelta(hours=hours)


def corpus(rows: int, fresh: int, queries: int, *, seed: int, dimensions: int) -> Corpus:
    """`rows` rows, `fresh` more of the same kind to add later, and `queries` queries."""
    rng = np.random.default_rng(seed)
    world = _World.drawn(rng, dimensions)
    everything = _rows(world, rows + fresh, rng)
    return Corpus(
        everything.part(0, rows),
        everything.part(rows, rows + fresh),
        _queries(world, everything, queries, rng),
    )


@dataclass(frozen=True, slots=True)
class _World:
    """Topics: a centre near that of a super-topic, a share of the rows, directions of their own, a time."""

    centres: Vector
    shares: npt.NDArray[np.float64]
    axes: tuple[Vector, ...]
    months: npt.NDArray[np.float64]

    @staticmethod
    def drawn(rng: np.random.Generator, dimensions: int) -> _World:
        supers = _unit(rng.standard_normal((SUPER_TOPICS, dimensions)))
        own = _unit(rng.standard_normal((TOPICS, dimensions)))
        centres = _unit(supers[rng.integers(0, SUPER_TOPICS, TOPICS)] + 0.8 * own)
        shares = 1.0 / np.arange(1, TOPICS + 1) ** 0.9
        axes = []
        for _ in range(TOPICS):
            rank = int(rng.integers(12, min(65, dimensions)))
            basis = np.linalg.qr(rng.standard_normal((dimensions, rank)))[0].T
            scale = np.arange(1, rank + 1) ** -0.6
            axes.append((basis * (scale / np.linalg.norm(scale))[:, None]).astype(np.float32))
        months = rng.uniform(0, MONTHS, TOPICS)
        return _World(centres, shares / shares.sum(), tuple(axes), months)

    def sample(self, topics: Ints, rng: np.random.Generator) -> Vector:
        """Rows of the given topics: centre, heavy-tailed spread along the topic's axes, noise all around."""
        made = self.centres[topics].copy()
        for topic in np.unique(topics):
            mine = np.flatnonzero(topics == topic)
            axes = self.axes[topic]
            spread = rng.standard_t(4, size=(len(mine), len(axes))).astype(np.float32)
            made[mine] += 0.85 * spread @ axes
        noise = rng.standard_normal(made.shape, dtype=np.float32)
        made += (0.4 / np.sqrt(made.shape[1])) * noise
        return _unit(made)


def _rows(world: _World, count: int, rng: np.random.Generator) -> Rows:
    topics = rng.choice(TOPICS, size=count, p=world.shares).astype(np.int64)
    vectors = np.empty((count, world.centres.shape[1]), dtype=np.float32)
    for start in range(0, count, _BLOCK):
        vectors[start : start + _BLOCK] = world.sample(topics[start : start + _BLOCK], rng)
    noisy = rng.random(count) >= AGREEING
    fields = {"cat": np.where(noisy, rng.integers(0, CATEGORIES, count), topics % CATEGORIES)}
    fields |= {name: rng.integers(0, values, count) for name, values in RANDOM_FIELDS.items()}
    months = np.clip(rng.normal(world.months[topics], 1.5), 0, MONTHS - 0.01)
    fields[MOMENT] = (months * 730).astype(np.int64)
    return Rows(vectors=vectors, topics=topics, fields=fields, names=NAMES)


def _queries(world: _World, rows: Rows, count: int, rng: np.random.Generator) -> Queries:
    first = rng.choice(TOPICS, size=count, p=world.shares).astype(np.int64)
    second = (first + rng.integers(1, TOPICS, count)) % TOPICS
    between = np.arange(count) % round(1 / BETWEEN) == 0
    one, other = world.sample(first, rng), world.sample(second, rng)
    vectors = np.where(between[:, None], _unit(one + other), one).astype(np.float32)
    drawn = rows.fields["cat"][rng.integers(0, len(rows), count)]
    away = rng.random(count) < DISAGREEING
    fields = {"cat": np.where(away, drawn, first % CATEGORIES)}
    fields |= {name: rng.integers(0, values, count) for name, values in RANDOM_FIELDS.items()}
    return Queries(vectors=vectors, between=between, fields=fields, names=NAMES)


def nearest(rows: Rows, queries: Queries, name: str | None = None, *, limit: int = LIMIT) -> list[set[int]]:
    """The exact answers: for each query the rows closest to it, among those that match on `field`."""
    if name is None:
        return _nearest(rows.vectors, queries.vectors, np.arange(len(rows)), limit)
    found: list[set[int]] = [set() for _ in range(len(queries))]
    for value in np.unique(queries.fields[name]):
        asking = np.flatnonzero(queries.fields[name] == value)
        matching = np.flatnonzero(rows.fields[name] == value)
        near = _nearest(rows.vectors[matching], queries.vectors[asking], matching, limit)
        for query, ids in zip(asking, near, strict=True):
            found[query] = ids
    return found


def _nearest(vectors: Vector, queries: Vector, names: Ints, limit: int) -> list[set[int]]:
    if not len(vectors):
        return [set() for _ in queries]
    take = min(limit, len(vectors))
    found: list[set[int]] = []
    block = max(1, min(256, _SCORES // len(vectors)))
    for start in range(0, len(queries), block):
        scores = queries[start : start + block] @ vectors.T
        top = np.argpartition(scores, -take, axis=1)[:, -take:]
        found += [set(names[row].tolist()) for row in top]
    return found


def _unit(vectors: Vector | npt.NDArray[np.float64]) -> Vector:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), dtype=np.float32)
