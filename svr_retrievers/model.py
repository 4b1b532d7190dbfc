"""The data model in one place: every value that the parts of the package pass to each other."""

from __future__ import annotations

from svr_retrievers.partition_map import (
    KeyKind,
    Partition,
    PartitionKey,
    PartitionMap,
    PartitionState,
    PartitionStats,
    Server,
)
from svr_retrievers.results import (
    AddResult,
    Adopted,
    Explanation,
    Incomplete,
    Outcome,
    Route,
    RoutedPartition,
    RouteStep,
    SearchResult,
    Timings,
)
from svr_retrievers.values import (
    DEFAULT_NAMESPACE,
    Document,
    Hit,
    JsonValue,
    Legs,
    Metric,
    OnFailure,
    Vector,
    VectorLike,
)

__all__ = [
    "DEFAULT_NAMESPACE",
    "AddResult",
    "Adopted",
    "Document",
    "Explanation",
    "Hit",
    "Incomplete",
    "JsonValue",
    "KeyKind",
    "Legs",
    "Metric",
    "OnFailure",
    "Outcome",
    "Partition",
    "PartitionKey",
    "PartitionMap",
    "PartitionState",
    "PartitionStats",
    "Route",
    "RouteStep",
    "RoutedPartition",
    "SearchResult",
    "Server",
    "Timings",
    "Vector",
    "VectorLike",
]
