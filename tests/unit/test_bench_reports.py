"""What the benchmark reports: verdicts, records, the table, the picture; and how it asks in turn."""

from __future__ import annotations

import io
import json
import sys
import textwrap
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from rich.console import Console

from svr_retrievers.bench import machine, picture, table
from svr_retrievers.bench.data import corpus, nearest
from svr_retrievers.bench.peers import PACKAGES, PeerUnavailable, peer, write_data
from svr_retrievers.bench.record import Check, Finding, Record, rounded
from svr_retrievers.bench.rows import ROWS, chosen
from svr_retrievers.bench.run import Run
from svr_retrievers.bench.sizes import SMALL
from svr_retrievers.bench.timing import Asked, interleave
from svr_retrievers.errors import InputError

ISSUED = ["1", "2", "3", "4", "5", "6", "6b", "7", "8", "9", "10", "11", "12", "13", "14"]


@pytest.mark.parametrize(
    ("check", "goal", "met"),
    [
        (Check("a", 0.5, least=0.5), ">= 0.5", True),
        (Check("a", 0.49, least=0.5), ">= 0.5", False),
        (Check("a", 0.5, most=0.5), "<= 0.5", True),
        (Check("a", 0.51, most=0.5), "<= 0.5", False),
        (Check("a", 0.02, least=-0.01, most=0.03), ">= -0.01 and <= 0.03", True),
        (Check("a", 0.04, least=-0.01, most=0.03), ">= -0.01 and <= 0.03", False),
        (Check("a", float("nan"), least=0.1), ">= 0.1", False),
        (Check("a", 7.0), None, None),
    ],
)
def test_a_check_is_met_when_its_value_lies_within_its_goal(check, goal, met):
    assert check.goal == goal
    assert check.met is met


def record(*checks, missing=None, row="4"):
    facts = {**machine.facts(), "load_before": 0.5, "load_after": 0.7}
    return Record(row, "what <b>is</b> shown", Finding(checks, {"x": 1.5}, missing=missing or {}), facts, 1.0)


def test_a_record_is_met_only_when_all_of_it_was_measured_and_met():
    good, bad, told = Check("g", 2, least=1), Check("b", 0, least=1), Check("t", 9)

    assert record(good, told).met is True
    assert record(good, bad).met is False
    assert record(told).met is None
    assert record(good, missing={"peer": "why"}).met is None
    assert record(bad, missing={"peer": "why"}).met is False
    assert not record(good, missing={"peer": "why"}).measured


def test_a_record_says_everything_in_json():
    body = json.loads(json.dumps(record(Check("g", 2.00004, least=1), missing={"peer": "why"}).to_json()))

    assert body["value"] == {"g": 2.0}
    assert body["goal"] == {"g": ">= 1"}
    assert body["not_measured"] == {"peer": "why"}
    assert body["medians"] == {"x": 1.5}
    assert body["machine"]["cores"] >= 1
    assert body["machine"]["versions"]["python"]


def run_of(*records):
    return Run(SMALL, 7, records, {"fsync": "on"}, 3.0)


def test_the_table_shows_each_figure_and_each_gap():
    run = run_of(
        record(Check("recall", 0.98, least=0.97), Check("ratio", 2.0, most=1.0), missing={"peer": "not here"})
    )
    out = io.StringIO()
    table.show(run, Console(file=out, width=160))

    assert "0.98" in out.getvalue()
    assert "what <b>is</b> shown" in out.getvalue()
    assert "row 4: peer not measured: not here" in out.getvalue()
    assert "| 4 | what <b>is</b> shown | recall | 0.98 | >= 0.97 | yes |" in table.markdown(run)
    assert "|  |  | ratio | 2 | <= 1 | no |" in table.markdown(run)
    assert "|  |  | peer | not measured |" in table.markdown(run)


def test_the_picture_is_an_image_with_a_bar_for_each_figure_that_has_one_goal():
    run = run_of(
        record(Check("a < b", 0.9, least=0.97), Check("both", 0.0, least=-1, most=1), Check("told", 3))
    )
    root = ET.fromstring(picture.svg(run))
    bars = [e for e in root.iter() if e.tag.endswith("rect")]

    assert [bar.get("class") for bar in bars] == ["n"]
    assert any("a < b" in (e.text or "") for e in root.iter())


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (Check("a", 40, least=20), 2.0),
        (Check("a", 10, least=20), 0.5),
        (Check("a", 0.5, most=1.0), 2.0),
        (Check("a", 0.0, most=1.0), None),
        (Check("a", 1.0, least=0.0), None),
        (Check("a", 1.0, most=0.0), None),
        (Check("a", 1.0), None),
    ],
)
def test_headroom_is_how_many_times_better_than_the_goal(check, expected):
    assert picture.headroom(check) == expected


def test_rounding_keeps_four_digits():
    assert rounded(123456.0) == 123500.0
    assert rounded(0.000123456) == 0.0001235


def test_every_row_of_the_table_is_there_once_and_can_be_chosen():
    assert sorted(row.id for row in ROWS) == sorted(ISSUED)
    assert [row.id for row in chosen(["6b", "2"])] == ["2", "6b"]
    assert len(chosen([])) == len(ISSUED)
    with pytest.raises(InputError, match="no row '99'"):
        chosen(["99"])


def test_rows_that_write_come_after_those_that_only_ask():
    assert ROWS[-1].id == "12"


def test_interleaving_asks_each_system_each_query_in_every_round_and_in_changing_order():
    asked: list[tuple[str, int]] = []

    def system(name, answer):
        def ask(query):
            asked.append((name, query))
            return answer(query)

        return ask

    systems = {
        "right": system("right", lambda q: [q, q + 1]),
        "far": system("far", lambda q: Asked([q], 5.0)),
    }
    series = interleave(systems, np.arange(20, 60), seed=1, rounds=2)
    truth = [{q, q + 1} for q in range(60)]

    assert series["right"].recall(truth) == 1.0
    assert series["far"].recall(truth) == 0.5
    assert series["far"].short(truth) == 1.0
    assert series["right"].short(truth) == 0.0
    assert series["far"].p50 == series["far"].p95 == 5.0
    assert series["right"].p50 < 5.0
    for name in systems:
        for query in range(20, 60):
            assert asked.count((name, query)) >= 2
    firsts = {pair[0][0] for pair in zip(asked[24::2], asked[25::2], strict=True)}
    assert firsts == {"right", "far"}


def test_recall_counts_only_the_marked_queries_and_those_with_an_answer():
    series = interleave({"s": lambda q: [0]}, [0, 1, 2], seed=0)["s"]
    truth = [{0}, {1}, set()]

    assert series.recall(truth) == 0.5
    assert series.recall(truth, np.array([True, False, False])) == 1.0
    assert np.isnan(series.recall(truth, np.array([False, False, True])))


# Peers: stand-ins on the path of the worker's process


@pytest.fixture
def folder(tmp_path):
    write_data(tmp_path, corpus(300, 0, 5, seed=1, dimensions=32), 300)
    return tmp_path


def standing_in(folder, monkeypatch, module, body):
    (folder / f"{module}.py").write_text(textwrap.dedent(body))
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_peer_that_is_not_installed_says_what_to_install(folder, monkeypatch):
    standing_in(
        folder, monkeypatch, "chromadb", """raise ModuleNotFoundError("No module named 'chromadb'")"""
    )

    with (
        pytest.raises(PeerUnavailable, match=f"{PACKAGES['chroma']} is not installed .* --peers-python"),
        peer("chroma", sys.executable, folder),
    ):
        pytest.fail("it opened")


def test_a_peer_whose_process_dies_says_its_last_words(folder, monkeypatch):
    standing_in(folder, monkeypatch, "hnswlib", "import os\nos.write(2, b'out of luck\\n')\nos._exit(3)")

    with (
        pytest.raises(PeerUnavailable, match="its process ended: out of luck"),
        peer("hnswlib", sys.executable, folder),
    ):
        pytest.fail("it opened")


EXACT = """
    import numpy as np
    print("a library that prints must not disturb the answers")

    class Index:
        def __init__(self, space, dim): pass
        def init_index(self, **settings): pass
        def add_items(self, vectors): self.vectors = vectors
        def set_ef(self, ef): pass
        def knn_query(self, query, k, filter=None):
            scores = self.vectors @ query
            kept = [i for i in np.argsort(-scores) if filter is None or filter(i)]
            return np.array([kept[:k]]), None
"""


def test_a_peer_answers_with_rows_and_its_own_time(folder, monkeypatch):
    standing_in(folder, monkeypatch, "hnswlib", EXACT)
    made = corpus(300, 0, 5, seed=1, dimensions=32)

    with peer("hnswlib", sys.executable, folder) as other:
        plain = [other.ask(query) for query in range(5)]
        filtered = [other.ask(query, filtered=True) for query in range(5)]

    assert [set(a.ids) for a in plain] == nearest(made.rows, made.queries)
    assert [set(a.ids) for a in filtered] == nearest(made.rows, made.queries, "r100")
    assert all(a.milliseconds > 0 for a in plain)


def test_a_question_a_peer_cannot_answer_is_told_and_the_peer_goes_on(folder, monkeypatch):
    standing_in(folder, monkeypatch, "hnswlib", EXACT)

    with peer("hnswlib", sys.executable, folder) as other:
        with pytest.raises(PeerUnavailable, match="IndexError"):
            other.ask(999)
        assert len(other.ask(0).ids) == 10
