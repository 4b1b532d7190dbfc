"""Read by mypy alone: the public API, used as its users do, has these types."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import assert_type

import numpy as np
import numpy.typing as npt

from svr_retrievers import (
    DEFAULT_NAMESPACE,
    AddResult,
    AsyncCollection,
    AsyncSVRClient,
    AtlasEmbedding,
    Change,
    Collection,
    Document,
    Embedder,
    Explanation,
    Hit,
    IndexSpec,
    Metric,
    Partition,
    PartitionMap,
    Reranker,
    Route,
    Scheme,
    SearchResult,
    Settings,
    SVRClient,
    SVRError,
    by_cluster,
    by_field,
    by_hash,
    by_namespace,
    by_time,
    errors,
    flat,
    hnsw,
    ivfflat,
    maximal_marginal_relevance,
)


class Letters:
    """An embedder by duck typing."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return [float(text.count(letter)) for letter in "abc"]


class Shortest:
    """A reranker by duck typing."""

    def rerank(self, query: str, texts: list[str]) -> list[float]:
        return [-float(len(text)) for text in texts]


class Slow:
    async def arerank(self, query: str, texts: Sequence[str]) -> tuple[float, ...]:
        return (0.0,) * len(texts)


embedder: Embedder = Letters()
reranker: Reranker = Shortest()
schemes: list[Scheme] = [
    by_field("category", max_partitions=50, unseen="rest"),
    by_time("created_at", every="month"),
    by_hash(8, field="tenant"),
    by_namespace().then(by_cluster(16)),
]
indexes: list[IndexSpec] = [hnsw(), ivfflat(), flat()]


def blocking() -> None:
    with SVRClient("memory://", settings=Settings()) as client:
        assert_type(client, SVRClient)
        docs = client.create_collection(
            "docs",
            dimensions=3,
            metric="l2",
            partition_by=schemes[0],
            filter_fields={"year": int, "at": datetime, "tags": list[str]},
            index=indexes[0],
            embedder=embedder,
            if_exists="open",
        )
        assert_type(docs, Collection)
        assert_type(client.collection("docs"), Collection)
        assert_type(client.list_collections(), list[str])
        assert_type(client.aio, AsyncSVRClient)
        assert_type(docs.aio, AsyncCollection)
        assert_type(client.create_collection("auto", embedder=AtlasEmbedding("voyage-4")), Collection)
        used(docs)
        client.drop_collection("docs", missing_ok=True)
    SVRClient(path=Path("data"), control="mongodb://localhost/control").close()


def used(docs: Collection) -> None:
    given = [Document("a", "text", {"year": 2024}), Document("b", vector=[0.1, 0.2, 0.3])]
    assert_type(docs.add(given, vectors=np.zeros((2, 3), np.float32)), AddResult)
    assert_type(docs.add(iter(given), namespace=DEFAULT_NAMESPACE), AddResult)
    result = docs.search(text="a", limit=3, filter={"year": {"$gte": 2020}}, on_failure="partial")
    assert_type(result, SearchResult)
    assert_type(result[0], Hit)
    assert_type([hit.score for hit in result], list[float])
    assert_type(result.route, Route)
    assert_type(docs.hybrid(text="a", weights=(1.0, 0.5), filter={"year": 2024}), SearchResult)
    assert_type(docs.route(vector=[0.1, 0.2, 0.3], nprobe=2), Route)
    assert_type(docs.explain(vector=np.ones(3), analyze=True), Explanation)
    assert_type(docs.get(["a"], with_vectors=True), list[Document])
    assert_type(docs.find({"year": 2024}, limit=5), list[Document])
    assert_type(docs.count(), int)
    assert_type(docs.delete(["a"]), int)
    assert_type(docs.clear(namespace="other"), int)
    assert_type(docs.metric, Metric)
    assert_type(docs.refresh(), PartitionMap)
    assert_type(docs.refresh(progress=lambda done, rows: None), PartitionMap)
    assert_type(docs.build_indexes(progress=lambda done, rows: None), int)
    with docs.watch(after=None) as changes:
        assert_type(next(changes), Change)
    assert_type([leaf for leaf in docs.partitions], list[Partition])  # noqa: C416 - the element type is the point


async def asynchronous() -> None:
    async with AsyncSVRClient("memory://") as client:
        docs = await client.create_collection("docs", dimensions=3, partition_by=by_field("category"))
        assert_type(docs, AsyncCollection)
        assert_type(await docs.add([Document("a", vector=(0.1, 0.2, 0.3))]), AddResult)
        assert_type(await docs.search(vector=[0.1, 0.2, 0.3], timeout_seconds=1.5), SearchResult)
        assert_type(await docs.search(text="a", reranker=Slow(), fetch_k=20), SearchResult)
        again = await docs.search(vector=[0.1], rerank_query="a", reranker=reranker, rerank_timeout_seconds=1)
        assert_type(again.reranked, bool)
        assert_type(again.notes, tuple[str, ...])
        assert_type(again[0].rerank_score, float | None)
        assert_type(await docs.count({"year": 2024}), int)
        async for change in docs.watch():
            assert_type(change.token, str)
        assert_type(await client.list_collections(), list[str])


def failing(docs: Collection, vectors: npt.NDArray[np.float32]) -> list[int]:
    try:
        docs.search(vector=[0.1], limit=1)
    except errors.DimensionMismatch as error:
        base: SVRError = error
        assert_type((base.code, base.hint), tuple[str, str])
    return maximal_marginal_relevance([0.1, 0.2, 0.3], vectors, k=2, lambda_mult=0.3)


def refused(docs: Collection) -> None:
    """Each ignore is needed: mypy warns about one that is not."""
    docs.search([0.1, 0.2, 0.3])  # type: ignore[call-arg]
    docs.search(text="a", reranker="rerank-2.5")  # type: ignore[arg-type]
    docs.search(vector=[0.1, 0.2, 0.3], on_failure="maybe")  # type: ignore[arg-type]
    docs.get("a", with_vector=True)  # type: ignore[call-arg]
    by_time("created_at", every="decade")  # type: ignore[arg-type]
