"""The same documents behind SVR: one collection, partitioned by category, asked through the public client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from svr_retrievers.demo.compare import Where
from svr_retrievers.model import Document, Vector
from svr_retrievers.routing.schemes import by_field

if TYPE_CHECKING:
    from svr_retrievers import Collection, Embedder, SVRClient

COLLECTION = "svr_demo"
ROUTED = "routed"
FIELDS: dict[str, type] = {"category": str, "module": str, "kind": str, "line": int, "length": int}
BATCH = 2_000


def fill(
    client: SVRClient,
    name: str,
    documents: Sequence[Document],
    vectors: Vector,
    embedder: Embedder,
    on_rows: Callable[[int], None] | None = None,
) -> Collection:
    """Store everything anew and bring statistics and indexes up to date."""
    client.drop_collection(name, missing_ok=True)
    collection = client.create_collection(
        name,
        dimensions=vectors.shape[1],
        partition_by=by_field("category"),
        filter_fields=FIELDS,
        embedder=embedder,
    )
    for start in range(0, len(documents), BATCH):
        batch = documents[start : start + BATCH]
        collection.add(batch, vectors=vectors[start : start + BATCH])
        if on_rows is not None:
            on_rows(start + len(batch))
    collection.refresh()
    return collection


class RoutedWay:
    """Asks the collection; every setting is the default."""

    name = ROUTED

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    def ask(self, vector: Vector, where: Where, limit: int) -> Sequence[str]:
        return self._collection.search(vector=vector, filter=dict(where) or None, limit=limit).ids

    def how(self, vector: Vector, where: Where, limit: int) -> str:  # noqa: ARG002 - the same for every limit
        route = self._collection.route(vector=vector, filter=dict(where) or None)
        looked = len(route.partitions)
        if looked == len(self._collection.partitions):
            return "all partitions"
        return "one partition" if looked == 1 else f"{looked} partitions"
