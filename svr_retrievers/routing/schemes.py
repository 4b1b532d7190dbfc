"""How documents are cut into partitions: by field, time, hash, cluster or namespace, nested at will.

PURE. A scheme is a tuple of levels. For a document each level gives the key of one child, so that
a document has exactly one path from the root to a leaf. What belongs nowhere else (null, missing,
values beyond the allowed number of partitions) belongs to the level's catch-all, `rest`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Literal, TypeAlias

from svr_retrievers.errors import ConfigError, InputError
from svr_retrievers.filters.equality import exact_integer
from svr_retrievers.model import JsonValue, PartitionKey
from svr_retrievers.names import check_text, stable_hash

Every: TypeAlias = Literal["day", "week", "month", "quarter", "year"]
REST = PartitionKey("rest", "", "(rest)")
WHOLE = PartitionKey("all", "", "(all)")
_LABEL_CHARACTERS = 60


def canonical(value: bool | float | str) -> str:
    """The text that stands for a field value in a partition key: equal values, equal text.

    Numbers that filters hold equal share a key (1 and 1.0, 1e23 and 10**23); a bool never equals a number.
    """
    if isinstance(value, bool):
        return "b:true" if value else "b:false"
    if isinstance(value, str):
        return f"s:{value}"
    whole = exact_integer(value) if isinstance(value, float) else value
    return f"n:{int(whole)}" if whole is not None else f"n:{value!r}"


def from_canonical(text: str) -> bool | float | str:
    kind, _, body = text.partition(":")
    if kind == "b":
        return body == "true"
    if kind == "s":
        return body
    try:
        return int(body)
    except ValueError:
        return float(body)


@dataclass(frozen=True, slots=True)
class FieldLevel:
    """One partition per value of a metadata field."""

    field: str
    max_partitions: int = 1000
    unseen: Literal["create", "rest"] = "create"
    values: tuple[bool | int | float | str, ...] = ()

    @property
    def listed(self) -> frozenset[str]:
        """The keys' texts of the values that have a partition of their own by name."""
        return frozenset(canonical(value) for value in self.values)

    def key(self, value: object) -> PartitionKey:
        if value is None:
            return REST
        if isinstance(value, bool | int | float | str):
            label = f"{self.field}={value}"
            return PartitionKey("field", canonical(value), label[:_LABEL_CHARACTERS])
        raise InputError(
            f"the partition field {self.field!r} holds a {type(value).__name__}; a document lives in one "
            "partition, so it must hold one value.",
            hint="Partition by a field with a single value and declare this one in filter_fields.",
        )


@dataclass(frozen=True, slots=True)
class TimeLevel:
    """One partition per day, week (from Monday), month, quarter or year, in UTC."""

    field: str
    every: Every = "month"

    def key(self, value: object) -> PartitionKey:
        if value is None:
            return REST
        if not isinstance(value, datetime):
            raise InputError(
                f"the partition field {self.field!r} holds a {type(value).__name__}, not a time."
            )
        start = bucket_start(value, self.every)
        return PartitionKey("time", start.date().isoformat(), _bucket_label(start, self.every))

    def interval(self, key: PartitionKey) -> tuple[datetime, datetime]:
        """The bucket's half-open interval [start, end), in UTC."""
        start = datetime.fromisoformat(key.value).replace(tzinfo=UTC)
        return start, bucket_end(start, self.every)


@dataclass(frozen=True, slots=True)
class HashLevel:
    """A fixed number of partitions by a hash of a field, or of `(namespace, id)` when none is named."""

    buckets: int
    field: str | None = None

    def key(self, text: str) -> PartitionKey:
        bucket = str(stable_hash(text) % self.buckets)
        return PartitionKey("hash", bucket, f"hash-{bucket}")

    def field_text(self, value: object) -> str:
        if value is None:
            return "null"
        if isinstance(value, bool | int | float | str):
            return canonical(value)
        raise InputError(
            f"the partition field {self.field!r} holds a {type(value).__name__}; it must hold one value.",
            hint="Hash by a field with a single value, or by document with by_hash(n).",
        )


@dataclass(frozen=True, slots=True)
class ClusterLevel:
    """k partitions of vectors that lie close together, found by k-means.

    Until enough vectors have been seen to find clusters (`min_rows` in one place), documents wait in `rest`.
    """

    k: int
    min_rows_per_cluster: int = 20

    @property
    def min_rows(self) -> int:
        return self.k * self.min_rows_per_cluster

    @staticmethod
    def key(number: int) -> PartitionKey:
        return PartitionKey("cluster", str(number), f"cluster-{number}")


@dataclass(frozen=True, slots=True)
class NamespaceLevel:
    """One partition per namespace."""

    max_partitions: int = 10_000

    @staticmethod
    def key(namespace: str) -> PartitionKey:
        return PartitionKey("namespace", namespace, f"namespace={namespace}"[:_LABEL_CHARACTERS])


Level: TypeAlias = FieldLevel | TimeLevel | HashLevel | ClusterLevel | NamespaceLevel
_KINDS: dict[str, type[Level]] = {
    "field": FieldLevel,
    "time": TimeLevel,
    "hash": HashLevel,
    "cluster": ClusterLevel,
    "namespace": NamespaceLevel,
}


@dataclass(frozen=True, slots=True)
class Scheme:
    """Levels of partitioning, outermost first. Made by `by_field(...)` and its siblings."""

    levels: tuple[Level, ...]

    def then(self, inner: Scheme) -> Scheme:
        """Cuts each partition of this scheme by `inner`.

        Raises:
            InputError: when a scheme would stand below by_cluster, whose partitions are not known beforehand.
        """
        if not isinstance(inner, Scheme):
            raise InputError(
                f"then() takes a scheme, not {type(inner).__name__}.", hint="e.g. .then(by_hash(4))"
            )
        if any(isinstance(level, ClusterLevel) for level in self.levels):
            raise InputError("Nothing can follow by_cluster().", hint="Put by_cluster() last.")
        return Scheme(self.levels + inner.levels)

    @property
    def fields(self) -> tuple[str, ...]:
        """The metadata fields that decide where a document lives."""
        named = (getattr(level, "field", None) for level in self.levels)
        return tuple(f for f in named if f is not None)

    @property
    def time_fields(self) -> tuple[str, ...]:
        return tuple(level.field for level in self.levels if isinstance(level, TimeLevel))

    def to_json(self) -> list[dict[str, JsonValue]]:
        names = {cls: kind for kind, cls in _KINDS.items()}
        return [{"kind": names[type(level)], **_plain(asdict(level))} for level in self.levels]

    @staticmethod
    def from_json(levels: list[Mapping[str, JsonValue]]) -> Scheme:
        """Raises ConfigError for a kind this release does not know."""
        made: list[Level] = []
        for spec in levels:
            body = {k: v for k, v in spec.items() if k != "kind"}
            cls = _KINDS.get(str(spec.get("kind")))
            if cls is None or not set(body) <= {f.name for f in dataclass_fields(cls)}:
                raise ConfigError(
                    f"Unknown partition scheme {dict(spec)!r}.",
                    hint="The collection was made by a newer release; upgrade svr-retrievers.",
                )
            if isinstance(body.get("values"), list):
                body["values"] = tuple(body["values"])  # type: ignore[arg-type, assignment]
            made.append(cls(**body))  # type: ignore[arg-type]
        return Scheme(tuple(made))

    def __repr__(self) -> str:
        first, *rest = (_describe(level) for level in self.levels)
        return first + "".join(f".then({r})" for r in rest)


def by_field(
    field: str,
    *,
    values: Sequence[bool | float | str] = (),
    max_partitions: int = 1000,
    unseen: Literal["create", "rest"] | None = None,
) -> Scheme:
    """One partition per value of `field`; null and missing values share the catch-all.

    A value not seen before makes a partition of its own (`unseen="create"`) until `max_partitions` exist,
    or joins the catch-all (`unseen="rest"`, the default when the `values` with partitions are listed).
    1,000 keeps a field of unique values from making a table a row.
    """
    _check_field(field)
    _check_count(max_partitions, "max_partitions", 1, 100_000)
    listed = _checked_values(values)
    policy = unseen or ("rest" if listed else "create")
    if policy not in ("create", "rest"):
        raise InputError(f"unseen must be 'create' or 'rest', not {unseen!r}.")
    if policy == "rest" and not listed:
        raise InputError(
            "unseen='rest' without values puts every document into one partition.", hint="List values."
        )
    return Scheme((FieldLevel(field, max_partitions, policy, listed),))


def by_time(field: str, *, every: Every = "month") -> Scheme:
    """One partition per calendar period (UTC) of a datetime field, which becomes a declared filter field."""
    _check_field(field)
    if every not in ("day", "week", "month", "quarter", "year"):
        raise InputError(f"every must be day, week, month, quarter or year, not {every!r}.")
    return Scheme((TimeLevel(field, every),))


def by_hash(n: int, field: str | None = None) -> Scheme:
    """`n` partitions of nearly equal size, by a stable hash of `field`, or of each document's key."""
    _check_count(n, "n", 1, 10_000)
    if field is not None:
        _check_field(field)
    return Scheme((HashLevel(n, field),))


def by_cluster(k: int) -> Scheme:
    """`k` partitions of similar vectors, found by k-means over the first vectors that suffice for it.

    Clusters pay where each holds thousands of rows, and cost where they cut through topics: as many as there are
    topics is a good number.
    """
    _check_count(k, "k", 1, 10_000)
    return Scheme((ClusterLevel(k),))


def by_namespace() -> Scheme:
    """One partition per namespace, so that no tenant shares an index with another."""
    return Scheme((NamespaceLevel(),))


def bucket_start(moment: datetime, every: Every) -> datetime:
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if every == "day":
        return day
    if every == "week":
        return day - timedelta(days=day.weekday()) if day.toordinal() > day.weekday() else day
    month = {"month": day.month, "quarter": day.month - (day.month - 1) % 3, "year": 1}[every]
    return day.replace(month=month, day=1)


def bucket_end(start: datetime, every: Every) -> datetime:
    """The first moment after the bucket; the last bucket of the calendar ends at the calendar's end."""
    try:
        if every in ("day", "week"):
            return start + timedelta(days=1 if every == "day" else 7)
        months = {"month": 1, "quarter": 3, "year": 12}[every]
        years, month = divmod(start.month - 1 + months, 12)
        return start.replace(year=start.year + years, month=month + 1)
    except (OverflowError, ValueError):
        return datetime.max.replace(tzinfo=UTC)


def _bucket_label(start: datetime, every: Every) -> str:
    if every == "week":
        year, week, _ = start.isocalendar()
        return f"{year:04d}-W{week:02d}"
    if every == "quarter":
        return f"{start.year:04d}-Q{(start.month + 2) // 3}"
    return start.date().isoformat()[: {"day": 10, "month": 7, "year": 4}[every]]


def _plain(body: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in body.items()}


def _describe(level: Level) -> str:
    match level:
        case FieldLevel(field, max_partitions, unseen, values):
            more = f", values={list(values)!r}" if values else ""
            more += "" if max_partitions == 1000 else f", max_partitions={max_partitions}"
            more += "" if (unseen == "rest") == bool(values) else f", unseen={unseen!r}"
            return f"by_field({field!r}{more})"
        case TimeLevel(field, every):
            return f"by_time({field!r}, every={every!r})"
        case HashLevel(buckets, field):
            return f"by_hash({buckets})" if field is None else f"by_hash({buckets}, {field!r})"
        case ClusterLevel(k):
            return f"by_cluster({k})"
        case NamespaceLevel():
            return "by_namespace()"


def _check_field(field: object) -> None:
    if not check_text(field, "field"):
        raise InputError("field is empty.", hint="Name the metadata field to partition by.")


def _checked_values(values: object) -> tuple[bool | int | float | str, ...]:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InputError(
            f"values must be a list of values, not {type(values).__name__}.", hint="e.g. values=['tickets']"
        )
    listed = tuple(values)
    for value in listed:
        if not isinstance(value, bool | int | float | str) or (
            isinstance(value, float) and not isfinite(value)
        ):
            raise InputError(f"values must be text, finite numbers or booleans, not {value!r}.")
    return listed


def _check_count(value: object, argument: str, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{argument} must be a whole number, not {type(value).__name__}.")
    if not low <= value <= high:
        raise InputError(f"{argument} must lie between {low} and {high:,}, not {value}.")
