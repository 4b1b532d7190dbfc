"""Each way of a filtered search is really taken, proven by EXPLAIN, and each finds what there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pytest
from psycopg import sql

from svr_retrievers import Collection, Document, SVRClient, by_cluster, by_field, hnsw

START = datetime(2024, 1, 1, tzinfo=UTC)
FIELDS = {"kind": str, "n": int, "when": datetime, "tags": list[str]}
DIMENSIONS, ROWS, TOPICS = 16, 6_000, 3
CENTRES = np.eye(TOPICS, DIMENSIONS) * 4.0


def metadata(row: int, topic: int) -> dict[str, object]:
    """`kind` is almost always that of the topic; `n` and `owner` have nothing to do with it."""
    kind = "common" if (topic == 0) != (row % 50 == 0) else "other"
    return {
        "kind": kind,
        "n": row // TOPICS % 100,
        "when": START + timedelta(hours=row),
        "tags": [f"t{row // TOPICS % 80}"],
        "owner": row // TOPICS % 500,
        "half": row // TOPICS % 2,
    }


@pytest.fixture(scope="module")
def filled(postgres_url: str) -> Iterator[Collection]:
    """Three graphs of 2,000 rows."""
    rng = np.random.default_rng(1)
    with SVRClient(postgres_url) as client:
        made = client.create_collection(
            "filter_plans",
            dimensions=DIMENSIONS,
            partition_by=by_cluster(TOPICS),
            filter_fields=FIELDS,
            index=hnsw(min_rows=500),
        )
        vectors = CENTRES[np.arange(ROWS) % TOPICS] + rng.standard_normal((ROWS, DIMENSIONS))
        made.add(
            [Document(f"{row:05d}", metadata=metadata(row, row % TOPICS)) for row in range(ROWS)],
            vectors=vectors,
        )
        made.refresh()
        assert sum(p.stats.indexed for p in made.partitions) == TOPICS
        yield made
        client.drop_collection("filter_plans")


def plan(collection: Collection, filter: dict[str, object], topic: int = 0, **options: object) -> str:
    return collection.explain(vector=CENTRES[topic] + 0.1, filter=filter, **options).plan


def recall(collection: Collection, filter: dict[str, object], **options: object) -> float:
    rng = np.random.default_rng(2)
    found = []
    for query in range(30):
        vector = CENTRES[query % TOPICS] + rng.standard_normal(DIMENSIONS)
        true = collection.search(vector=vector, filter=filter, exact=True)
        hits = collection.search(vector=vector, filter=filter, **options)
        assert len(hits) == len(true) == 10
        found.append(len(set(hits.ids) & set(true.ids)) / 10)
    return float(np.mean(found))


@pytest.mark.parametrize(
    "filter",
    [{"n": 7}, {"n": {"$in": [7, 8]}}, {"when": {"$gte": START, "$lt": START + timedelta(hours=90)}}],
)
def test_few_matches_are_found_by_the_b_tree_of_the_field(
    filled: Collection, filter: dict[str, object]
) -> None:
    told = plan(filled, filter)
    assert told.startswith("exact over about")
    assert "hnsw" not in told
    assert re.search(r"Index (Scan using|Scan on) c\d+_p\d+_f\d_(n|when)", told)
    assert recall(filled, filter) == 1.0


def test_elements_of_lists_are_found_by_a_gin_index(filled: Collection) -> None:
    told = plan(filled, {"tags": "t3"})
    assert re.search(r"Bitmap Index Scan on c\d+_p\d+_f4_tags", told)
    assert "hnsw" not in told
    assert recall(filled, {"tags": "t3"}) == 1.0


def test_a_filter_that_most_rows_pass_walks_the_graphs(filled: Collection) -> None:
    wide = {"n": {"$gte": 3}}
    told = plan(filled, wide)
    assert told.startswith("through the index of")
    assert re.search(r"Index Scan using c\d+_p\d+_hnsw", told)
    assert "Order By: (embedding <=>" in told
    assert recall(filled, wide) >= 0.95


@pytest.mark.parametrize("filter", [{"n": {"$gte": 3}}, None])
def test_a_wide_search_still_walks_the_graphs(filled: Collection, filter: dict[str, object] | None) -> None:
    """The server thinks that so many steps through a graph cost more than sorting the whole partition."""
    told = filled.explain(vector=CENTRES[0] + 0.1, filter=filter, ef_search=400, nprobe=3).plan
    assert len(set(re.findall(r"Index Scan using (c\d+_p\d+_hnsw)", told))) == TOPICS
    assert "Seq Scan on c" not in told.replace("_documents", "")


def test_each_partition_goes_its_own_way_in_one_statement(filled: Collection) -> None:
    """Nearly all rows of one topic are common, and one in fifty of the others."""
    told = plan(filled, {"kind": "common"}, nprobe=3)
    assert len(re.findall(r"Index Scan using c\d+_p\d+_hnsw", told)) == 1
    assert re.search(r"Index (Scan using|Scan on) c\d+_p\d+_f1_kind", told)
    assert "exact over" in told
    assert "through the index of 1 partition" in told
    assert recall(filled, {"kind": "common"}, nprobe=3) >= 0.95


def test_exact_takes_no_graph_whatever_the_filter(filled: Collection) -> None:
    assert "hnsw" not in plan(filled, {"n": {"$gte": 3}}, exact=True)


def test_undeclared_fields_are_compared_one_by_one_when_rare_and_beside_the_graph_when_common(
    filled: Collection,
) -> None:
    assert "hnsw" not in plan(filled, {"owner": 3})
    assert "hnsw" in plan(filled, {"half": 1})
    assert recall(filled, {"owner": 3}) == 1.0
    assert recall(filled, {"half": 1}) >= 0.95


def test_fresh_rows_are_found_beside_the_chosen_way(filled: Collection) -> None:
    vector = CENTRES[1] * 1.01
    filled.add([Document("fresh", vector=vector, metadata=metadata(7 * TOPICS + 1, 1))])
    try:
        assert filled.search(vector=vector, filter={"n": 7}, limit=1).ids == ("fresh",)
        assert filled.search(vector=vector, filter={"n": {"$gte": 3}}, limit=1).ids == ("fresh",)
    finally:
        filled.delete(["fresh"])


def test_too_few_matches_come_with_the_reason(filled: Collection) -> None:
    hits = filled.search(vector=CENTRES[0], filter={"n": 7, "kind": "nothing"})
    assert (len(hits), hits.incomplete and hits.incomplete.code) == (0, "few_matches")
    some = filled.search(vector=CENTRES[0], filter={"owner": 3, "half": 1}, limit=100)
    assert len(some) == filled.count({"owner": 3, "half": 1})
    assert some.incomplete
    assert some.incomplete.code == "few_matches"


def test_the_kept_plan_opens_only_the_partitions_asked_for(filled: Collection, postgres_url: str) -> None:
    """What pays for keeping it: with one parameter each, the others are left out when it starts."""
    leaves = [p for p in filled.partitions if p.stats.rows]
    table = sql.Identifier("svr", f"c{filled.aio._ref.id}_space")
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute("set plan_cache_mode = force_generic_plan")
        conn.execute(
            sql.SQL(
                "prepare asked (int, int) as select id from {} where part in ($1, $2) and f2_n = 7"
            ).format(table)
        )
        wanted = sql.SQL(", ").join(sql.Literal(p.id) for p in leaves[:2])
        told = "\n".join(
            row[0] for row in conn.execute(sql.SQL("explain execute asked ({})").format(wanted)).fetchall()
        )
    assert "Subplans Removed" in told
    assert len(re.findall(r" on c\d+_p\d+ ", told)) == 2


def test_the_partition_key_alone_answers_its_filter(postgres_url: str) -> None:
    with SVRClient(postgres_url) as client:
        made = client.create_collection("key_only", dimensions=2, partition_by=by_field("lang"))
        made.add(
            [Document(str(i), vector=[1.0, i], metadata={"lang": "en" if i % 2 else "de"}) for i in range(9)]
        )
        told = made.explain(vector=[1.0, 0.0], filter={"lang": "en"})
        assert [p.path for p in told.route.partitions] == ["lang=en"]
        assert "jsonb" not in told.plan
        client.drop_collection("key_only")
