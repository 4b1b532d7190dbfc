"""What PostgreSQL knows of the filter fields reaches the planner: as a whole, by partition, and for plain metadata."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from svr_retrievers import Collection, Document, SVRClient, by_cluster, hnsw
from svr_retrievers.filters import parse
from svr_retrievers.filters.choice import ScanCosts
from svr_retrievers.filters.selectivity import is_estimated, selectivity
from svr_retrievers.filters.statistics import FilterStatistics

START = datetime(2024, 1, 1, tzinfo=UTC)
FIELDS = {"lang": str, "n": int, "when": datetime, "tags": list[str], "price": float, "draft": bool}
ROWS = 3_000


def metadata(row: int, topic: int) -> dict[str, object]:
    """`lang` follows the topic, `n` does not; `source.kind` and `owner` are not declared."""
    made: dict[str, object] = {
        "lang": ("en", "de")[topic],
        "n": row % 100,
        "when": START + timedelta(hours=row),
        "tags": ["all", f"t{row % 20}"],
        "draft": row // 100 % 10 == 0,
        "source": {"kind": "web" if row % 4 else "mail"},
        "owner": f"user-{row}",
    }
    return made | ({} if row % 5 else {"price": float(row % 50)})


@pytest.fixture(scope="module")
def filled(postgres_url: str) -> Iterator[Collection]:
    rng = np.random.default_rng(3)
    with SVRClient(postgres_url) as client:
        made = client.create_collection(
            "field_statistics", dimensions=8, partition_by=by_cluster(2), filter_fields=FIELDS
        )
        topics = [row % 3 // 2 for row in range(ROWS)]
        centres = np.zeros((2, 8))
        centres[0, 0] = centres[1, 1] = 5.0
        vectors = centres[topics] + rng.standard_normal((ROWS, 8)) * 0.2
        made.add(
            [Document(f"{row:05d}", metadata=metadata(row, topics[row])) for row in range(ROWS)],
            vectors=vectors,
        )
        made.refresh()
        yield made
        client.drop_collection("field_statistics")


def statistics(collection: Collection) -> FilterStatistics:
    return collection.aio._view.state.field_statistics


@pytest.mark.parametrize(
    ("filter", "share"),
    [
        ({"lang": "en"}, 2 / 3),
        ({"n": 7}, 0.01),
        ({"n": {"$gte": 20, "$lt": 30}}, 0.1),
        ({"when": {"$lt": START + timedelta(hours=ROWS / 4)}}, 0.25),
        ({"tags": "t3"}, 0.05),
        ({"price": None}, 0.8),
        ({"draft": True}, 0.1),
        ({"source.kind": "mail"}, 0.25),
        ({"n": 7, "draft": False}, 0.009),
        ({"owner": "user-5"}, 1 / ROWS),
    ],
)
def test_shares_are_close_to_the_truth(filled: Collection, filter: dict[str, object], share: float) -> None:
    node = parse(filter, filled.aio._ref.config.fields)
    known = statistics(filled)
    assert is_estimated(node, known.fields)
    assert selectivity(node, known.fields) == pytest.approx(share, rel=0.35, abs=0.002)
    assert filled.count(filter) == pytest.approx(share * ROWS, abs=1)


def test_a_field_that_follows_the_partitions_is_known_in_each(filled: Collection) -> None:
    known = statistics(filled)
    node = parse({"lang": "de"}, filled.aio._ref.config.fields)
    shares = sorted(selectivity(node, known.within(leaf.id)) for leaf in filled.partitions if leaf.stats.rows)
    assert shares[0] == pytest.approx(0.0, abs=0.01)
    assert shares[-1] == pytest.approx(1.0, abs=0.01)


def test_they_are_renewed_when_the_collection_has_doubled(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svr_retrievers.statistics.FIELDS_FROM_ROWS", 1_000)
    with SVRClient(postgres_url) as client:
        made = client.create_collection("renewed", dimensions=2, filter_fields={"n": int})
        rows = [Document(f"{row:05d}", vector=[1.0, row], metadata={"n": row % 4}) for row in range(4_000)]
        made.add(rows[:1_000])
        assert statistics(made).rows == 0
        made.add(rows[1_000:2_000])
        assert statistics(made).rows == 2_000
        made.add(rows[2_000:3_000])
        assert statistics(made).rows == 2_000
        made.add(rows[3_000:])
        assert statistics(made).rows == 4_000
        assert statistics(client.collection("renewed")) == statistics(made)
        client.drop_collection("renewed")


@pytest.mark.parametrize("quantization", [{}, {"quantization": "half"}])
def test_costs_are_measured_on_the_machine_within_reason(
    postgres_url: str, quantization: dict[str, str]
) -> None:
    plain = ScanCosts.for_dimensions(16)
    with SVRClient(postgres_url) as client:
        made = client.create_collection("costs", dimensions=16, index=hnsw(min_rows=500, **quantization))
        rng = np.random.default_rng(0)
        made.add([Document(f"{row:04d}") for row in range(2_500)], vectors=rng.standard_normal((2_500, 16)))
        made.refresh()
        costs = statistics(made).costs
        assert costs is not None
        assert costs != plain
        for step in ("row", "match", "document", "probe", "visit"):
            assert 0.19 <= getattr(costs, step) / getattr(plain, step) <= 5.01, step
        assert statistics(client.collection("costs")).costs == costs
        client.drop_collection("costs")


def test_without_a_graph_nothing_is_measured(filled: Collection) -> None:
    few = [p for p in filled.partitions if p.stats.indexed and p.stats.rows >= 2_000]
    assert bool(few) == (statistics(filled).costs is not None)
