"""The command line on a real server: what each command prints, and with which exit code it ends."""

from __future__ import annotations

import json

import numpy as np
import psycopg
import pytest

from svr_retrievers import Document, SVRClient, by_field
from svr_retrievers.cli import main
from svr_retrievers.cli.demo import _again
from svr_retrievers.embedding.local import WordLlamaEmbedder
from svr_retrievers.errors import CollectionNotFound

BOOKS = [
    Document("dune", "Spice and sand", {"category": "novel", "year": 1965}, [1.0, 0.0, 0.0]),
    Document("emma", "A matchmaker errs", {"category": "novel", "year": 1815}, [0.9, 0.1, 0.0]),
    Document("cosmos", "Stars and people", {"category": "science", "year": 1980}, [0.0, 1.0, 0.0]),
]
POEMS = ["the sea at night is cold", "a rose blooms in the garden", "numbers and their proofs"]


@pytest.fixture(scope="module", autouse=True)
def store(postgres_url):
    with SVRClient(postgres_url) as client:
        books = client.create_collection(
            "books",
            dimensions=3,
            partition_by=by_field("category"),
            filter_fields={"category": str, "year": int},
        )
        books.add(BOOKS)
        poems = client.create_collection("poems", embedder=WordLlamaEmbedder())
        poems.add([Document(f"p{n}", text) for n, text in enumerate(POEMS)])
        yield client


@pytest.fixture
def svr(postgres_url, capsys, monkeypatch):
    """Runs a command on the module's database: (exit code, output, errors)."""
    monkeypatch.setenv("SVR_URL", postgres_url)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_search_by_vector_prints_the_closest_first(svr):
    code, out, err = svr("search", "books", "--vector", "[1, 0, 0]", "--limit", "2")
    assert (code, err) == (0, "")
    assert out.index("dune") < out.index("emma")
    assert "category=novel" in out
    assert "2 of 2 hits" in out
    assert "cosmos" not in out


def test_search_with_a_filter_as_json(svr):
    code, out, _ = svr(
        "search", "books", "--vector", "[1,0,0]", "--filter", '{"year": {"$lt": 1900}}', "--json"
    )
    assert code == 0
    found = json.loads(out)
    assert [hit["id"] for hit in found["hits"]] == ["emma"]
    assert found["hits"][0]["metadata"] == {"category": "novel", "year": 1815}
    assert found["incomplete"]["code"] == "few_matches"


def test_a_vector_and_a_filter_from_files(svr, tmp_path):
    (tmp_path / "v.json").write_text("[0, 1, 0]")
    (tmp_path / "f.json").write_text('{"category": "novel"}')
    code, out, _ = svr(
        "search", "books", "--vector", f"@{tmp_path / 'v.json'}", "--filter", f"@{tmp_path / 'f.json'}", "--json"
    )  # fmt: skip
    found = json.loads(out)
    assert code == 0
    assert [hit["id"] for hit in found["hits"]] == ["emma", "dune"]
    assert found["route"]["step"] == "filter"
    assert found["route"]["partitions"] == ["category=novel"]


def test_search_restricted_to_a_partition(svr):
    code, out, _ = svr("search", "books", "--vector", "[1,0,0]", "--partition", "category=science", "--json")
    assert code == 0
    assert [hit["id"] for hit in json.loads(out)["hits"]] == ["cosmos"]


def test_text_is_embedded_by_the_local_model(svr):
    code, out, _ = svr("search", "poems", "flowers in a garden", "--limit", "1", "--json")
    assert code == 0
    assert json.loads(out)["hits"][0]["id"] == "p1"


def test_words_find_without_the_vectors_model(svr):
    code, out, err = svr("search", "books", "people and spice", "--by", "words", "--json")
    assert (code, err) == (0, "")
    hits = json.loads(out)["hits"]
    assert {hit["id"] for hit in hits} == {"dune", "cosmos"}
    assert all(hit["distance"] is None for hit in hits)
    code, out, _ = svr(
        "search", "books", "people and spice", "--by", "words", "--partition", "category=novel"
    )
    assert code == 0
    assert "dune" in out
    assert "cosmos" not in out


@pytest.mark.parametrize(
    ("words", "best"),
    [(("poems", "cold sea"), "p0"), (("books", "stars", "--vector", "[0, 1, 0]"), "cosmos")],
    ids=["the local model's vector", "a vector given"],
)
def test_both_rankings_decide_together(svr, words, best):
    code, out, err = svr("search", *words, "--by", "both", "--limit", "2", "--json")
    assert (code, err) == (0, "")
    hits = json.loads(out)["hits"]
    assert hits[0]["id"] == best
    assert hits[0]["score"] == pytest.approx(2 / 61)
    assert len(hits) == 2


def test_explain_tells_route_reason_and_recall(svr):
    code, out, _ = svr(
        "explain", "books", "--vector", "[1,0,0]", "--filter", '{"category": "novel"}', "--analyze"
    )
    assert code == 0
    assert "route: filter, 1 of" in out
    assert "category=novel" in out
    assert "measured recall: 1.000" in out
    assert out.startswith("SearchResult(2 of 10 hits")


def test_explain_leaves_long_vectors_out_of_the_plan(svr):
    code, out, _ = svr("explain", "poems", "flowers")
    assert code == 0
    assert "plan:" in out
    assert max(map(len, out.splitlines())) < 400


def test_map_lists_every_partition_with_its_rows(svr):
    code, out, _ = svr("map", "books")
    assert code == 0
    assert "2 partitions, 3 rows" in out
    assert out.index("category=novel") < out.index("category=science")
    code, out, _ = svr("map", "books", "--json")
    assert {p["path"]: p["rows"] for p in json.loads(out)["partitions"]} == {
        "category=novel": 2,
        "category=science": 1,
    }


def test_refresh_says_what_it_left(svr):
    code, out, _ = svr("refresh", "books")
    assert code == 0
    assert out == "Refreshed 'books': 3 rows in 2 partitions, 0 with an index.\n"


def test_collections_are_listed_and_shown(svr):
    _, out, _ = svr("collections", "list", "--json")
    assert {row["name"]: row["rows"] for row in json.loads(out)} == {"books": 3, "poems": 3}
    code, out, _ = svr("collections", "list")
    assert code == 0
    assert "by_field('category')" in out
    code, out, _ = svr("collections", "show", "books")
    assert code == 0
    assert "category: str, year: int" in out
    _, out, _ = svr("collections", "show", "books", "--json")
    assert json.loads(out)["dimensions"] == 3


def test_drop_wants_to_be_confirmed(svr, store, monkeypatch):
    store.create_collection("doomed", dimensions=2).add([Document("a", vector=[1.0, 0.0])])
    code, out, err = svr("collections", "drop", "doomed")
    assert (code, out) == (2, "")
    assert "--yes" in err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "something else")
    assert svr("collections", "drop", "doomed")[0] == 2
    assert "doomed" in store.list_collections()
    code, out, _ = svr("collections", "drop", "doomed", "--yes")
    assert (code, out) == (0, "Dropped 'doomed' with 1 document.\n")
    assert "doomed" not in store.list_collections()


def test_drop_after_its_name_was_typed(svr, store, monkeypatch):
    store.create_collection("doomed", dimensions=2)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "doomed")
    assert svr("collections", "drop", "doomed")[0] == 0
    assert "doomed" not in store.list_collections()


def test_doctor_finds_a_healthy_server(svr):
    code, out, _ = svr("doctor", "--json")
    found = {check["name"]: check for check in json.loads(out)}
    assert code == 0
    assert set(found) == {
        "connection",
        "pgvector",
        "schema",
        "settings",
        "rights",
        "indexes",
        "pool",
        "clock",
    }
    assert "fail" not in {check["state"] for check in found.values()}
    assert "hnsw.iterative_scan = relaxed_order" in found["settings"]["detail"]
    code, out, _ = svr("doctor")
    assert code == 0
    assert "✓ connection" in out


def test_doctor_names_an_invalid_index_and_exits_with_one(svr, postgres_url):
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute("create table svr.broken (v vector(3))")
        conn.execute("create index broken_idx on svr.broken using hnsw (v vector_cosine_ops)")
        conn.execute("update pg_index set indisvalid = false where indexrelid = 'svr.broken_idx'::regclass")
        code, out, _ = svr("doctor")
        conn.execute("drop table svr.broken")
    assert code == 1
    assert 'REINDEX INDEX "svr"."broken_idx";' in out
    assert svr("doctor")[0] == 0


def test_doctor_names_the_rights_that_a_role_lacks(svr, postgres_url):
    role = "svr_cli_reader"
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute(f"create role {role} login")
        conn.execute(f"grant usage on schema svr to {role}")
        conn.execute(f"grant select on all tables in schema svr to {role}")
        try:
            url = postgres_url.replace("postgresql://postgres", f"postgresql://{role}")
            assert url != postgres_url
            code, out, _ = svr("doctor", "--url", url)
        finally:
            conn.execute(f"drop owned by {role}")
            conn.execute(f"drop role {role}")
    assert code == 0
    assert f'GRANT CREATE ON SCHEMA "svr" TO "{role}";' in out


def test_doctor_fails_when_the_pool_exceeds_the_server(svr, monkeypatch):
    monkeypatch.setenv("SVR_POOL_MAX_CONNECTIONS", "100000")
    code, out, _ = svr("doctor")
    assert code == 1
    assert "set SVR_POOL_MAX_CONNECTIONS below" in out


BAD = [
    (("search", "nothing", "--vector", "[1]"), "no collection 'nothing'"),
    (("map", "nothing"), "no collection 'nothing'. There are: books, poems. See: svr collections list"),
    (("collections", "show", "nothing"), "no collection 'nothing'"),
    (("collections", "drop", "nothing", "--yes"), "no collection 'nothing'"),
    (("search", "books", "--vector", "[1, 0"), "--vector is not JSON"),
    (("search", "books", "--vector", '{"a": 1}'), "JSON list of numbers"),
    (("search", "books", "--vector", "[true, false, true]"), "JSON list of numbers"),
    (("search", "books", "--vector", "[1, 0]"), "2"),
    (("search", "books", "--vector", "@/no/such/file"), "cannot be read"),
    (("search", "books", "--vector", "[1,0,0]", "--filter", "{year: 1}"), "--filter is not JSON"),
    (("search", "books", "--vector", "[1,0,0]", "--filter", "[1]"), "--filter must be a JSON object"),
    (("search", "books", "--vector", "[1,0,0]", "--filter", '{"year": {"$gtt": 1}}'), "$gt"),
    (("search", "books", "--vector", "[1,0,0]", "--limit", "-1"), "limit"),
    (("search", "books", "--vector", "[1,0,0]", "--limit", "ten"), "--limit"),
    (("search", "books", "--vector", "[1,0,0]", "--partition", "category=comics"), "category=comics"),
    (("search", "books", "some text"), "has 3 dimensions"),
    (("search", "books", "some text", "--vector", "[1,0,0]"), "either a text or --vector, not both"),
    (("search", "books"), "Give a text or --vector."),
    (("search",), "COLLECTION"),
    (("search", "books", "--bogus"), "--bogus. See: svr search --help"),
    (("collections", "drop", "--bogus"), "See: svr collections drop --help"),
    (("collections", "bogus"), "See: svr collections --help"),
    (("bogus",), "See: svr --help"),
    (("search", "books", "--by", "words"), "--by words needs a text."),
    (("search", "books", "--by", "both", "--vector", "[1,0,0]"), "--by both needs a text."),
    (
        ("search", "books", "spice", "--by", "words", "--vector", "[1,0,0]"),
        "--vector has no use with --by words",
    ),
    (("search", "books", "spice", "--by", "words", "--exact"), "--exact has no use with --by words"),
    (("search", "poems", "sea", "--by", "both", "--nprobe", "2"), "--nprobe has no use with --by both"),
    (("search", "poems", "sea", "--by", "letters"), "--by"),
    (("search", "books", "spice", "--by", "both"), "has 3 dimensions"),
    (("search", "poems", "x", "--url", "mysql://somewhere"), "mysql"),
    (("search", "poems", "x", "--url", "memory://", "--path", "somewhere"), "exclude"),
    (("search", "poems", "x", "--url", "postgresql://127.0.0.1:1/nowhere"), "cannot be reached"),
    (("doctor", "--url", "postgresql://127.0.0.1:1/nowhere"), "cannot be reached"),
    (("demo", "--url", "postgresql://127.0.0.1:1/nowhere"), "cannot be reached"),
    (("demo", "--url", "memory://"), "compares with a pgvector table"),
    (("demo", "--limit", "0"), "--limit"),
    (("demo", "--questions", "0"), "--questions"),
    (("demo", "--path", "/no/such/folder"), "The folder '/no/such/folder' does not exist."),
    (("demo", "--json", "/no/such/folder/file.json"), "cannot be written"),
]


@pytest.mark.parametrize(
    ("words", "message"), BAD, ids=lambda v: " ".join(v)[:60] if isinstance(v, tuple) else ""
)
def test_a_mistake_is_told_in_one_line(svr, words, message):
    code, out, err = svr(*words)
    assert code == 2
    assert out == ""
    assert err.startswith("svr: error: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_wrong_setting_is_told_in_one_line(svr, monkeypatch):
    monkeypatch.setenv("SVR_POOL_MAX_CONNECTIONS", "many")
    code, _, err = svr("collections", "list")
    assert code == 2
    assert err.count("\n") == 1
    assert "pool_max_connections" in err


def test_debug_shows_the_traceback(svr):
    with pytest.raises(CollectionNotFound):
        svr("map", "nothing", "--debug")


def test_config_tells_where_each_setting_comes_from(svr, monkeypatch, tmp_path):
    file = tmp_path / "svr.toml"
    file.write_text("timeout_seconds = 7.5\npool_min_connections = 2\n")
    monkeypatch.setenv("SVR_CONFIG_FILE", str(file))
    monkeypatch.setenv("SVR_URL", "postgresql://me:topsecret@host/db")
    monkeypatch.setenv("SVR_POOL_MIN_CONNECTIONS", "3")
    code, out, _ = svr("config", "show", "--json")
    rows = {row["setting"]: (row["value"], row["source"]) for row in json.loads(out)}
    assert code == 0
    assert rows["timeout_seconds"] == (7.5, str(file))
    assert rows["pool_min_connections"] == (3, "SVR_POOL_MIN_CONNECTIONS")
    assert rows["url"] == ("postgresql://me:***@host/db", "SVR_URL")
    assert rows["fan_out_concurrency"][1] == "default"
    _, table, _ = svr("config", "show")
    assert "topsecret" not in out + table


def test_config_shows_what_the_options_would_set(svr, tmp_path):
    _, out, _ = svr("config", "show", "--path", str(tmp_path), "--json")
    rows = {row["setting"]: (row["value"], row["source"]) for row in json.loads(out)}
    assert rows["path"] == (str(tmp_path), "--path")
    assert rows["url"] == (None, "--path")
    _, out, _ = svr("config", "show", "--url", "postgresql://me:topsecret@host/db", "--json")
    rows = {row["setting"]: (row["value"], row["source"]) for row in json.loads(out)}
    assert rows["url"] == ("postgresql://me:***@host/db", "--url")


def test_a_variable_that_is_no_setting_is_told_with_the_one_it_may_mean(svr, monkeypatch):
    monkeypatch.setenv("SVR_TIMEOUT_SECOND", "5")
    warning = "SVR_TIMEOUT_SECOND is no setting and has no effect. Did you mean SVR_TIMEOUT_SECONDS?"
    code, out, err = svr("config", "show", "--json")
    assert (code, err) == (0, f"svr: warning: {warning}\n")
    assert json.loads(out)
    code, out, _ = svr("doctor", "--json")
    assert code == 0
    assert [c["detail"] for c in json.loads(out) if c["name"] == "environment"] == [warning]


def test_vectors_given_as_whole_numbers_are_accepted(svr):
    code, out, _ = svr("search", "books", "--vector", json.dumps(np.eye(3, dtype=int)[1].tolist()), "--json")
    assert code == 0
    assert json.loads(out)["hits"][0]["id"] == "cosmos"


@pytest.mark.parametrize(
    ("url", "path", "again"),
    [(None, None, ""), ("postgresql://me:pw@h/d", None, " --url ..."), (None, "/a b", " --data-path '/a b'")],
)
def test_the_next_commands_name_the_database_without_secrets(url, path, again):
    assert _again(url, path) == again
