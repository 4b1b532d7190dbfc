"""A partition map with what is derived from it for routing, made once a generation."""

from __future__ import annotations

from svr_retrievers.backends.protocol import MapState
from svr_retrievers.concurrency import beside
from svr_retrievers.model import Metric, PartitionMap, Vector
from svr_retrievers.routing.centroids import CentroidTable
from svr_retrievers.routing.plan import (
    DEFAULT_RECALL_TARGET,
    Closeness,
    Planned,
    Wish,
    needs_centroids,
    plan,
)
from svr_retrievers.routing.schemes import Scheme

_SLOW_FROM = 2_048
"""Partitions from which preparing the table takes more than some milliseconds."""


class View:
    """A partition map with what is derived from it, made once per generation and held for a whole query."""

    __slots__ = ("_before", "_table", "metric", "state")

    def __init__(self, state: MapState, metric: Metric, before: View | None = None) -> None:
        self.state = state
        self.metric = metric
        self._table: CentroidTable | None = None
        self._before = before.prepared if before is not None else None

    @property
    def map(self) -> PartitionMap:
        return self.state.map

    @property
    def prepared(self) -> CentroidTable | None:
        """The centroid table if there is one, made for this map or an earlier one."""
        return self._table or self._before

    @property
    def table(self) -> CentroidTable:
        if self._table is None:
            self._table = CentroidTable(self.map.leaves, self.metric, self._before)
            self._before = None
        return self._table

    def follow(self, before: View) -> None:
        """Lends this view what an earlier one of the same collection has prepared."""
        if self._table is None and before is not self:
            self._before = before.prepared

    async def route(
        self,
        scheme: Scheme | None,
        wish: Wish,
        vector: Vector | None,
        *,
        target: float = DEFAULT_RECALL_TARGET,
    ) -> Planned:
        """Where to look for `vector`; None where the question has no vector to compare.

        `target` is the collection's own recall target. Only preparing a large table leaves the event loop:
        a decision takes less than a hop would.
        """
        if vector is None or not needs_centroids(wish, self.map, self.state.calibration):
            return plan(wish, scheme, self.map)
        if self._table is None and len(self.map) >= _SLOW_FROM:
            self._table = await beside(CentroidTable, self.map.leaves, self.metric, self._before)
        near = Closeness(self.table, vector, self.state.calibration, target, self.state.field_statistics)
        return plan(wish, scheme, self.map, near)

    def path(self, partition_id: int) -> str:
        found = self.map.get(partition_id)
        return found.path if found is not None else f"#{partition_id}"
