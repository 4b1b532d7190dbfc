"""What the rows of one run share: the database, the corpora, and stores that are filled when first needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from svr_retrievers.bench import ours, real_text
from svr_retrievers.bench.arena import Arena
from svr_retrievers.bench.data import Corpus, corpus
from svr_retrievers.bench.postgres.server import Server, server
from svr_retrievers.bench.sizes import DIMENSIONS, Size

if TYPE_CHECKING:
    from svr_retrievers import Collection, SVRClient

ROWS_A_PARTITION, ROWS_OF_MANY = 4_000, 16_000
"""Of a million rows, partitions of 4,000 would cut each topic into four."""
ROWS_A_TEXT_PARTITION = 2_500


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
    text_source: str = ""
    kept: dict[str, object] = field(default_factory=dict)
    """What one row found and others build on."""

    @property
    def url(self) -> str:
        return self.server.url

    @cached_property
    def main(self) -> Arena:
        """The corpus of most rows."""
        self.say(f"generating {self.size.rows:,} vectors")
        size = self.size
        made = corpus(size.rows, size.fresh, size.asked, seed=self.seed, dimensions=DIMENSIONS)
        return self._arena("main", made, size.clusters)

    @cached_property
    def million(self) -> Arena:
        """The largest corpus, every partition under an index."""
        from svr_retrievers import hnsw

        self.say(f"generating {self.size.million:,} vectors")
        made = corpus(self.size.million, 0, self.size.asked, seed=self.seed + 3, dimensions=DIMENSIONS)
        arena = self._arena("million", made, max(4, self.size.million // ROWS_OF_MANY))
        arena.index = hnsw(min_rows=500)
        return arena

    @cached_property
    def text(self) -> Arena:
        """Descriptions of software packages, embedded with the library's local model."""
        self.say("reading and embedding descriptions of packages")
        made, self.text_source = real_text.corpus(
            self.size.texts, self.size.asked, seed=self.seed, other_python=self.peers_python
        )
        return self._arena("text", made, max(4, len(made.rows) // ROWS_A_TEXT_PARTITION))

    def _arena(self, name: str, made: Corpus, clusters: int) -> Arena:
        return Arena(name, self.url, self.client, made, clusters, self.size.tuning, self.say)

    @cached_property
    def single(self) -> Collection:
        """A collection of one partition with one HNSW index: the same work as for everyone else."""
        self.say("filling an unpartitioned collection")
        made = ours.create(self.client, "single", self.main.corpus.rows, None)
        ours.fill(made, self.main.corpus.rows)
        return made

    def release_main(self) -> None:
        """Frees the memory of database and process for the largest corpus."""
        if "main" in self.__dict__:
            self.main.release()
            del self.__dict__["main"]
        if self.__dict__.pop("single", None) is not None:
            self.client.drop_collection(ours.PREFIX + "single")


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
