"""Turns configurations, partitions and calibrations into what the control tables hold, and back. PURE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from svr_retrievers.backends.auto_embedding import AtlasEmbedding
from svr_retrievers.backends.indexes import IndexSpec
from svr_retrievers.backends.protocol import CollectionConfig
from svr_retrievers.backends.sources import Source
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
from svr_retrievers.routing.probe import DEFAULT_RECALL_TARGET, Calibration, Depth
from svr_retrievers.routing.schemes import Scheme
from svr_retrievers.spaces import VectorSpace

_RULE = 2
"""Which probing rule a calibration is for."""


def packed(array: Vector | None) -> bytes | None:
    return None if array is None else np.ascontiguousarray(array, dtype="<f4").tobytes()


def array(body: bytes | None) -> Vector | None:
    return None if body is None else np.frombuffer(body, dtype="<f4").astype(np.float32)


class Centroids:
    """The centroids of a whole map in one array, which each partition's own are a part of.

    Routing compares a query with all of them, and so needs no second copy to have them side by side.
    """

    def __init__(self, size: int, dimensions: int) -> None:
        self._all = np.empty((size // (4 * dimensions), dimensions), dtype=np.float32)
        self._at = 0

    def take(self, body: bytes | None) -> Vector | None:
        """The next few, decoded into their place; None beyond the size told, as when the map has just grown."""
        if body is None:
            return None
        rows = np.frombuffer(body, dtype="<f4").reshape(-1, self._all.shape[1])
        if self._at + len(rows) > len(self._all):
            return None
        part = self._all[self._at : self._at + len(rows)]
        part[:] = rows
        self._at += len(rows)
        return part


def partition(row: Sequence[object], centroids: Vector | None) -> Partition:
    (pid, parent, kind, value, label, path, state, indexed, rows, refreshed, _, spread, leaf) = row[:13]
    tail, tail_rows, server = row[13:]
    stats = PartitionStats(
        rows=max(0, cast("int", rows)),
        centroids=centroids,
        spread=array(cast("bytes | None", spread)),
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
        cast("str | None", server),
    )


def config_json(config: CollectionConfig) -> dict[str, JsonValue]:
    body: dict[str, JsonValue] = {
        "dimensions": config.dimensions,
        "metric": config.metric.value,
        "scheme": cast("JsonValue", config.scheme.to_json()) if config.scheme else None,
        "fields": [[name, kind.value] for name, kind in config.fields.items()],
        "index": config.index.to_json(),
        "servers": list(config.servers),
        "recall_target": config.recall_target,
    }
    if config.embedding is not None:
        body["embedding"] = config.embedding.to_json()
    if config.space is not None:
        body["space"] = config.space.to_json()
    if config.source is not None:
        body["source"] = config.source.to_json()
    if config.text_search is not None:
        body["text_search"] = config.text_search
    return body


def config_of(name: str, body: Mapping[str, JsonValue]) -> CollectionConfig:
    scheme = body["scheme"]
    fields = cast("list[list[str]]", body["fields"])
    embedding = cast("Mapping[str, JsonValue] | None", body.get("embedding"))
    source = cast("Mapping[str, JsonValue] | None", body.get("source"))
    space = cast("Mapping[str, JsonValue] | None", body.get("space"))
    return CollectionConfig(
        name=name,
        dimensions=cast("int", body["dimensions"]),
        metric=Metric(str(body["metric"])),
        scheme=Scheme.from_json(cast("list[Mapping[str, JsonValue]]", scheme)) if scheme else None,
        fields={field: FieldType(kind) for field, kind in fields},
        index=IndexSpec.from_json(cast("Mapping[str, JsonValue]", body["index"])),
        servers=tuple(cast("list[str]", body.get("servers", []))),
        recall_target=cast("float", body.get("recall_target", DEFAULT_RECALL_TARGET)),
        embedding=AtlasEmbedding.of_json(embedding) if embedding is not None else None,
        source=Source.of_json(source) if source is not None else None,
        space=VectorSpace.of_json(space) if space is not None else None,
        text_search=cast("str | None", body.get("text_search")),
    )


def calibration_json(calibration: Calibration) -> dict[str, JsonValue]:
    return {
        "rule": _RULE,
        "depths": [_depth_json(depth) for depth in calibration.depths],
        "rows": calibration.rows,
        "closeness": calibration.closeness,
        "index": [[ef, found] for ef, found in calibration.index.items()],
    }


def _depth_json(depth: Depth) -> JsonValue:
    return {
        "share": depth.share,
        "weights": [depth.closeness, depth.rows, depth.border],
        "targets": [[t, depth.gains[t], depth.probes[t], t in depth.capped] for t in depth.gains],
        "curve": [list(point) for point in depth.curve],
    }


def field_statistics_of(
    body: Mapping[str, JsonValue] | None, declared: Mapping[str, FieldType]
) -> FilterStatistics:
    return FilterStatistics() if body is None else statistics.all_of_json(body, declared)


def calibration_of(body: Mapping[str, JsonValue] | None) -> Calibration | None:
    """None also for one that another rule left: the next refresh makes it anew."""
    if body is None or body.get("rule") != _RULE:
        return None
    return Calibration(
        tuple(_depth_of(depth) for depth in cast("list[Mapping[str, JsonValue]]", body["depths"])),
        cast("int", body["rows"]),
        cast("float | None", body["closeness"]),
        dict(cast("list[tuple[int, float]]", body["index"])),
    )


def _depth_of(body: Mapping[str, JsonValue]) -> Depth:
    closeness, rows, border = cast("list[float]", body["weights"])
    targets = cast("list[tuple[float, float, float, bool]]", body["targets"])
    return Depth(
        cast("float", body["share"]),
        closeness,
        rows,
        border,
        {target: gain for target, gain, _, _ in targets},
        {target: probes for target, _, probes, _ in targets},
        tuple(target for target, _, _, capped in targets if capped),
        tuple((mass, recall) for mass, recall in cast("list[tuple[float, float]]", body["curve"])),
    )
