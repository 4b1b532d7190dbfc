"""Collections on three servers: placement, what each is sent, the failure of one, what a torn write leaves behind."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import psycopg
import pytest
from psycopg import sql

from svr_retrievers import Collection, Document, SVRClient, by_cluster, by_field, hnsw
from svr_retrievers.errors import (
    CollectionMismatch,
    ConfigError,
    ConnectionFailed,
    DeadlineExceeded,
    ExtensionMissing,
    InputError,
    PartitionFailed,
    ServerNotFound,
)
from svr_retrievers.testing.base import Make
from svr_retrievers.testing.conformance import MakeClient, Suite
from svr_retrievers.testing.data import documents, vector
from svr_retrievers.testing.partitioning import PartitioningConformance
from svr_retrievers.testing.reading import ReadingConformance
from svr_retrievers.testing.searching import SearchingConformance
from svr_retrievers.testing.writing import WritingConformance

if TYPE_CHECKING:
    from conftest import OwnServer

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

SECRET = "s3cret"
PASSWORD = "s3cret&p@ss word"
INDEX_ONLY = "?options=-c%20enable_seqscan%3Doff%20-c%20enable_bitmapscan%3Doff%20-c%20enable_sort%3Doff"
"""Makes the servers' planners take the vector index of tables that are so small that they would scan them."""


@pytest.fixture(scope="module")
def url(three_servers: list[OwnServer]) -> str:
    """The main server's, which knows `east` and `west`, and both again, forced to indexes, as `keen` and `fast`."""
    main, east, west = three_servers
    with SVRClient(main.url()) as client:
        client.add_server("east", east.url())
        client.add_server("west", west.url())
        client.add_server("keen", east.url() + INDEX_ONLY)
        client.add_server("fast", west.url() + INDEX_ONLY)
    return main.url()


@pytest.fixture(scope="module")
def shared(url: str) -> Iterator[SVRClient]:
    with SVRClient(url) as client:
        yield client


@pytest.fixture
def client(shared: SVRClient) -> SVRClient:
    for name in shared.list_collections():
        shared.drop_collection(name)
    return shared


class Spread(Suite):
    servers = ("east", "west")

    @pytest.fixture
    def client(self, shared: SVRClient) -> SVRClient:
        return shared

    @pytest.fixture
    def make_client(self, url: str) -> MakeClient:
        return lambda: SVRClient(url)


class TestExact(
    Spread, WritingConformance, ReadingConformance, SearchingConformance, PartitioningConformance
):
    """What is promised of collections, whose partitions now lie elsewhere."""


class TestIndexed(Spread, WritingConformance, SearchingConformance):
    servers = ("keen", "fast")
    index = hnsw(min_rows=1)

    def test_the_index_is_really_used(self, make: Make, three_servers: list[OwnServer]) -> None:
        collection = make(partition_by=by_field("category"))
        collection.add(documents(30))
        used = []
        for server in three_servers[1:]:
            with psycopg.connect(server.url()) as conn:
                conn.execute("select pg_stat_force_next_flush()")
        collection.search(vector=vector(1))
        for server in three_servers[1:]:
            with psycopg.connect(server.url()) as conn:
                rows = conn.execute(
                    "select indexrelname from pg_stat_user_indexes where indexrelname like '%hnsw'"
                ).fetchall()
                used += [row[0] for row in rows]
        assert used
        assert all(p.stats.indexed for p in collection.partitions)


def _clustered(rows: int = 600, dimensions: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, dimensions))
    return (centres[np.arange(rows) % 6] + 0.3 * rng.normal(size=(rows, dimensions))).astype(np.float32)


def _filled(client: SVRClient, **options: object) -> Collection:
    made = client.create_collection(
        "papers",
        dimensions=8,
        servers=["east", "west"],
        filter_fields={"year": int},
        **{"partition_by": by_field("topic"), **options},
    )
    vectors = _clustered()
    made.add(
        [
            Document(
                f"d{n:03}", text=f"text {n}", metadata={"topic": f"t{n % 6}", "year": n % 10, "tag": n % 7}
            )
            for n in range(len(vectors))
        ],
        vectors=vectors,
    )
    return made


def _on(server: OwnServer, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(server.url(), autocommit=True) as conn:
        cursor = conn.execute(query)
        return cursor.fetchall() if cursor.description else []


def _vectors_on(server: OwnServer) -> int:
    """All vectors in the tables of the servers' own schemas."""
    with psycopg.connect(server.url(), autocommit=True) as conn:
        spaces = conn.execute(
            "select relnamespace::regnamespace::text, relname from pg_class where relkind = 'p'"
            " and relnamespace::regnamespace::text like 'svr\\_%'"
        ).fetchall()
        counts = [
            conn.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(*space))).fetchone()
            for space in spaces
        ]
    return sum(row[0] for row in counts if row)


# Servers


def test_servers_are_listed_with_what_lies_on_them(client: SVRClient) -> None:
    _filled(client)
    east, west = client.servers()[:2]

    assert (east.name, west.name) == ("east", "west")
    assert east.collections == west.collections == ("papers",)
    assert (east.partitions, west.partitions) == (3, 3)
    assert east.rows + west.rows == 600
    assert east.address.startswith("127.0.0.1:")


def test_an_unknown_server_is_named(client: SVRClient) -> None:
    with pytest.raises(ServerNotFound, match=r"'north'.*'east', 'west'"):
        client.create_collection("x", dimensions=3, servers=["east", "north"])
    assert client.list_collections() == []


def test_a_name_is_given_once(client: SVRClient, three_servers: list[OwnServer]) -> None:
    with pytest.raises(ConfigError, match="'east'"):
        client.add_server("east", three_servers[1].url())


def test_a_server_in_use_is_kept(client: SVRClient) -> None:
    _filled(client)
    with pytest.raises(ConfigError, match="papers"):
        client.remove_server("east")


def test_a_server_can_be_removed_and_added_again(client: SVRClient, three_servers: list[OwnServer]) -> None:
    client.add_server("spare", three_servers[1].url())
    client.remove_server("spare")
    with pytest.raises(ServerNotFound):
        client.remove_server("spare")
    client.add_server("spare", three_servers[2].url())
    client.remove_server("spare")


def test_memory_knows_no_servers() -> None:
    with SVRClient("memory://") as client:
        for call in (
            lambda: client.add_server("east", "postgresql://host/db"),
            client.servers,
            lambda: client.create_collection("x", dimensions=3, servers=["east"]),
        ):
            with pytest.raises(ConfigError, match="memory"):
                call()


def test_no_login_leaves_the_user_mapping(
    client: SVRClient, three_servers: list[OwnServer], caplog: pytest.LogCaptureFixture
) -> None:
    main, east, _ = three_servers
    with caplog.at_level(logging.DEBUG):
        told = [repr(client.servers()), repr(client)]
        for bad in (east.url(password="wr0ng"), f"postgresql://u:{SECRET}@127.0.0.1:1/x"):
            with pytest.raises(ConnectionFailed) as caught:
                client.add_server("secretive", bad)
            told += traceback.format_exception(caught.value)
    dump = [
        str(row)
        for table in ("servers", "collections", "partitions")
        for row in _on(main, f"select * from svr.{table}")
    ]
    options = _on(main, "select srvoptions from pg_foreign_server")
    log = (main.folder / "log").read_text()
    for text in (*told, *dump, str(options), caplog.text, log):
        assert SECRET not in text
        assert "wr0ng" not in text
    assert [s.name for s in client.servers()] == ["east", "west", "keen", "fast"]


def test_a_refused_registration_leaves_nothing_on_the_server(
    client: SVRClient, three_servers: list[OwnServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This client knows a password that the URL does not tell the main server."""
    _, east, _ = three_servers
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    before = _on(east, "select nspname from pg_namespace")
    with pytest.raises(ConnectionFailed, match="'odd'"):
        client.add_server("odd", f"postgresql://postgres@127.0.0.1:{east.port}/postgres")
    assert _on(east, "select nspname from pg_namespace") == before


def test_a_statement_log_holds_no_password(three_servers: list[OwnServer], client: SVRClient) -> None:
    main, east, _ = three_servers
    _on(main, "alter database postgres set log_statement = 'ddl'")
    try:
        with SVRClient(main.url()) as own:
            own.add_server("logged", east.url())
            own.remove_server("logged")
    finally:
        _on(main, "alter database postgres reset log_statement")
    log = (main.folder / "log").read_text()
    assert "create server" in log
    assert PASSWORD not in log
    assert SECRET not in log


def _prepared(server: OwnServer, *statements: str, database: str = "postgres") -> None:
    with psycopg.connect(server.url(database=database), autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement)


@pytest.fixture
def plain_role(three_servers: list[OwnServer]) -> Iterator[tuple[str, str]]:
    """URLs of a database each on the main server and on another one, for a role with no special rights."""
    main, east, _ = three_servers
    for server in (main, east):
        _prepared(server, "create role plain login password 'plain'", "create database plain owner plain")
        _prepared(server, "create extension vector", database="plain")
    yield main.url("plain", "plain", "plain"), east.url("plain", "plain", "plain")
    for server in (main, east):
        _prepared(server, "drop database plain with (force)", "drop role plain")


def test_without_the_extension_and_the_right_to_create_it_an_administrator_is_asked(
    plain_role: tuple[str, str],
) -> None:
    with SVRClient(plain_role[0]) as client, pytest.raises(ExtensionMissing) as caught:
        client.add_server("other", plain_role[1])
    assert "CREATE EXTENSION postgres_fdw" in caught.value.hint


def test_a_role_without_special_rights_is_enough(
    plain_role: tuple[str, str], three_servers: list[OwnServer]
) -> None:
    """An administrator has created the extension and lets the role use it."""
    _prepared(
        three_servers[0],
        "create extension postgres_fdw",
        "grant usage on foreign data wrapper postgres_fdw to plain",
        database="plain",
    )
    with SVRClient(plain_role[0]) as client:
        client.add_server("other", plain_role[1])
        made = client.create_collection("x", dimensions=8, servers=["other"], index=hnsw(min_rows=50))
        made.add([Document(f"d{n}") for n in range(600)], vectors=_clustered())
        assert made.search(vector=_clustered()[3], limit=1).ids == ("d3",)
        assert made.search(vector=_clustered()[3], limit=1, ef_search=200).ids == ("d3",)
        assert "LIMIT 5::bigint" in made.explain(vector=_clustered()[3], limit=5).plan
        client.drop_collection("x")
        client.remove_server("other")


# Placement


def test_new_partitions_go_where_the_fewest_rows_are(client: SVRClient) -> None:
    made = client.create_collection(
        "x", dimensions=3, servers=["east", "west"], partition_by=by_field("topic")
    )

    def add(topic: str, rows: int) -> None:
        made.add([Document(f"{topic}{n}", vector=[1, n, 2], metadata={"topic": topic}) for n in range(rows)])

    add("a", 30)
    add("b", 10)
    add("c", 10)
    add("d", 1)
    assert {p.path: p.server for p in made.partitions} == {
        "topic=a": "east",
        "topic=b": "west",
        "topic=c": "west",
        "topic=d": "west",
    }
    assert "on 'east'" in repr(made.partitions.by_path("topic=a"))
    assert "east" in made.partitions._repr_html_()


def test_the_placement_is_read_by_others(client: SVRClient, url: str) -> None:
    made = _filled(client)
    with SVRClient(url) as other:
        again = other.collection("papers")
        assert {p.path: p.server for p in again.partitions} == {p.path: p.server for p in made.partitions}
        assert (
            again.search(vector=_clustered()[7], limit=3).ids
            == made.search(vector=_clustered()[7], limit=3).ids
        )


def test_opening_with_other_servers_names_them(client: SVRClient) -> None:
    _filled(client)
    with pytest.raises(CollectionMismatch, match=r"servers \['east', 'west'\], not \['west'\]"):
        client.create_collection("papers", dimensions=8, servers=["west"], if_exists="open")
    assert client.create_collection("papers", dimensions=8, if_exists="open").count() == 600


@pytest.mark.parametrize("bad", ["east", 7, [3], [""]])
def test_servers_must_be_names(client: SVRClient, bad: object) -> None:
    with pytest.raises(InputError, match="servers"):
        client.create_collection("x", dimensions=3, servers=bad)  # type: ignore[arg-type]


def test_vectors_lie_on_their_servers_alone(client: SVRClient, three_servers: list[OwnServer]) -> None:
    _filled(client)
    counts = [_vectors_on(server) for server in three_servers]
    assert counts == [0, 300, 300]


def test_clusters_are_trained_and_moved_across_servers(client: SVRClient) -> None:
    made = client.create_collection("x", dimensions=8, servers=["east", "west"], partition_by=by_cluster(4))
    vectors = _clustered()
    for start in range(0, 600, 200):
        ids = range(start, start + 200)
        made.add([Document(f"d{n}", text=str(n)) for n in ids], vectors=vectors[start : start + 200])
    filled = [p for p in made.partitions if p.stats.rows]
    assert {p.server for p in filled} == {"east", "west"}
    assert sum(p.stats.rows for p in filled) == 600
    nearest = made.search(vector=vectors[5], limit=10, exact=True).ids
    order = np.argsort(1 - (vectors @ vectors[5]) / np.linalg.norm(vectors, axis=1))
    assert list(nearest) == [f"d{n}" for n in order[:10]]


# What a server is sent


@pytest.mark.parametrize("topics", [["topic=t0"], ["topic=t0", "topic=t2", "topic=t4"], None])
def test_order_and_limit_reach_each_server(client: SVRClient, topics: list[str] | None) -> None:
    made = _filled(client, index=hnsw(min_rows=50))
    plan = made.explain(vector=_clustered()[0], limit=7, partitions=topics).plan
    sent = [line for line in plan.splitlines() if "Remote SQL" in line]

    assert len(sent) == (2 if topics is None else 1)
    for line in sent:
        assert "ORDER BY (embedding OPERATOR(public.<=>)" in line
        assert line.endswith("LIMIT 7::bigint")
        assert "part = ANY" in line
    assert not re.search(r"(?<![0-9a-f])0\.\d", plan), "a vector is shown"


def test_an_exact_search_is_ranked_there_too(client: SVRClient) -> None:
    made = _filled(client)
    plan = made.explain(vector=_clustered()[0], limit=7, exact=True).plan
    for line in (line for line in plan.splitlines() if "Remote SQL" in line):
        assert line.endswith("ASC NULLS LAST, id ASC NULLS LAST LIMIT 7::bigint")


def test_filters_on_declared_fields_are_applied_there(client: SVRClient) -> None:
    made = _filled(client)
    plan = made.explain(vector=_clustered()[0], filter={"year": {"$gte": 3, "$lt": 5}}).plan
    for line in (line for line in plan.splitlines() if "Remote SQL" in line):
        assert "f1_year >= 3" in line
        assert "f1_year < 5" in line
        assert "LIMIT" in line


def test_other_filters_are_answered_here_and_ranked_there(client: SVRClient) -> None:
    made = _filled(client)
    plan = made.explain(vector=_clustered()[0], filter={"tag": 3}).plan
    for line in (line for line in plan.splitlines() if "Remote SQL" in line):
        assert "id = ANY (" in line
        assert "LIMIT" in line
    found = made.search(vector=_clustered()[0], filter={"tag": 3}, limit=20)
    assert len(found) == 20
    assert {hit.metadata["tag"] for hit in found} == {3}


def test_settings_of_the_scan_reach_the_server(client: SVRClient) -> None:
    """With one candidate a graph finds fewer of the true neighbours than with many."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(3000, 24)).astype(np.float32)
    made = client.create_collection(
        "x", dimensions=24, servers=["east"], index=hnsw(m=4, ef_construction=8, min_rows=100)
    )
    made.add([Document(f"d{n}") for n in range(3000)], vectors=vectors)
    made.refresh()

    def recall(ef: int) -> float:
        shares = []
        for query in rng.normal(size=(20, 24)):
            found = made.search(vector=query, limit=1, ef_search=ef).ids
            shares.append(found == made.search(vector=query, limit=1, exact=True).ids)
        return float(np.mean(shares))

    assert recall(1) + 0.1 < recall(400)


# A server that fails


def test_a_server_that_is_down_takes_only_its_partitions(
    client: SVRClient, three_servers: list[OwnServer]
) -> None:
    made = _filled(client)
    _, east, _ = three_servers
    query = _clustered()[1]
    lost = sorted(p.path for p in made.partitions if p.server == "east")
    east.kill()
    try:
        with pytest.raises(PartitionFailed, match="'east'") as caught:
            made.search(vector=query, limit=50)
        assert sorted(caught.value.partitions) == lost
        with pytest.raises(PartitionFailed, match="'east'") as caught:
            made.search(vector=query, partitions=["topic=t0"])
        assert caught.value.partitions == ("topic=t0",)

        part = made.search(vector=query, limit=50, on_failure="partial")
        assert len(part) == 50
        assert part.incomplete is not None
        assert part.incomplete.code == "partition_failed"
        assert sorted(part.incomplete.partitions) == lost
        assert not {hit.partition for hit in part} & set(lost)

        with pytest.raises(ConnectionFailed, match="east"):
            made.add([Document("new", vector=query, metadata={"topic": "t0"})])
        assert made.get(["new"]) == []
        with pytest.raises(ConnectionFailed, match="east"):
            made.add(
                [
                    Document("both0", vector=query, metadata={"topic": "t0"}),
                    Document("both1", vector=query, metadata={"topic": "t1"}),
                ]
            )
        assert made.count() == 600
        assert made.add([Document("new", vector=query, metadata={"topic": "t1"})])
        assert made.delete(["d000"]) == 1, "a document goes although its vector cannot be reached"
    finally:
        east.start()
    assert "new" in made.search(vector=query, limit=2).ids
    assert made.search(vector=query, limit=700).ids.count("d000") == 0
    made.refresh()
    assert _vectors_on(east) == 299


def test_a_server_that_does_not_answer_in_time_takes_only_its_partitions(
    client: SVRClient, three_servers: list[OwnServer]
) -> None:
    made = _filled(client)
    slow = sorted(p.path for p in made.partitions if p.server == "east")
    with psycopg.connect(three_servers[1].url()) as held:
        (space,) = held.execute(
            "select oid::regclass::text from pg_class where relkind = 'p' and relname like '%space'"
        ).fetchall()
        held.execute(sql.SQL("lock table {}").format(sql.SQL(space[0])))
        part = made.search(vector=_clustered()[1], limit=50, timeout_seconds=1, on_failure="partial")
        with pytest.raises(DeadlineExceeded):
            made.search(vector=_clustered()[1], limit=50, timeout_seconds=1)
    assert part.incomplete is not None
    assert part.incomplete.code == "deadline"
    assert sorted(part.incomplete.partitions) == slow
    assert len(part) == 50
    assert made.search(vector=_clustered()[1], limit=50).incomplete is None


def test_a_server_that_is_lost_can_be_given_up(client: SVRClient, three_servers: list[OwnServer]) -> None:
    _on(three_servers[1], "create database brief")
    client.add_server("brief", three_servers[1].url(database="brief"))
    made = client.create_collection(
        "x", dimensions=3, servers=["brief", "west"], partition_by=by_field("topic")
    )
    made.add([Document(f"d{n}", vector=[1, n, 2], metadata={"topic": n % 2}) for n in range(10)])
    client.remove_server("brief", lost=True)
    assert len(made.search(vector=[1, 1, 1], on_failure="partial")) == 5
    with pytest.raises(PartitionFailed, match="'brief'"):
        made.search(vector=[1, 1, 1])
    client.drop_collection("x")
    _on(three_servers[1], "drop database brief with (force)")
    assert _vectors_on(three_servers[2]) == 0


# What a torn write leaves


def test_vectors_of_a_write_that_was_torn_are_not_seen_and_removed(
    client: SVRClient, three_servers: list[OwnServer]
) -> None:
    """Rows that a server committed although the main one did not: beside a document, and without one."""
    main, east, _ = three_servers
    made = _filled(client)
    query = _clustered()[1]
    with psycopg.connect(main.url(), autocommit=True) as conn:
        (table,) = conn.execute(
            "select relname from pg_class where relkind = 'f' and relname like 'c%\\_space\\_on\\_s1'"
        ).fetchone() or ("",)
        part = next(p.id for p in made.partitions if p.path == "topic=t0")
        insert = sql.SQL(
            "insert into {} (part, namespace, id, version, embedding)"
            " select %s, 'default', id, 7, %s::public.vector from unnest(%s::text[]) g(id)"
        ).format(sql.Identifier("svr", table))
        ids = ["d000", *(f"ghost{n}" for n in range(40))]
        conn.execute(insert, (part, str(query.tolist()), ids))

    found = made.search(vector=query, limit=10, partitions=["topic=t0"])
    assert not [hit.id for hit in found if hit.id.startswith("ghost")]
    assert len(found) == 10
    assert found.ids == made.search(vector=query, limit=10, partitions=["topic=t0"], exact=True).ids
    assert _vectors_on(east) == 341
    made.refresh()
    assert _vectors_on(east) == 300
    assert made.partitions.rows == 600


def test_a_write_over_leftovers_of_a_torn_one_succeeds(
    client: SVRClient, three_servers: list[OwnServer]
) -> None:
    main, east, _ = three_servers
    made = _filled(client)
    query = _clustered()[1]
    with psycopg.connect(main.url(), autocommit=True) as conn:
        (table,) = conn.execute(
            "select relname from pg_class where relkind = 'f' and relname like 'c%\\_space\\_on\\_s1'"
        ).fetchone() or ("",)
        part = next(p.id for p in made.partitions if p.path == "topic=t0")
        conn.execute(
            sql.SQL(
                "insert into {} (part, namespace, id, version, embedding) values (%s, 'default', 'torn', 1, %s)"
            ).format(sql.Identifier("svr", table)),
            (part, str((-query).tolist())),
        )
    made.add([Document("torn", vector=query, metadata={"topic": "t0"})])
    assert "torn" in made.search(vector=query, limit=2).ids
    assert _vectors_on(east) == 301


def test_documents_without_a_vector_are_reported(
    client: SVRClient, three_servers: list[OwnServer], caplog: pytest.LogCaptureFixture
) -> None:
    made = _filled(client)
    _, east, _ = three_servers
    with psycopg.connect(east.url(), autocommit=True) as conn:
        space = conn.execute(
            "select relnamespace::regnamespace::text, relname from pg_class where relkind = 'p'"
        ).fetchone()
        assert space is not None
        conn.execute(sql.SQL("delete from {} where id = 'd006'").format(sql.Identifier(*map(str, space))))
    with caplog.at_level(logging.WARNING):
        made.refresh()
    assert "1 documents of collection 'papers' have no vector on the server 'east'" in caplog.text
    assert "'d006'" in caplog.text


def test_replacing_leaves_one_vector_a_document(client: SVRClient, three_servers: list[OwnServer]) -> None:
    made = _filled(client)
    vectors = _clustered()
    moved = [
        Document(f"d{n:03}", text="moved", metadata={"topic": f"t{(n + 1) % 6}", "year": 1})
        for n in range(600)
    ]
    made.add(moved, vectors=vectors)
    assert sum(_vectors_on(server) for server in three_servers[1:]) == 600
    assert made.count({"topic": "t1"}) == 100
    assert made.search(vector=vectors[0], limit=1, partitions=["topic=t1"]).ids == ("d000",)


def test_dropping_leaves_nothing_on_the_servers(client: SVRClient, three_servers: list[OwnServer]) -> None:
    _filled(client, index=hnsw(min_rows=50))
    client.drop_collection("papers")
    for server in three_servers[1:]:
        assert (
            _on(server, "select relname from pg_class where relname like 'c%\\_p%' and relkind = 'r'") == []
        )
    foreign = _on(three_servers[0], "select relname from pg_class where relkind = 'f' order by 1")
    assert [row[0] for row in foreign] == [f"commands_on_s{n}" for n in (1, 2, 3, 4)] or all(
        str(row[0]).startswith("commands_on_s") for row in foreign
    )
