"""What the rows of one run share: the corpus, the database, and stores that are filled when first needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from svr_retrievers.bench import ours
from svr_retrievers.bench.data import Corpus, Ints, corpus, nearest
from svr_retrievers.bench.postgres.big_table import BigTable
from svr_retrievers.bench.postgres.server import Server, server
from svr_retrievers.bench.sizes import DIMENSIONS, Size

if TYPE_CHECKING:
    from svr_retrievers import Collection, SVRClient

WELL_BUILT = 200
"""ef_construction of the well-built index; the default one has pgvector's 64."""


@dataclass
class Lab:
    """Holds one run. `say` is told what is being prepared."""

    size: Size
    seed: int
    server: Server
    client: SVRClient
    peers_python: str
    folder: Path
    say: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)
    _truth: dict[str | None, list[set[int]]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.server.url

    @cached_property
    def corpus(self) -> Corpus:
        self.say(f"generating {self.size.rows:,} vectors")
        size = self.size
        return corpus(size.rows, size.fresh, size.asked, seed=self.seed, dimensions=DIMENSIONS)

    def truth(self, field_: str | None = None) -> Sequence[set[int]]:
        """The exact answers of all queries, without a filter or under the filter on this field."""
        if field_ not in self._truth:
            self._truth[field_] = nearest(self.corpus.rows, self.corpus.queries, field_)
        return self._truth[field_]

    @property
    def tuning(self) -> Ints:
        """The queries on which settings are chosen; none of them is measured."""
        return np.arange(self.size.tuning)

    @property
    def testing(self) -> Ints:
        return np.arange(self.size.tuning, self.size.asked)

    @property
    def between(self) -> npt.NDArray[np.bool_]:
        return self.corpus.queries.between

    @cached_property
    def big(self) -> BigTable:
        """One table, one HNSW index with pgvector's defaults."""
        self.say(f"filling one big table with {self.size.rows:,} rows, index with the defaults")
        table = BigTable(self.url, "big", DIMENSIONS)
        table.fill(self.corpus.rows)
        self.seconds["one big index, defaults"] = table.index()
        return table

    @cached_property
    def well_built(self) -> BigTable:
        """The same rows under an index with ef_construction 200."""
        plain = self.big
        self.say(f"the same table, index with ef_construction {WELL_BUILT}")
        table = BigTable(self.url, "well_built", DIMENSIONS)
        table.copy_of(plain)
        self.seconds["one big index, well built"] = table.index(ef_construction=WELL_BUILT)
        return table

    @cached_property
    def single(self) -> Collection:
        """A collection of one partition with one HNSW index: the same work as for everyone else."""
        self.say("filling an unpartitioned collection")
        made = ours.create(self.client, "single", DIMENSIONS, None)
        ours.fill(made, self.corpus.rows)
        return made

    @cached_property
    def routed(self) -> Collection:
        """A collection partitioned by closeness, as the library proposes for heterogeneous data."""
        from svr_retrievers import by_cluster

        size = self.size
        self.say(f"filling a collection of {size.clusters} clusters")
        made = ours.create(self.client, "routed", DIMENSIONS, by_cluster(size.clusters))
        ours.fill(made, self.corpus.rows, first=ours.training_rows(size.clusters, size.rows))
        return made


@contextmanager
def lab(
    size: Size, seed: int, *, url: str | None, peers_python: str, say: Callable[[str], None]
) -> Iterator[Lab]:
    """Starts the server and removes all that was made, at the end."""
    from svr_retrievers import SVRClient

    with TemporaryDirectory(prefix="svr-bench-") as folder:
        say("starting PostgreSQL")
        with server(url, large=size.rows > 100_000) as started, SVRClient(started.url) as client:
            try:
                yield Lab(size, seed, started, client, peers_python, Path(folder), say)
            finally:
                for name in client.list_collections():
                    if name.startswith(ours.PREFIX):
                        client.drop_collection(name)
