"""`svr ingest` on a real server: what it stores, prints and refuses, and how it ends."""

from __future__ import annotations

import json

import pytest

from svr_retrievers import SVRClient, by_field
from svr_retrievers.cli import main

pytestmark = [pytest.mark.ingest, pytest.mark.postgres]


@pytest.fixture(scope="module")
def client(postgres_url):
    with SVRClient(postgres_url) as made:
        yield made


@pytest.fixture
def svr(postgres_url, client, capsys, monkeypatch):
    """Runs a command on the module's database: (exit code, output, errors)."""
    monkeypatch.setenv("SVR_URL", postgres_url)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    yield run
    for name in client.list_collections():
        client.drop_collection(name)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "docs/guides").mkdir(parents=True)
    (tmp_path / "docs/guides/sea.md").write_text("# Sea\n\n" + "The sea is cold at night. " * 20)
    (tmp_path / "docs/garden.txt").write_text("A rose blooms in the garden.")
    return tmp_path / "docs"


def test_a_folder_is_cut_embedded_and_found(svr, client, folder) -> None:
    code, out, err = svr(
        "ingest", folder, "--collection", "notes", "--chunk-size", 200, "--partition-by", "folder"
    )
    assert (code, err) == (0, "")
    assert out.startswith("Read 2 documents into 'notes': ")
    notes = client.collection("notes")
    assert notes.partition_by == by_field("folder")
    assert notes.count() == notes.count({"svr_ingest.document": "guides/sea.md"}) + 1 > 3
    assert max(len(row.text) for row in notes.find()) <= 200
    assert notes.get(["guides/sea.md#1"])[0].metadata["heading_path"] == ["Sea"]
    _, out, _ = svr("search", "notes", "flowers in a garden", "--limit", 1, "--json")
    assert json.loads(out)["hits"][0]["id"] == "garden.txt#0"

    code, out, _ = svr("ingest", folder, "--collection", "notes", "--chunk-size", 200, "--json")
    told = json.loads(out)
    assert (code, told["embedded"], told["written"], told["unchanged"]) == (0, 0, 0, notes.count())


def test_records_with_vectors_decide_the_dimensions(svr, client, tmp_path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"id": 1, "text": "a", "vector": [1, 2, 3]}\n{"id": 2, "text": "b", "vector": [3, 2, 1]}\n'
    )
    assert svr("ingest", file, "--collection", "given")[0] == 0
    assert client.collection("given").dimensions == 3
    (tmp_path / "more.csv").write_text("id,text\n3,c\n")
    code, _, err = svr("ingest", tmp_path / "more.csv", "--collection", "given")
    assert code == 2
    assert "'given' has 3 dimensions, but texts are embedded by the local model, which has 256" in err
    (tmp_path / "mixed.jsonl").write_text(
        '{"id": 1, "text": "a", "vector": [1, 2, 3]}\n{"id": 3, "text": "c"}\n'
    )
    code, _, err = svr("ingest", tmp_path / "mixed.jsonl", "--collection", "given")
    assert code == 1
    assert err == "refused: 3 (mixed.jsonl:2): It has no vector, and there is no embedder.\n"


def test_folders_do_not_replace_each_others_files(svr, client, tmp_path) -> None:
    for name in ("one", "two", "more/one"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "README.md").write_text(f"# Read {name}")
    words = ("--collection", "apart", "--chunk-size", 0)
    code, out, _ = svr("ingest", tmp_path / "one", tmp_path / "two", *words)
    assert (code, "replaced" in out) == (0, False)
    found = {row.id: (row.text, row.metadata["path"]) for row in client.collection("apart").find()}
    assert found == {
        "one/README.md": ("# Read one", "README.md"),
        "two/README.md": ("# Read two", "README.md"),
    }
    code, out, _ = svr("ingest", tmp_path / "one", tmp_path / "two", *words)
    assert (code, "0 rows written, 2 unchanged" in out) == (0, True)
    code, _, err = svr("ingest", tmp_path / "one", tmp_path / "more/one", *words)
    assert (code, "called 'one'" in err) == (2, True)
    assert svr("ingest", tmp_path / "more/one", *words, "--id-prefix", "one/")[1].count(
        "1 row written (1 replaced)"
    )
    assert client.collection("apart").count() == 2


def test_a_csv_of_another_encoding_with_types(svr, client, tmp_path) -> None:
    (tmp_path / "f.csv").write_bytes("id,text,year\n1,caf\u00e9,2020\n".encode("latin-1"))
    words = ("ingest", tmp_path / "f.csv", "--collection", "typed", "--chunk-size", 0)
    assert svr(*words, "--encoding", "latin-1", "--types", "year=int")[0] == 0
    [row] = client.collection("typed").get(["1"])
    assert (row.text, row.metadata["year"]) == ("caf\u00e9", 2020)
    code, _, err = svr(*words, "--encoding", "latin-1", "--types", "yeer=int")
    assert (code, "names 'yeer'" in err) == (1, True)


def test_what_is_passed_over_is_told(svr, tmp_path) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("a.md", "b.csv", "c.JSONL", "d.csv", "LICENSE"):
        (tmp_path / "docs" / name).write_text("text")
    words = ("ingest", tmp_path / "docs", "--collection", "some")
    _, out, _ = svr(*words)
    assert (
        out.splitlines()[1]
        == "Passed over 4 files of kinds that folders are not read for: no suffix, .csv, .jsonl."
    )
    assert json.loads(svr(*words, "--json")[1])["passed_over"] == {"": 1, ".csv": 2, ".jsonl": 1}


def test_what_is_refused_is_told_kept_and_taken_in_again(svr, client, tmp_path) -> None:
    file, letters = tmp_path / "rows.json", tmp_path / "refused.jsonl"
    file.write_text(json.dumps([{"key": "a", "body": "words"}, {"key": "b"}, *[{}] * 12]))
    words = ("--collection", "kept", "--id", "key", "--text", "body", "--dead-letters", letters)
    code, out, err = svr("ingest", file, *words)
    assert code == 1
    assert "13 documents refused" in out
    assert len(err.splitlines()) == 11
    assert "3 more; --dead-letters" in err
    assert len(letters.read_text().splitlines()) == 13
    mended = tmp_path / "mended.jsonl"
    mended.write_text(json.dumps({"document": {"id": "b", "text": "mended"}}) + "\n")
    code, out, _ = svr(
        "ingest", mended, "--collection", "kept", "--format", "dead-letters", "--chunk-size", 0
    )
    assert (code, client.collection("kept").get(["b"])[0].text) == (0, "mended")
    code, _, err = svr("ingest", file, *words, "--fail")
    assert code == 2
    assert "stopped" in err


def test_modes_partitions_and_namespaces(svr, client, folder) -> None:
    words = (
        "--collection",
        "parts",
        "--partition-by",
        "team",
        "--partition",
        "team=a",
        "--namespace",
        "mine",
    )
    assert svr("ingest", folder, *words, "--chunk-size", 0)[0] == 0
    assert client.collection("parts").count({"team": "a"}, namespace="mine") == 2
    (folder / "garden.txt").write_text("Another text.")
    code, _, err = svr("ingest", folder, *words, "--chunk-size", 0, "--mode", "insert")
    assert (code, "replaces nothing" in err) == (1, True)
    code, _, err = svr("ingest", folder, "--collection", "parts", "--partition-by", "other")
    assert (code, "is partitioned by by_field('team')" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [((), "at least one"), (("nowhere",), "does not exist"), (("{folder}", "--overlap", "2000"), "overlap")],
)
def test_what_cannot_be_is_one_line(svr, client, folder, words, told) -> None:
    code, _, err = svr("ingest", *[w.format(folder=folder) for w in words], "--collection", "x")
    assert code == 2
    assert told in err
    assert err.count("\n") == 1
    assert client.list_collections() == []
