"""Turns configurations, partitions and calibrations into what the control tables hold, and back. PURE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from svr_retrievers.backends.indexes import IndexSpec
from svr_retrievers.backends.protocol import CollectionConfig
from svr_retrievers.filters import FieldType, statistics
from svr_retrievers.filters.statistics import FilterStatistics
from svr_retrievers.model import (
    JsonValue,
    KeyKind,
    Metric,
    Partition,
    PartitionKey,
    PartitionState,
    PartitionStats,
    Vector,
)
from svr_retrievers.routing.probe import Calibration
from svr_retrievers.routing.schemes import Scheme


def packed(array: Vector | None) -> bytes | None:
    return None if array is None else np.ascontiguousarray(array, dtype="<f4").tobytes()


def array(body: bytes | None, columns: int | None) -> Vector | None:
    if body is None:
        return None
    flat = np.frombuffer(body, dtype="<f4").astype(np.float32)
    return flat if columns is None else flat.reshape(-1, columns)


def partition(row: Sequence[object], dimensions: int) -> Partition:
    (pid, parent, kind, value, label, path, state, indexed, rows, refreshed, centroids, spread, leaf) = row[
        :13
    ]
    tail, tail_rows = row[13:]
    stats = PartitionStats(
        rows=max(0, cast("int", rows)),
        centroids=array(cast("bytes | None", centroids), dimensions),
        spread=array(cast("bytes | None", spread), None),
        rows_at_refresh=cast("int", refreshed),
        indexed=bool(indexed),
        tail=bool(tail),
        tail_rows=max(0, cast("int", tail_rows)),
    )
    key = PartitionKey(cast("KeyKind", kind), str(value), str(label))
    return Partition(
        cast("int", pid),
        str(path),
        key,
        cast("int | None", parent),
        PartitionState(str(state)),
        stats,
        bool(leaf),
    )


def config_json(config: CollectionConfig) -> dict[str, JsonValue]:
    return {
        "dimensions": config.dimensions,
        "metric": config.metric.value,
        "scheme": cast("JsonValue", config.scheme.to_json()) if config.scheme else None,
        "fields": [[name, kind.value] for name, kind in config.fields.items()],
        "index": config.index.to_json(),
    }


def config_of(name: str, body: Mapping[str, JsonValue]) -> CollectionConfig:
    scheme = body["scheme"]
    fields = cast("list[list[str]]", body["fields"])
    return CollectionConfig(
        name=name,
        dimensions=cast("int", body["dimensions"]),
        metric=Metric(str(body["metric"])),
        scheme=Scheme.from_json(cast("list[Mapping[str, JsonValue]]", scheme)) if scheme else None,
        fields={field: FieldType(kind) for field, kind in fields},
        index=IndexSpec.from_json(cast("Mapping[str, JsonValue]", body["index"])),
    )


def calibration_json(calibration: Calibration) -> dict[str, JsonValue]:
    return {
        "temperature": calibration.temperature,
        "masses": [[target, mass] for target, mass in calibration.masses.items()],
        "rows": calibration.rows,
    }


def field_statistics_of(
    body: Mapping[str, JsonValue] | None, declared: Mapping[str, FieldType]
) -> FilterStatistics:
    return FilterStatistics() if body is None else statistics.all_of_json(body, declared)


def calibration_of(body: Mapping[str, JsonValue] | None) -> Calibration | None:
    if body is None:
        return None
    return Calibration(
        cast("float", body["temperature"]),
        dict(cast("list[tuple[float, float]]", body["masses"])),
        cast("int", body["rows"]),
    )
