"""`svr bench` at its smallest size on a real server: every row is measured or says why not. No figure is judged."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from svr_retrievers import SVRClient
from svr_retrievers.bench import ours
from svr_retrievers.bench.postgres.server import SCHEMA, server
from svr_retrievers.bench.rows import ROWS, order
from svr_retrievers.cli import main
from svr_retrievers.errors import InputError

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(900)]

WITH_PEERS = {
    "1": {"langchain-postgres"},
    "3": {"langchain-postgres", "llama-index"},
    "14": {"lancedb", "chroma"},
    "P": {"hnswlib", "usearch", "faiss-hnsw", "faiss-ivf", "milvus-lite", "qdrant-local"},
}
BLOCKED = (
    *("langchain_postgres", "llama_index", "lancedb", "chromadb"),
    *("hnswlib", "usearch", "faiss", "pymilvus", "qdrant_client"),
)


@pytest.fixture(scope="module")
def ran(postgres_url, tmp_path_factory):
    """Exit code and folder of one run of all rows, the peers in an environment that has none of them."""
    folder = tmp_path_factory.mktemp("bench")
    blocked = folder / "blocked"
    blocked.mkdir()
    for module in BLOCKED:
        (blocked / f"{module}.py").write_text(f'raise ModuleNotFoundError("No module named {module}")\n')
    files = {name: folder / f"run.{name}" for name in ("json", "markdown", "svg")}
    options = [word for name, file in files.items() for word in (f"--{name}", str(file))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(blocked))
        words = ["bench", "--size", "tiny", "--seed", "5", "--url", postgres_url]
        code = main([*words, "--peers-python", sys.executable, *options])
    return code, files


@pytest.fixture(scope="module")
def records(ran):
    return {record["id"]: record for record in json.loads(ran[1]["json"].read_text())["records"]}


def test_rows_without_their_peers_make_the_exit_code_one(ran):
    assert ran[0] == 1


def test_without_peers_a_run_may_still_count_as_whole(postgres_url):
    words = ["bench", "--size", "tiny", "--only", "1,D", "--url", postgres_url]

    assert main([*words, "--peers-python", "/no/such/python", "--allow-missing-peers"]) == 0


def test_a_row_that_breaks_is_recorded_and_the_others_go_on(postgres_url, tmp_path, monkeypatch):
    broken = [replace(row, measure=lambda lab: lab.nothing) if row.id == "8" else row for row in ROWS]
    monkeypatch.setattr("svr_retrievers.bench.rows.ROWS", tuple(broken))
    words = ["bench", "--size", "tiny", "--only", "8,11", "--url", postgres_url, "--allow-missing-peers"]

    assert main([*words, "--json", str(tmp_path / "run.json")]) == 1
    records = {r["id"]: r for r in json.loads((tmp_path / "run.json").read_text())["records"]}
    assert "AttributeError" in records["8"]["not_measured"]["the routing decision alone"]
    assert records["11"]["value"]


def test_the_file_says_what_was_run(ran):
    body = json.loads(ran[1]["json"].read_text())

    assert (body["size"], body["seed"], body["dimensions"]) == ("tiny", 5, 384)
    assert body["postgresql_settings"]["fsync"] in ("on", "off")


def test_there_is_one_record_a_row_in_the_order_of_the_table(ran):
    body = json.loads(ran[1]["json"].read_text())

    assert [record["id"] for record in body["records"]] == sorted((row.id for row in ROWS), key=order)
    assert body["finished"]


@pytest.mark.parametrize("row", [row.id for row in ROWS])
def test_a_record_is_complete(records, row):
    record = records[row]

    assert record["what"]
    assert set(record["not_measured"]) == WITH_PEERS.get(row, set())
    assert all("is not installed" in why for why in record["not_measured"].values())
    assert record["value"]
    assert all(math.isfinite(value) for value in record["value"].values())
    assert record["medians"]
    assert set(record["goal"]) == set(record["checks"])
    if record["not_measured"]:
        assert record["met"] in (None, False)
    else:
        assert record["met"] in ((None,) if not record["goal"] else (True, False))
    machine = record["machine"]
    assert machine["cores"] >= 1
    assert machine["versions"]["postgresql"]
    assert machine["load_before"] >= 0


def test_shares_and_recalls_lie_between_nothing_and_all(records):
    for record in records.values():
        for name, figures in record["medians"].items():
            if isinstance(figures, dict) and "recall" in figures:
                assert 0.0 < figures["recall"] <= 1.0, (record["id"], name)


def test_exact_answers_are_asked_for_under_every_filter(records):
    assert records["6"]["value"]["queries answered short"] == 0.0
    assert records["12"]["value"]["documents not readable at once"] == 0.0


def test_the_table_and_the_picture_are_written(ran):
    assert ran[1]["markdown"].read_text().count("\n| 4 |") == 1
    for picture in ("run.svg", "run-recall.svg", "run-filters.svg"):
        assert ran[1]["svg"].with_name(picture).read_text().startswith("<svg")


def test_all_settings_that_were_swept_are_told(records):
    swept = records["5"]["medians"]["swept on the tuning queries"]

    assert {name.partition(",")[0] for name in swept} == {"one big index", "routed"}
    assert all(0.0 < one["recall"] <= 1.0 and one["p50_ms"] > 0 for one in swept.values())


def test_nothing_is_left_in_the_database(ran, postgres_url):
    with psycopg.connect(postgres_url) as conn:
        left = conn.execute("select 1 from pg_namespace where nspname = %s", (SCHEMA,)).fetchall()
        left += conn.execute("select 1 from pg_class where relname ~ 'svr_bench'").fetchall()
    with SVRClient(postgres_url) as client:
        names = [name for name in client.list_collections() if name.startswith(ours.PREFIX)]

    assert left == []
    assert names == []


def test_a_run_that_is_told_to_end_leaves_nothing_behind_but_its_figures():
    with TemporaryDirectory(prefix="svr-bench-stop-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        file = Path(folder) / "run.json"
        words = ["bench", "--size", "tiny", "--only", "8,4", "--json", str(file)]
        with subprocess.Popen(
            [sys.executable, "-m", "svr_retrievers.cli", *words],
            env=os.environ | {"TMPDIR": folder},
            stdout=subprocess.PIPE,
            text=True,
        ) as running:
            assert any("filling one big table" in line for line in running.stdout)
            running.terminate()
            code = running.wait(60)
        left = [path.name for path in Path(folder).iterdir()]

        assert code == 143
        assert "run.json" in left
        assert [name for name in left if name.startswith("svr-bench-")] == []
        assert [r["id"] for r in json.loads(file.read_text())["records"]] == ["8"]
        assert not json.loads(file.read_text())["finished"]


def test_unknown_rows_and_unwritable_files_are_refused_before_any_work(tmp_path, capsys):
    assert main(["bench", "--only", "4,99", "--url", "postgresql://nobody@127.0.0.1:1/none"]) == 2
    assert "There is no row '99' at size small." in capsys.readouterr().err
    assert main(["bench", "--json", str(tmp_path / "no" / "file.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_store_without_tables_is_refused():
    with pytest.raises(InputError, match="needs PostgreSQL"), server("memory://", large=False):
        pytest.fail("it opened")


def test_its_own_server_is_set_up_for_measuring_and_removed():
    with server(None, large=False) as own:
        with psycopg.connect(own.url) as conn:
            folder = conn.execute("select current_setting('data_directory')").fetchone()[0]
        assert own.settings["shared_buffers"] == "1GB"
        assert own.settings["fsync"] == "on"
        assert own.versions["pgvector (server)"]

    assert not Path(folder).exists()
