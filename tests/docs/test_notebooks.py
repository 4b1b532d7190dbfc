"""The notebooks run from top to bottom without network, and what they show holds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
KERNEL = "python3"
TIMEOUT_SECONDS = 240


class Executed:
    """A notebook that ran in a fresh kernel on a database of its own, and what it then held."""

    def __init__(self, name: str, look_at: Mapping[str, str]) -> None:
        self.notebook = nbformat.read(FOLDER / name, as_version=4)
        shown = ", ".join(f"{key!r}: {expression}" for key, expression in look_at.items())
        report = nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({{{shown}}}))")
        self.notebook.cells.append(report)
        client = NotebookClient(
            self.notebook,
            timeout=TIMEOUT_SECONDS,
            kernel_name=KERNEL,
            resources={"metadata": {"path": str(FOLDER)}},
        )
        client.execute()
        self.held: dict[str, Any] = json.loads(self.notebook.cells.pop().outputs[0].text)

    def outputs(self, kind: str) -> str:
        """Everything of one MIME type that the cells showed."""
        shown = (output for cell in self.notebook.cells for output in cell.get("outputs", ()))
        return "\n".join(str(output.get("data", {}).get(kind, "")) for output in shown)

    def stream(self, name: str) -> str:
        shown = (output for cell in self.notebook.cells for output in cell.get("outputs", ()))
        return "".join(output.text for output in shown if output.get("name") == name)


@pytest.fixture
def _kernel(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's environment: the test database, and no traces in the user's folders."""
    monkeypatch.setenv("SVR_URL", postgres_url)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))


needs_a_kernel = pytest.mark.usefixtures("_kernel")


@pytest.mark.slow
@pytest.mark.postgres
@needs_a_kernel
def test_the_first_notebook_asks_routes_changes_and_awaits() -> None:
    ran = Executed(
        "01_first_answer.ipynb",
        {
            "stored": "len(corpus.documents)",
            "map_rows": "library.partitions.rows",
            "partitions": "len(library.partitions)",
            "step": "answer.route.step",
            "searched": "list(answer.route.paths)",
            "best": "answer[0].id",
            "hits": "len(answer)",
            "methods": "[[h.metadata['kind'], h.metadata['category'], h.metadata['length']] for h in methods]",
            "recall": "explanation.recall",
            "few": "[len(few), few.incomplete.code]",
            "moved": "[found.id, found.partition, found.version]",
            "deleted": "deleted",
            "at_once": "[r[0].metadata['category'] for r in found_at_once]",
        },
    )

    held = ran.held
    assert held["stored"] >= 5_000
    assert held["map_rows"] in (held["stored"], held["stored"] + 1)
    assert held["partitions"] >= 10
    assert (held["step"], held["searched"], held["hits"]) == ("filter", ["category=concurrency"], 5)
    assert "RLock" in held["best"]
    assert len(held["methods"]) == 5
    for kind, category, length in held["methods"]:
        assert kind == "method"
        assert category in ("async", "concurrency")
        assert length < 400
    assert held["recall"] == 1.0
    assert held["few"][0] < 10
    assert held["few"][1] == "few_matches"
    assert held["moved"] == ["my-note", "category=garden", 2]
    assert held["deleted"] == 1
    assert len(held["at_once"]) == 3
    assert "<table>" in ran.outputs("text/html")
    assert "left in the old partition: 0" in ran.stream("stdout")


@pytest.mark.slow
@pytest.mark.postgres
@needs_a_kernel
def test_the_second_notebook_measures_what_filters_do_to_a_shared_index() -> None:
    names = ("defaults", "iterative", "routed")
    ran = Executed(
        "02_when_filters_fail.ipynb",
        {name: f"{{k: v for k, v in {name}.items()}}" for name in names}
        | {"unfiltered": "[one_index[0], partitions[0]]"},
    )

    defaults, iterative, routed = (ran.held[name] for name in names)
    assert len(defaults["hits"]) == 150
    assert defaults["mean hits"] < 5
    assert defaults["short"] > 0.5
    assert defaults["recall"] < 0.5
    assert iterative["mean hits"] == 10
    assert routed["mean hits"] == 10
    assert routed["short"] == 0
    assert routed["recall"] >= 0.99 > defaults["recall"]
    assert ran.held["unfiltered"][0] > 0.9
    html = ran.outputs("text/html")
    assert html.count("<svg") == 1
    assert "routed by tenant" in html
    assert "rows_embedding_idx" in ran.stream("stdout")


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.langchain
@needs_a_kernel
def test_the_third_notebook_answers_from_retrieved_passages() -> None:
    ran = Executed(
        "03_langchain_rag.ipynb",
        {
            "routed": "[[d.id, d.metadata['svr_partition']] for d in routed]",
            "everywhere": "[d.id for d in everywhere]",
            "answer": "answer",
            "answers": "answers",
            "tool": "[d.metadata['kind'] for d in called.artifact]",
            "wrong": "wrong.content",
        },
    )

    held = ran.held
    ids, partitions = zip(*held["routed"], strict=True)
    assert len(ids) == 4
    assert set(partitions) == {"category=concurrency"}
    assert len(held["everywhere"]) == 4
    assert held["answer"].startswith(f"According to [{ids[0]}]: ")
    assert held["answers"][0] == held["answer"]
    assert len(set(held["answers"])) == 3
    assert held["tool"] == ["function", "function"]
    assert held["wrong"] == "Unknown operator '$equals' here. Did you mean $eq?"


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.llama_index
@needs_a_kernel
def test_the_fourth_notebook_answers_from_retrieved_nodes() -> None:
    ran = Executed(
        "04_llama_index_query_engine.ipynb",
        {
            "routed": "[[n.node_id, n.metadata['category']] for n in routed]",
            "everywhere": "[n.node_id for n in everywhere]",
            "methods": "[[n.metadata['kind'], n.metadata['length']] for n in methods]",
            "sources": "[n.node_id for n in response.source_nodes]",
            "first_text": "response.source_nodes[0].text[:60]",
            "response": "str(response)",
            "awaited": "[n.metadata['category'] for n in awaited.source_nodes]",
            "deleted": "[before, after]",
        },
    )

    held = ran.held
    assert len(held["everywhere"]) == 4
    assert {category for _, category in held["routed"]} == {"concurrency"}
    assert held["sources"] == [node_id for node_id, _ in held["routed"]][:3]
    assert held["first_text"] in held["response"]
    assert len(held["methods"]) == 4
    assert all(kind == "method" and length < 300 for kind, length in held["methods"])
    assert held["awaited"] == ["concurrency"] * 3
    assert held["deleted"][0] > 0
    assert held["deleted"][1] == 0


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.ingest
@needs_a_kernel
def test_the_fifth_notebook_ingests_a_folder_and_only_what_changed_in_it() -> None:
    reports = ("first", "again", "changed", "refused", "of_rows")
    figures = ("read", "refused", "written", "unchanged", "deleted", "embedded")
    ran = Executed(
        "05_ingest_your_own_folder.ipynb",
        {name: f"{{f: getattr({name}, f) for f in {figures}}}" for name in reports}
        | {
            "headings": "[h.metadata['heading_path'] for h in answer]",
            "found": "found[0].metadata['path']",
            "left": "len(left)",
        },
    )

    held = ran.held
    first, again, changed = held["first"], held["again"], held["changed"]
    assert first["read"] >= 20
    assert first["refused"] == 0
    assert first["embedded"] >= 0.9 * first["written"] > 100  # equal chunks are embedded once
    assert (again["written"], again["embedded"], again["unchanged"]) == (0, 0, first["written"])
    assert 0 < changed["embedded"] <= 5
    assert changed["deleted"] > 0
    assert (held["refused"]["refused"], held["refused"]["written"]) == (1, 0)
    assert held["of_rows"]["written"] == 2_500
    assert any(held["headings"])
    assert held["found"] == "operations.md"
    assert held["left"] == 1
    assert "report.pdf" in ran.stream("stdout")
    assert "<table>" in ran.outputs("text/html")


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.hybrid
@pytest.mark.rerank
@needs_a_kernel
def test_the_sixth_notebook_fuses_reranks_and_says_what_it_is_worth() -> None:
    ran = Executed(
        "06_hybrid_and_rerank.ipynb",
        {
            "words": "[list(by_words.ids), by_words.incomplete.code]",
            "both": "[[h.id, h.legs.keyword] for h in both]",
            "again": "[read_again.reranked, len(read_again), all(h.rerank_score is not None for h in read_again)]",
            "stands": "[stands.reranked, len(stands), list(stands.notes)]",
            "worth": "{way: found['all'] for way, found in worth.items()}",
            "questions": "len(items)",
        },
    )

    held = ran.held
    assert "functools:lru_cache#0" in held["words"][0]
    assert held["both"][0] == ["functools:lru_cache#0", 1]
    assert held["again"] == [True, 5, True]
    assert held["stands"][:2] == [False, 5]
    assert "out of order" not in held["stands"][2][0]
    assert "the merged order stands" in held["stands"][2][0]
    assert held["questions"] >= 40
    worth = held["worth"]
    assert worth["hybrid, rrf"] > worth["vectors"]
    assert worth["hybrid, rrf, reranked"] > worth["vectors"]
    html = ran.outputs("text/html")
    assert "<svg" in html
    assert "nDCG@10" in html


@pytest.mark.slow
@pytest.mark.providers
@needs_a_kernel
def test_the_seventh_notebook_embeds_once_and_keeps_spaces_apart() -> None:
    ran = Executed(
        "07_custom_embedder.ipynb",
        {
            "calls": "[once, model.calls]",
            "guess": "list(guess.ids)",
            "refused": "refused",
            "same": "[same[0].id, str(other.space)]",
        },
    )

    held = ran.held
    assert held["calls"][0] == 1
    assert held["guess"][0] == "rhododendron"
    assert "notebook/trigrams (256 dimensions, 1)" in held["refused"]
    assert "notebook/trigrams (256 dimensions, 2)" in held["refused"]
    assert held["same"] == ["2", "langchain/deterministic-fake (32 dimensions)"]
    assert "the same again: 0 calls" in ran.stream("stdout")


def test_each_notebook_is_executed_by_a_test() -> None:
    source = Path(__file__).read_text("utf-8")

    assert [path.name for path in NOTEBOOKS] == sorted(set(re.findall(r"\d\d_\w+\.ipynb", source)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_a_notebook_is_stored_clean(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)

    nbformat.validate(notebook)
    assert dict(notebook.metadata) == {}
    for cell in notebook.cells:
        assert dict(cell.metadata) == {}
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_a_notebook_explains_itself(path: Path) -> None:
    """Prose first, prose between, links that resolve, and no address outside the machine."""
    notebook = nbformat.read(path, as_version=4)
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    text = "\n".join(cell.source for cell in notebook.cells)

    assert notebook.cells[0].source.startswith("# ")
    assert len(prose) >= 5
    links = re.findall(r"\]\(([^)\s]+)\)", "\n".join(prose))
    assert [link for link in links if not (FOLDER / link).exists()] == []
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []
