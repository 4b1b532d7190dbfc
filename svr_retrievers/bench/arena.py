"""One corpus in the stores that are compared over it: two big tables and a routed collection, filled when needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from svr_retrievers.bench import ours
from svr_retrievers.bench.data import Corpus, Ints, nearest
from svr_retrievers.bench.postgres.big_table import BigTable

if TYPE_CHECKING:
    from svr_retrievers import Collection, IndexSpec, SVRClient

WELL_BUILT = 200
"""ef_construction of the well-built index; the default one has pgvector's 64."""


@dataclass
class Arena:
    """`name` stands in the names of its tables and collections. `tuning` queries are never measured."""

    name: str
    url: str
    client: SVRClient
    corpus: Corpus
    clusters: int
    tuned_on: int
    say: Callable[[str], None]
    index: IndexSpec | None = None
    build_seconds: dict[str, float] = field(default_factory=dict)
    clients: list[SVRClient] = field(default_factory=list)
    _truth: dict[str | None, list[set[int]]] = field(default_factory=dict)

    def truth(self, name: str | None = None) -> Sequence[set[int]]:
        """The exact answers of all queries, without a filter or under the filter on this field."""
        if name not in self._truth:
            self._truth[name] = nearest(self.corpus.rows, self.corpus.queries, name)
        return self._truth[name]

    @property
    def tuning(self) -> Ints:
        """The queries on which settings are chosen; none of them is measured."""
        return np.arange(self.tuned_on)

    @property
    def testing(self) -> Ints:
        return np.arange(self.tuned_on, len(self.corpus.queries))

    @property
    def between(self) -> npt.NDArray[np.bool_]:
        return self.corpus.queries.between

    @property
    def dimensions(self) -> int:
        return int(self.corpus.rows.vectors.shape[1])

    def alone(self) -> Collection:
        """The routed collection through a client of its own, so that each of our settings has a session of its own, as
        each setting of a big table has.
        """
        from svr_retrievers import Settings, SVRClient

        settings = Settings.load(pool_min_connections=0, pool_max_connections=2)
        client = SVRClient(self.url, settings=settings)
        self.clients.append(client)
        return client.collection(self.routed.name)

    def part_with_clients(self) -> None:
        while self.clients:
            self.clients.pop().close()

    @cached_property
    def big(self) -> BigTable:
        """One table, one HNSW index with pgvector's defaults."""
        self.say(f"filling one big table with {len(self.corpus.rows):,} rows, index with the defaults")
        table = BigTable(self.url, f"{self.name}_big", self.dimensions, ours.sql_types(self.corpus.rows))
        table.fill(self.corpus.rows)
        self.build_seconds["one big index, defaults"] = table.index()
        return table

    @cached_property
    def well_built(self) -> BigTable:
        """The same rows under an index with ef_construction 200."""
        plain = self.big
        self.say(f"the same table, index with ef_construction {WELL_BUILT}")
        table = BigTable(self.url, f"{self.name}_well", self.dimensions, plain.fields)
        table.copy_of(plain)
        self.build_seconds["one big index, well built"] = table.index(ef_construction=WELL_BUILT)
        return table

    @cached_property
    def routed(self) -> Collection:
        """A collection partitioned by closeness, as the library proposes for heterogeneous data."""
        from svr_retrievers import by_cluster

        rows, clusters = self.corpus.rows, self.clusters
        self.say(f"filling a collection of {len(rows):,} rows in {clusters} clusters")
        scheme = by_cluster(clusters)
        made = ours.create(self.client, f"{self.name}_routed", rows, scheme, self.index)
        ours.fill(made, rows, first=ours.training_rows(clusters, len(rows)))
        return made

    def release(self) -> None:
        """Drops what was made, so that the next corpus has the memory."""
        self.part_with_clients()
        for made in ("big", "well_built"):
            if made in self.__dict__:
                getattr(self, made).drop()
                del self.__dict__[made]
        if self.__dict__.pop("routed", None) is not None:
            self.client.drop_collection(f"{ours.PREFIX}{self.name}_routed")
