"""`svr demo` on a real server: what the figures must show, warm and cold, and on a user's own texts."""

from __future__ import annotations

import json
import re
from importlib import import_module

import pytest

from svr_retrievers import SVRClient
from svr_retrievers.cli import main
from svr_retrievers.demo.postgres_table import SHARED, TUNED, SharedTable
from svr_retrievers.demo.routed import COLLECTION, ROUTED

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

SMALL = ("--limit", "4000", "--questions", "25")


def installed(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:
        return False
    return True


@pytest.fixture(scope="module")
def figures(postgres_url, tmp_path_factory) -> dict:
    """The figures of a cold run on part of the standard library."""
    folder = tmp_path_factory.mktemp("demo")
    code = main(
        [
            "demo",
            "--url",
            postgres_url,
            *SMALL,
            "--json",
            str(folder / "f.json"),
            "--svg",
            str(folder / "f.svg"),
        ]
    )
    assert code == 0
    assert (folder / "f.svg").read_text().startswith("<svg ")
    return json.loads((folder / "f.json").read_text())


@pytest.fixture
def demo(postgres_url, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words: str) -> tuple[str, dict]:
        code = main(["demo", "--url", postgres_url, *words, "--json", str(tmp_path / "f.json")])
        printed = capsys.readouterr()
        assert (code, printed.err) == (0, "")
        return printed.out, json.loads((tmp_path / "f.json").read_text())

    return run


def test_routed_finds_every_answer_under_every_filter(figures):
    assert len(figures["cases"]) == 6
    for case in figures["cases"]:
        routed = case["ways"][ROUTED]
        assert routed["found"] == pytest.approx(case["possible"])
        assert routed["short"] == 0.0
        assert routed["recall"] >= 0.99


def test_the_shared_index_with_defaults_comes_back_short(figures):
    case = next(c for c in figures["cases"] if c["name"] == "another category")
    assert case["possible"] > 9
    assert case["ways"][SHARED]["found"] < case["possible"] - 2
    assert case["ways"][SHARED]["short"] > 0.25
    assert case["ways"][TUNED]["found"] == pytest.approx(case["possible"])


def test_without_a_filter_one_index_is_fine(figures):
    case = next(c for c in figures["cases"] if c["name"] == "no filter")
    assert case["ways"][SHARED]["found"] == 10.0
    assert case["ways"][SHARED]["recall"] > 0.9


def test_the_figures_describe_what_was_stored(figures, postgres_url):
    assert figures["corpus"]["documents"] == 4_000
    assert figures["warm"] is False
    assert {"read", "embed", "store_shared", "store_routed", "ask", "total"} == set(figures["seconds"])
    assert sum(p["rows"] for p in figures["partitions"]) == 4_000
    assert len(figures["partitions"]) >= 10
    with SVRClient(postgres_url) as client:
        assert client.collection(COLLECTION).count() == 4_000


def test_a_second_run_is_warm_and_says_so(figures, demo):
    out, again = demo(*SMALL)
    assert again["warm"] is True
    assert again["corpus"] == figures["corpus"]
    assert set(again["seconds"]) == {"ask", "total"}
    assert "nothing was read, embedded or stored again" in out
    found = [{way: w["found"] for way, w in case["ways"].items()} for case in again["cases"]]
    assert [f[ROUTED] for f in found] == [case["ways"][ROUTED]["found"] for case in figures["cases"]]
    assert max(map(len, out.splitlines()[:40])) <= 100


def test_the_terminal_shows_answers_route_and_frameworks(figures, demo):
    out, _ = demo(*SMALL)
    assert "a lock that the same thread may take twice" in out
    assert "category=concurrency" in out
    assert "recall 1.00 against an exact search" in " ".join(out.split())  # a slow answer wraps the line
    for framework, module in (
        ("LangChain", "langchain_svr"),
        ("LlamaIndex", "llama_index.vector_stores.svr"),
    ):
        line = next(line for line in out.splitlines() if line.strip().startswith(framework))
        assert "the same answers" in line if installed(module) else "not installed" in line


def test_a_missing_adapter_is_told_with_its_command(figures, demo, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "langchain_svr", None)
    out, _ = demo(*SMALL)
    assert "not installed; run: pip install ./integrations/langchain-svr" in out


def test_a_half_finished_run_is_done_again(figures, demo, postgres_url):
    with SharedTable(postgres_url) as table:
        table._connection.execute("DROP TABLE svr_demo.facts")
    _, first = demo("--limit", "300", "--questions", "3")
    assert first["warm"] is False
    with SVRClient(postgres_url) as client:
        client.drop_collection(COLLECTION)
    _, second = demo("--limit", "300", "--questions", "3")
    assert second["warm"] is False
    _, third = demo("--limit", "300", "--questions", "3")
    assert third["warm"] is True
    _, fresh = demo("--limit", "300", "--questions", "3", "--fresh")
    assert fresh["warm"] is False


def test_a_few_documents_are_stored_and_asked_but_not_compared(demo, tmp_path):
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "one.md").write_text("A single note about one spoon.")
    out, figures = demo("--path", str(tmp_path / "few"), "--svg", str(tmp_path / "few.svg"))
    assert "Too small to compare: 1 document, fewer than 50." in out
    assert "1 passage from 1 file in 1 category" in " ".join(out.split())
    assert "1 answer in" in out
    assert figures["cases"] == []
    assert f"{tmp_path / 'few.svg'} was not written" in out.replace("\n", "")
    assert not (tmp_path / "few.svg").exists()


def test_a_folder_of_ones_own(figures, demo, postgres_url, tmp_path):
    demo(*SMALL)
    for number in range(60):
        folder = tmp_path / "notes" / ("kitchen" if number % 3 else "garden")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.md").write_text(
            f"# Note {number}\n\nThe {number}th thing to do with {number * 7} spoons."
        )
    (tmp_path / "notes" / "broken.txt").write_bytes(b"\xff\xfe\xfa broken")
    out, figures = demo("--path", str(tmp_path / "notes"), "--questions", "5")
    assert figures["corpus"]["documents"] == 60
    assert figures["corpus"]["skipped"] == 1
    assert {p["path"]: p["rows"] for p in figures["partitions"]} == {
        "category=kitchen": 40,
        "category=garden": 20,
    }
    assert "not UTF-8 text: 1 file." in out
    name = f"svr_demo_notes_{re.search(r'svr map svr_demo_notes_([0-9a-f]{6})', out)[1]}"
    with SVRClient(postgres_url) as client:
        assert {name, COLLECTION} <= set(client.list_collections())
    assert demo(*SMALL)[1]["warm"] is True
    _, again = demo("--path", str(tmp_path / "notes"), "--questions", "5")
    assert again["warm"] is True
    (tmp_path / "notes" / "kitchen" / "new.md").write_text("Something that was not there before.")
    _, changed = demo("--path", str(tmp_path / "notes"), "--questions", "5")
    assert changed["corpus"]["documents"] == 61
    assert changed["warm"] is False
