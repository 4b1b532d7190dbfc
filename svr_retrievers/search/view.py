"""A partition map with what is derived from it for routing, made once a generation."""

from __future__ import annotations

import anyio.to_thread

from svr_retrievers.backends.protocol import MapState
from svr_retrievers.model import Metric, PartitionMap, Vector
from svr_retrievers.routing.centroids import CentroidTable
from svr_retrievers.routing.plan import Planned, Wish, needs_centroids, plan
from svr_retrievers.routing.schemes import Scheme

_THREAD_FROM_CELLS = 2_000_000
"""A matrix product of this size takes about a millisecond: longer ones leave the event loop."""
_NO_TABLE = CentroidTable((), Metric.L2)


class View:
    """A partition map with what is derived from it, made once per generation and held for a whole query."""

    __slots__ = ("_table", "metric", "state")

    def __init__(self, state: MapState, metric: Metric) -> None:
        self.state = state
        self.metric = metric
        self._table: CentroidTable | None = None

    @property
    def map(self) -> PartitionMap:
        return self.state.map

    @property
    def table(self) -> CentroidTable:
        if self._table is None:
            self._table = CentroidTable(self.map.leaves, self.metric)
        return self._table

    async def scores(self, vector: Vector) -> Vector:
        table = self.table
        if table.cells < _THREAD_FROM_CELLS:
            return table.scores(vector, self.metric)
        return await anyio.to_thread.run_sync(table.scores, vector, self.metric)

    async def route(self, scheme: Scheme | None, wish: Wish, vector: Vector | None) -> Planned:
        """Where to look for `vector`; None where the question has no vector to compare."""
        use = vector is not None and needs_centroids(wish, self.map, self.state.calibration)
        scores = await self.scores(vector) if use and vector is not None else None
        table = self.table if use else _NO_TABLE
        return plan(wish, scheme, self.map, table, scores, self.state.calibration)

    def path(self, partition_id: int) -> str:
        found = self.map.get(partition_id)
        return found.path if found is not None else f"#{partition_id}"
