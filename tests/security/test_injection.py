"""Text that means something to SQL, jsonpath or LIKE is only ever data, wherever it is given."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import psycopg
import pytest

from svr_retrievers import (
    Document,
    Settings,
    SVRClient,
    by_field,
    by_hash,
    by_namespace,
    by_time,
    errors,
    hnsw,
)
from svr_retrievers.testing.data import vector

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(120)]

ATTACKS = (
    "'; drop table bait; --",
    '"; drop table bait; --',
    "$$; drop table bait; $$",
    "\\'; drop table bait; --",
    "%s %(x)s %% %b",
    "{0} {collections} {}",
    "'||(select pg_sleep(100))||'",
    "1); delete from bait; --",
    "$[*] ? (@ == 1)",
    '" ? (1 == 1) || "',
    "a\\' or '1'='1",
    "/* */ union select * from bait",
    "x' :: int",
    "\\x27; drop table bait",
    "pg_catalog.pg_class",
    "${jndi:ldap://x}",
    "%",
    "_",
    "\\",
)
TABLES = "select count(*) from pg_class where relkind in ('r', 'p') and relpersistence <> 't'"
COLLECTION_TABLES = 2


@pytest.fixture(scope="module")
def bait(postgres_url: str) -> Iterator[psycopg.Connection]:
    """A table that any successful attack removes or empties."""
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute("create table bait (id int)")
        conn.execute("insert into bait values (1)")
        yield conn
        assert conn.execute("select count(*) from bait").fetchone() == (1,)


def _count(conn: psycopg.Connection) -> int:
    row = conn.execute(TABLES).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("text", ATTACKS)
def test_text_is_data_everywhere(svr_client: SVRClient, bait: psycopg.Connection, text: str) -> None:
    before = _count(bait)
    path = text.replace("\\", "\\\\").replace(".", "\\.")
    made = svr_client.create_collection(
        text,
        dimensions=4,
        partition_by=by_field("k").then(by_hash(1)),
        filter_fields={"n": int},
        index=hnsw(min_rows=1),
    )
    body = {"k": text, text: text, "deep": {text: [text]}, "list": [text, 1]}
    stored = Document(text, text, body, vector(1))
    made.add([stored], namespace=text)
    assert _count(bait) == before + COLLECTION_TABLES + 1
    [found] = made.get([text], namespace=text)
    assert (found.id, found.text, found.metadata, found.namespace) == (text, text, body, text)
    like = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    for filter_ in (
        {"k": text},
        {"k": {"$in": [text, "other"]}},
        {"list": text},
        {"list": {"$contains": text}},
        {"list": {"$all": [text, 1]}},
        {"k": {"$like": like}},
        {"k": {"$ilike": like.upper()}},
        {"k": {"$gte": text, "$lte": text}},
        *([] if text.startswith("$") else [{path: text}, {path: {"$exists": True}}]),
        {f"deep.{path}": text},
        {f"deep.{path}": [text]},
        {"$not": {"k": {"$ne": text}}},
    ):
        hits = made.search(vector=vector(1), filter=filter_, namespace=text)
        assert hits.ids == (text,), filter_
        assert made.count(filter_, namespace=text) == 1, filter_
        assert made.count({"$nor": [filter_]}, namespace=text) == 0, filter_
    assert made.search(vector=vector(1), partitions=[hits[0].partition], namespace=text).ids == (text,)
    with pytest.raises(errors.PartitionNotFound):
        made.search(vector=vector(1), partitions=[text], namespace=text)
    assert text in str(made.explain(vector=vector(1), filter={"k": text}, namespace=text))
    assert made.delete([text], filter={"k": text}, namespace=text) == 1
    svr_client.drop_collection(text)
    assert _count(bait) == before


@pytest.mark.parametrize("text", ATTACKS)
def test_field_names_are_data_too(svr_client: SVRClient, bait: psycopg.Connection, text: str) -> None:
    """A declared field becomes a column, an index and a partition key. Only operators may begin with "$"."""
    text = f"f{text}" if text.startswith("$") else text
    before = _count(bait)
    fields = {text: str, f"{text} at": datetime, f"{text} list": list[str]}
    made = svr_client.create_collection(
        "fields",
        dimensions=4,
        partition_by=by_field(text).then(by_time(f"{text} at")).then(by_namespace()),
        filter_fields=fields,
        index=hnsw(min_rows=1),
    )
    body = {text: "v", f"{text} at": "2024-05-01", f"{text} list": ["a"]}
    made.add([Document("x", metadata=body, vector=vector(1))])
    made.add([Document("y", metadata={}, vector=vector(2))])
    declared = svr_client.collection("fields")
    assert declared.filter_fields == fields
    assert declared.partition_by == made.partition_by
    assert declared.search(
        vector=vector(1), filter={text: "v", f"{text} at": {"$gte": "2024-01-01"}}
    ).ids == ("x",)
    assert declared.count({text: None}) == 1
    assert declared.delete(filter={f"{text} list": "a"}) == 1
    svr_client.drop_collection("fields")
    assert _count(bait) == before


@pytest.mark.parametrize("schema", ['odd "schema"; drop table bait; --', "Großes Schema", "a.b", "{}"])
def test_the_schema_may_have_any_name(postgres_url: str, bait: psycopg.Connection, schema: str) -> None:
    with SVRClient(postgres_url, settings=Settings(db_schema=schema)) as client:
        made = client.create_collection(
            "docs", dimensions=4, partition_by=by_field("k"), index=hnsw(min_rows=1)
        )
        made.add([Document("x", metadata={"k": "v"}, vector=vector(1))])
        assert made.search(vector=vector(1)).ids == ("x",)
        assert all(p.stats.indexed for p in made.refresh())
        client.drop_collection("docs")
    assert bait.execute("select count(*) from pg_namespace where nspname = %s", (schema,)).fetchone() == (1,)


def test_every_statement_of_a_working_day_is_free_of_user_text(
    postgres_url: str, bait: psycopg.Connection
) -> None:
    """The server's own record of what it was asked: marked text may only have come as a parameter."""
    mark = "xyzzymark"
    with (
        psycopg.connect(postgres_url, autocommit=True) as watcher,
        SVRClient(postgres_url, settings=Settings(pool_max_connections=1, pool_min_connections=1)) as client,
    ):
        seen: list[str] = []

        def look() -> None:
            rows = watcher.execute(
                "select query from pg_stat_activity where application_name = 'svr'"
            ).fetchall()
            seen.extend(str(row[0]) for row in rows)

        made = client.create_collection(
            mark, dimensions=4, partition_by=by_field(mark), filter_fields={"n": int}
        )
        look()
        made.add([Document(mark, mark, {mark: mark}, vector(1))], namespace=mark)
        look()
        made.search(vector=vector(1), filter={mark: mark, "other": mark}, namespace=mark)
        look()
        made.find({"other": {"$like": mark}}, ids=[mark], namespace=mark)
        look()
        made.delete([mark], filter={"$not": {"other": mark}}, namespace=mark)
        look()
        client.drop_collection(mark)
        look()
    assert len(seen) >= 6
    assert not any(mark in query for query in seen)
