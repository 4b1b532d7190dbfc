"""Quantized indexes: smaller, used by the plan, re-sorted by the full vectors, and refused where they cannot work."""

from __future__ import annotations

import numpy as np
import pytest

from svr_retrievers import Document, SVRClient, flat, hnsw, ivfflat
from svr_retrievers.errors import InputError

pytestmark = pytest.mark.postgres
ROWS, DIMENSIONS = 3_000, 128


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((12, DIMENSIONS))
    made = centres[rng.integers(0, 12, ROWS)] + 0.7 * rng.standard_normal((ROWS, DIMENSIONS))
    return made.astype(np.float32)


def filled(client: SVRClient, name: str, rows: np.ndarray, **settings: object):
    collection = client.create_collection(name, dimensions=rows.shape[1], **settings)  # type: ignore[arg-type]
    collection.add([Document(str(i)) for i in range(len(rows))], vectors=rows)
    collection.refresh()
    return collection


@pytest.mark.parametrize(
    ("spec", "operator", "least"),
    [
        (hnsw(min_rows=500, quantization="half"), "::halfvec(128) <=> ", 0.97),
        (hnsw(min_rows=500, quantization="binary"), "::bit(128) <~> ", 0.9),
        (ivfflat(min_rows=500, lists=8, probes=8, quantization="half"), "::halfvec(128) <=> ", 0.97),
    ],
    ids=["half", "binary", "ivfflat half"],
)
def test_candidates_from_a_quantized_index_are_ordered_by_the_full_vectors(
    svr_client: SVRClient, rows: np.ndarray, spec, operator: str, least: float
) -> None:
    collection = filled(svr_client, "quantized", rows, index=spec)
    plan = collection.explain(vector=rows[0]).plan
    assert operator in plan
    assert "Index Scan" in plan

    rng = np.random.default_rng(6)
    found = []
    for query in rows[:40] + 0.1 * rng.standard_normal((40, DIMENSIONS)).astype(np.float32):
        result = collection.search(vector=query, limit=10)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        exact = 1 - unit @ (query / np.linalg.norm(query))
        truth = {str(i) for i in np.argsort(exact, kind="stable")[:10]}
        found.append(len(set(result.ids) & truth) / 10)
        assert [h.distance for h in result] == sorted(h.distance for h in result)
        assert result[0].distance == pytest.approx(float(exact[int(result[0].id)]), abs=1e-5)
    assert np.mean(found) >= least


def test_more_candidates_find_more(svr_client: SVRClient, rows: np.ndarray) -> None:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def recall(rescore: int) -> float:
        name = f"rescored_{rescore}"
        spec = hnsw(min_rows=500, quantization="binary", rescore=rescore)
        collection = filled(svr_client, name, rows, index=spec)
        shares = []
        for query in unit[:50]:
            truth = {str(i) for i in np.argsort(-(unit @ query), kind="stable")[:10]}
            shares.append(len(set(collection.search(vector=query, limit=10).ids) & truth) / 10)
        return float(np.mean(shares))

    assert recall(2) < recall(40)


def test_vectors_too_long_for_any_other_index_can_have_a_binary_one(svr_client: SVRClient) -> None:
    long = np.random.default_rng(1).standard_normal((700, 4_500)).astype(np.float32)
    spec = hnsw(min_rows=500, quantization="binary")
    collection = filled(svr_client, "long", long, index=spec)
    assert "<~>" in collection.explain(vector=long[3]).plan
    assert collection.search(vector=long[3], limit=1).ids == ("3",)


@pytest.mark.parametrize("metric", ["l2", "inner_product"])
@pytest.mark.parametrize("kind", ["half", "binary"])
def test_metrics_that_need_lengths_refuse_it(svr_client: SVRClient, metric: str, kind) -> None:
    with pytest.raises(InputError, match="needs metric 'cosine'"):
        svr_client.create_collection("q", dimensions=4, metric=metric, index=hnsw(quantization=kind))
    assert svr_client.list_collections() == []


def test_settings_without_sense_are_refused() -> None:
    with pytest.raises(InputError, match="'none', 'half', 'scalar' or 'binary'"):
        hnsw(quantization="int8")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="rescore needs a quantization"):
        hnsw(rescore=3)
    with pytest.raises(InputError, match="rescore must lie between"):
        ivfflat(quantization="half", rescore=0)
    assert flat().quantization == "none"
