"""The demo's judgement: exact answers, filters, sentences, the picture. No database needed."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from svr_retrievers import Document, Partition, PartitionMap
from svr_retrievers.demo.compare import Asked, CaseResult, Measured, Truth, cases, measure
from svr_retrievers.demo.postgres_table import SHARED, TUNED
from svr_retrievers.demo.prepare import Options
from svr_retrievers.demo.questions import questions_for
from svr_retrievers.demo.report import bar, command, counted, figures, partition_table
from svr_retrievers.demo.routed import ROUTED
from svr_retrievers.demo.verdict import verdict
from svr_retrievers.model import PartitionKey, PartitionStats


@pytest.fixture(scope="module")
def truth() -> Truth:
    rng = np.random.default_rng(3)
    documents = [
        Document(
            f"d{n}",
            f"text {n}",
            {"category": f"c{n % 4}", "module": f"m{n % 40}", "kind": "class" if n % 10 == 0 else "function"},
        )
        for n in range(400)
    ]
    vectors = rng.normal(size=(400, 8)).astype(np.float32)
    return Truth(tuple(documents), vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


class Exact:
    """Answers by brute force, all of it or only the first `most` answers."""

    def __init__(self, truth: Truth, name: str = "exact", most: int = 1_000) -> None:
        self.name, self.truth, self.most = name, truth, most

    def ask(self, vector, where, limit):
        rows = [
            i for i, d in enumerate(self.truth.documents) if all(d.metadata[k] == v for k, v in where.items())
        ]
        rows.sort(key=lambda i: -float(self.truth.vectors[i] @ vector))
        return [self.truth.documents[i].id for i in rows[: min(limit, self.most)]]

    def how(self, vector, where, limit):
        return "brute force"


def test_exact_answers_are_right_and_others_are_not(truth):
    asked = Asked(truth.vectors[5], {"category": "c1"})
    exact = Exact(truth).ask(asked.vector, asked.where, 10)
    assert truth.judge(asked, exact) == (10, 10)
    assert truth.judge(asked, exact[:4]) == (4, 10)
    assert truth.judge(asked, [*exact[:9], exact[0]]) == (9, 10)
    assert truth.judge(asked, ["d0", "nonsense"]) == (0, 10)


def test_fewer_matches_make_fewer_possible_answers(truth):
    asked = Asked(truth.vectors[0], {"module": "m0", "kind": "class"})
    assert truth.judge(asked, [d.id for d in truth.documents]) == (10, 10)
    none = Asked(truth.vectors[0], {"module": "m1", "kind": "class"})
    assert truth.judge(none, ["d1"]) == (0, 0)


def test_equally_close_documents_are_equally_right():
    documents = tuple(Document(f"d{n}", "", {"category": "c", "module": "m", "kind": "k"}) for n in range(12))
    same = Truth(documents, np.ones((12, 2), dtype=np.float32))
    assert same.judge(Asked(np.ones(2, dtype=np.float32), {}), [f"d{n}" for n in range(2, 12)]) == (10, 10)


def test_cases_keep_the_promised_share(truth):
    questions = questions_for(truth.documents, 30)
    made = cases(truth, questions, truth.vectors[:30])
    shares = {case.name: [len(truth.matching(a.where)) / 400 for a in case.asked] for case in made}
    assert set(shares["no filter"]) == {1.0}
    assert set(shares["category"]) == {0.25}
    assert all(0.05 <= share <= 0.2 for share in shares["about 10 % of all"])
    own = {case.name: [a.where.get("category") for a in case.asked] for case in made}
    assert all(a != b for a, b in zip(own["category"], own["another category"], strict=True))


def test_one_category_has_no_other(truth):
    documents = tuple(Document(d.id, d.text, {**d.metadata, "category": "only"}) for d in truth.documents)
    alone = Truth(documents, truth.vectors)
    names = [case.name for case in cases(alone, questions_for(documents, 5), truth.vectors[:5])]
    assert "another category" not in names


def test_measuring_tells_a_short_way_from_a_full_one(truth):
    questions = questions_for(truth.documents, 20)
    made = cases(truth, questions, truth.vectors[:20])
    seen = []
    results = measure(truth, made, [Exact(truth), Exact(truth, "half", 5)], lambda *step: seen.append(step))
    for result in results:
        full, half = result.way("exact"), result.way("half")
        assert (full.recall, full.short, full.found) == (1.0, 0.0, result.possible)
        assert half.found == 5.0
        assert (half.short, half.recall) == (1.0, pytest.approx(5 / result.possible))
        assert half.how == {"brute force": 20}
    assert seen[-1] == (20 * len(made), 20 * len(made))


def result(name: str, shared: float, tuned: float, routed: float, *, ms: float = 1.0) -> CaseResult:
    def way(label: str, recall: float) -> Measured:
        return Measured(label, 10 * recall, 1.0 - recall, recall, ms, {"HNSW": 3, "scan": 1})

    return CaseResult(name, "", 4, 50, 10.0, (way(SHARED, shared), way(TUNED, tuned), way(ROUTED, routed)))


def test_the_verdict_says_what_was_measured():
    told = verdict((result("no filter", 0.98, 0.98, 1.0), result("category", 0.3, 0.97, 1.0)))
    assert told[0].startswith("Without a filter one index is the better choice at this size: recall 0.980")
    assert "“category” the shared index with defaults found 3.0 of 10.0 answers; 70 %" in told[1]
    assert "recall 0.970 or more" in told[2]
    assert told[3] == "Routed, with nothing tuned: every answer there is, recall 1.000 under every filter."


def test_the_verdict_praises_no_one_without_cause():
    told = verdict((result("no filter", 0.5, 0.5, 1.0), result("category", 1.0, 1.0, 0.6)))
    assert told[0].startswith("Without a filter: one index recall 0.500")
    assert told[1] == "With filters the shared index with defaults answered in full on this corpus."
    assert "all but 40.0 % of answers in full, recall 0.600 or more" in told[3]


@given(st.floats(0, 20), st.integers(1, 30))
def test_a_bar_keeps_its_width_and_grows(value, width):
    drawn = bar(value, 10, width)
    assert len(drawn) == width
    assert len(drawn.strip()) <= len(bar(value + 1, 10, width).strip())


def printed(thing: object) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    with console.file:
        console.print(thing)
    return console.export_text()


def test_the_table_fits_into_a_hundred_columns():
    wide = result("about 0.1 % of all", 0.08, 0.986, 1.0, ms=12.345)
    text = printed(figures((wide,)))
    assert "…" not in text
    assert "0.986" in text
    assert "75 % HNSW, 25 % scan" in text


def test_the_multiple_says_how_much_longer_the_routed_way_takes():
    slow = result("no filter", 1.0, 1.0, 1.0)
    ways = [replace(way, median_ms=ms) for way, ms in zip(slow.ways, (1.0, 20.0, 18.0), strict=True)]
    above, head, *rows = printed(figures((replace(slow, ways=tuple(ways)),))).splitlines()
    assert (above.split(), head.split()[-2]) == (["SVR"], "takes")
    assert "18 x" in rows[0]
    assert "0.9 x" in rows[1]
    assert " x " not in rows[2]


def test_the_commands_to_go_on_with_work_without_activating(tmp_path, monkeypatch):
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    own = bin_folder / "svr"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(bin_folder / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    assert command() == ".venv/bin/svr"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command() == str(own)
    monkeypatch.setenv("PATH", str(bin_folder))
    assert command() == "svr"
    own.unlink()
    assert command() == "svr"


def test_each_folder_has_a_place_of_its_own(tmp_path):
    assert Options().place == "svr_demo"
    one, other = Options(tmp_path / "a" / "My Notes"), Options(tmp_path / "b" / "My Notes")
    assert one.place.startswith("svr_demo_my_notes_")
    assert one.place != other.place
    assert Options(tmp_path / "a" / ".." / "a" / "My Notes").place == one.place


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0 categories"), (1, "1 category"), (1_200, "1,200 categories")]
)
def test_counts_are_told_in_good_grammar(count, told):
    assert counted(count, "category", "categories") == told


def test_the_map_shows_the_largest_partition_first_and_in_full():
    parts = [
        Partition(
            n,
            f"category=[{name}]",
            PartitionKey("field", name),
            stats=PartitionStats(rows=rows, indexed=n == 2),
        )
        for n, (name, rows) in enumerate([("a", 5), ("empty", 0), ("b", 2_500)])
    ]
    lines = printed(partition_table(PartitionMap(1, parts))).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["category=[b]", "category=[a]", "category=[empty]"]
    assert "2,500" in lines[1]
    assert "HNSW" in lines[1]
    assert "exactly" in lines[2]


def test_figures_survive_json():
    from svr_retrievers.demo.run import _case_json

    told = json.loads(json.dumps(_case_json(result("category", 0.3, 0.97, 1.0))))
    assert told["ways"][ROUTED]["recall"] == 1.0
    assert told["ways"][SHARED]["how"] == {"HNSW": 3, "scan": 1}
    assert set(told) == {"name", "detail", "questions", "median_matches", "possible", "ways"}


def test_the_picture_is_well_formed_and_to_scale():
    from types import SimpleNamespace

    from svr_retrievers.demo.picture import PANEL, svg

    findings = SimpleNamespace(
        results=(result("a < b & c", 0.25, 0.97, 1.0),),
        documents=1_234,
        questions=4,
        versions={"postgresql": "18"},
    )
    drawn = svg(findings)
    root = ET.fromstring(drawn)
    space = "{http://www.w3.org/2000/svg}"
    texts = [t.text for t in root.iter(f"{space}text")]
    assert "a < b & c" in texts
    assert any("1,234 passages" in (t or "") for t in texts)
    assert any("recall 0.97 or more" in (t or "") for t in texts)
    widths = sorted(
        float(r.get("width"))
        for r in root.iter(f"{space}rect")
        if r.get("fill") and float(r.get("width")) > 12
    )
    assert widths == [PANEL * 0.25, PANEL * 0.25, PANEL, PANEL]
