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

from svr_retrievers.bench import curve, machine, picture, publish, study, table
from svr_retrievers.bench.data import corpus, nearest
from svr_retrievers.bench.peers import PACKAGES, SECONDS, PeerUnavailable, peer, write_data
from svr_retrievers.bench.record import Check, Finding, Record, rounded
from svr_retrievers.bench.report import Reporter
from svr_retrievers.bench.rows import ROWS, chosen, order
from svr_retrievers.bench.run import Run
from svr_retrievers.bench.sizes import LARGE, SMALL
from svr_retrievers.bench.timing import Asked, interleave
from svr_retrievers.errors import InputError

ISSUED = ["1", "2", "3", "4", "5", "6", "6b", "7", "8", "9", "10", "11", "12", "13", "14"]
BESIDE = ["D", "M", "P", "T1", "T2"]


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


def record(*checks, missing=None, absent=None, row="4", medians=None, information=False):
    facts = {**machine.facts(), "load_before": 0.5, "load_after": 0.7}
    facts["versions"] = {**facts["versions"], "postgresql": "18.4", "pgvector (server)": "0.8.5"}
    finding = Finding(checks, medians or {"x": 1.5}, ("a setting",), absent or {}, missing or {})
    return Record(row, "what <b>is</b> shown", finding, facts, 1.0, information)


def test_a_record_is_met_only_when_all_of_it_was_measured_and_met():
    good, bad, told = Check("g", 2, least=1), Check("b", 0, least=1), Check("t", 9)

    assert record(good, told).met is True
    assert record(good, bad).met is False
    assert record(told).met is None
    assert record(good, missing={"peer": "why"}).met is None
    assert record(bad, missing={"peer": "why"}).met is False


def test_a_store_that_is_not_here_can_be_passed_over_but_a_failure_cannot():
    good = Check("g", 2, least=1)
    gone, failed = record(good, absent={"peer": "why"}), record(good, missing={"part": "why"})
    beside = record(good, missing={"part": "why"}, information=True)

    assert not gone.measured()
    assert gone.measured(without_peers=True)
    assert not failed.measured(without_peers=True)
    assert [run_of(gone).complete(), run_of(gone).complete(without_peers=True)] == [False, True]
    assert not run_of(failed).complete(without_peers=True)
    assert run_of(record(good), beside).complete()
    assert gone.to_json()["not_measured"] == {"peer": "why"}


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
        (Check("recall", 0.98, least=0.96), 2.0),
        (Check("recall, 1 % filter", 0.9, least=0.95), 0.5),
        (Check("recall above another", 0.5, least=-0.01), None),
        (Check("a", 0.0, most=1.0), None),
        (Check("a", 1.0, least=0.0), None),
        (Check("a", 1.0, most=0.0), None),
        (Check("a", 1.0), None),
    ],
)
def test_headroom_is_how_many_times_better_than_the_goal(check, expected):
    assert picture.headroom(check) == (expected if expected is None else pytest.approx(expected))


SWEPT = {
    "one big index, defaults, ef_search 40": {"p50_ms": 1.0, "recall": 0.90},
    "one big index, defaults, ef_search 100": {"p50_ms": 2.0, "recall": 0.93},
    "one big index, defaults, ef_search 200": {"p50_ms": 3.0, "recall": 0.92},
    "one big index, well built, ef_search 40": {"p50_ms": 1.1, "recall": 0.95},
    "routed, recall_target 0.9, ef_search 40": {"p50_ms": 0.8, "recall": 0.97},
    "routed, recall_target 0.99, ef_search 40": {"p50_ms": 1.2, "recall": 0.99},
}


def elements(svg, tag):
    return [e for e in ET.fromstring(svg).iter() if e.tag.endswith(tag)]


def test_a_frontier_has_no_setting_that_another_beats_in_time_and_recall():
    points = [curve.Point(2, 0.9), curve.Point(1, 0.8), curve.Point(3, 0.85), curve.Point(1, 0.7)]

    assert curve.frontier(points) == [curve.Point(1, 0.8), curve.Point(2, 0.9)]


def test_the_curves_show_each_system_by_its_best_settings_better_ones_higher_and_further_left():
    swept = record(Check("g", 2, least=1), row="5", medians={curve.SWEPT: SWEPT})
    drawn = curve.curves(run_of(swept))
    labels = [e.text for e in elements(drawn, "text")]
    lines = [line.get("points").split() for line in elements(drawn, "polyline")]
    best, first = (tuple(map(float, lines[at][-1].split(","))) for at in (2, 0))

    assert [len(line) for line in lines] == [2, 1, 2]
    assert best[0] < first[0]
    assert best[1] < first[1]
    assert {"routed partitions", "one big index, ef_construction 200"} <= set(labels)
    assert curve.curves(run_of(record(row="4"))) is None


def test_the_bars_under_filters_are_as_long_as_the_recall_and_leave_out_other_filters():
    told = {"p50_ms": 1.0, "p95_ms": 2.0, "short": 3, "queries": 400}
    asked = {"iterative scan": told | {"recall": 0.5}, "routed, defaults": told | {"recall": 1.0}}
    wider = {"routed, defaults, 10 %": told | {"recall": 0.9}}
    rows = [record(row="6", medians=asked | wider), record(row="6b", medians=asked)]
    drawn = curve.filters(run_of(*rows))
    widths = [float(e.get("width")) for e in elements(drawn, "rect")]

    assert len(widths) == 4
    assert widths[1] == pytest.approx(2 * widths[0])
    assert any("3 of 400" in (e.text or "") for e in elements(drawn, "text"))
    assert curve.filters(run_of(rows[0])) is None


# Choosing settings

RECALL = {"a": 0.90, "b": 0.975, "c": 0.98, "d": 0.981}
COST = {"a": 1.0, "b": 3.0, "c": 2.5, "d": 9.0}


def test_the_cheapest_setting_that_reaches_the_goal_is_taken():
    assert study.cheapest(list(RECALL), RECALL, COST, 0.97) == "c"
    assert study.cheapest(list(RECALL), RECALL, COST, 0.9) == "a"


def test_out_of_reach_the_highest_recall_stands_for_a_system_but_not_beyond_what_time_still_buys():
    assert study.cheapest(list(RECALL), RECALL, COST, 0.99) == "d"
    big = {f"one big index, ef_search {ef}": ef / 1000 for ef in (100, 400, 800)}
    assert study.cheapest(list(big), big, big, 0.99) == "one big index, ef_search 400"


def test_the_best_within_the_time_of_another_or_the_cheapest_of_all():
    assert study.best_within(list(RECALL), RECALL, COST, 3.0) == "c"
    assert study.best_within(list(RECALL), RECALL, COST, 0.5) == "a"


def test_equal_recall_is_the_closest_that_does_not_pass():
    assert study.closest_below(list(RECALL), RECALL, COST, 0.976) == "b"
    assert study.closest_below(list(RECALL), RECALL, COST, 1.0) == "d"
    assert study.closest_below(list(RECALL), RECALL, COST, 0.5) == "a"


# Publishing


@pytest.fixture
def clone(tmp_path):
    for folder in ("docs/images", "benchmarks/results"):
        (tmp_path / folder).mkdir(parents=True)
    for page in ("README.md", "docs/benchmarks.md"):
        (tmp_path / page).write_text(f"before\n{publish.START}\nstale\n{publish.END}\nafter\n")
    return tmp_path


def results(clone, **changes):
    many = [Check(f"f{n}", float(n), least=1.5) for n in range(6)]
    run = run_of(
        record(Check("recall", 0.98, least=0.97), Check("told", 3.0), absent={"peer": "not here"}),
        record(*many, row="7"),
        record(Check("beside", 1.0), row="D", information=True),
    )
    file = clone / "benchmarks/results/small.json"
    file.write_text(json.dumps(run.to_json() | changes))
    file.with_name("small-recall.svg").write_text("<svg/>")
    return file


def test_publishing_puts_tables_between_the_markers_and_keeps_pictures_and_records(clone):
    publish.publish(results(clone), clone)
    readme, docs = (clone / "README.md").read_text(), (clone / "docs/benchmarks.md").read_text()

    assert readme.startswith(f"before\n{publish.START}\n20,000 vectors of 384 dimensions, seed 7")
    assert readme.endswith(f"{publish.END}\nafter\n")
    assert "stale" not in readme + docs
    assert "| 4 | what <b>is</b> shown | recall: 0.98 (>= 0.97); peer: not measured |  |" in readme
    assert "| 7 | what <b>is</b> shown | 4 of 6 figures at their goal | **no** |" in readme
    assert "beside" not in readme
    assert "| D | what <b>is</b> shown | beside | 1.0 |  |  |" in docs
    assert "|  |  | told | 3.0 |  |  |" in docs
    assert "- 4: a setting" in docs
    assert (clone / "docs/images/bench-recall.svg").read_text() == "<svg/>"
    assert json.loads((clone / "benchmarks/published.json").read_text())["seed"] == 7


def test_a_run_that_was_stopped_is_not_published(clone, capsys, monkeypatch):
    monkeypatch.chdir(clone)

    assert publish.main([str(results(clone, finished=False))]) == 1
    assert "did not finish" in capsys.readouterr().err
    assert "stale" in (clone / "README.md").read_text()


def test_without_a_marker_no_page_is_changed(clone):
    (clone / "docs/benchmarks.md").write_text(publish.START)

    with pytest.raises(InputError, match="has no <!-- bench:start -->"):
        publish.publish(results(clone), clone)
    assert "stale" in (clone / "README.md").read_text()


def test_a_log_gets_each_row_once_with_its_figures_and_their_sum_at_the_end():
    out, kept = io.StringIO(), []
    first, second = record(Check("recall", 0.9, least=0.97)), record(Check("g", 2.0), row="5")
    with Reporter(Console(file=out, width=200), kept.append) as reporter:
        reporter.say("filling [a] store")
        reporter.progress(run_of(first), 2)
        reporter.progress(run_of(first, second), 2)
    reporter.finished(run_of(first, second))
    told = out.getvalue()

    assert "  0:00 filling [a] store" in told
    assert told.count("recall: 0.9 (goal >= 0.97, not met)") == 1
    assert "0 of 1 figures at their goal" in told
    assert [len(run.records) for run in kept] == [1, 2, 2]


def test_rounding_keeps_four_digits():
    assert rounded(123456.0) == 123500.0
    assert rounded(0.000123456) == 0.0001235


def test_every_row_of_the_table_is_there_once_and_can_be_chosen():
    assert sorted(row.id for row in ROWS) == sorted(ISSUED + BESIDE)
    assert sorted(row.id for row in ROWS if row.information) == BESIDE
    assert {row.id for row in chosen(["6b", "2"], SMALL)} == {"2", "6b"}
    assert len(chosen([], LARGE)) == len(ISSUED) + len(BESIDE)
    assert "M" not in [row.id for row in chosen([], SMALL)]
    with pytest.raises(InputError, match="no row '99'"):
        chosen(["99"], SMALL)
    with pytest.raises(InputError, match="no row 'M' at size small"):
        chosen(["M"], SMALL)


def test_rows_are_shown_in_the_order_of_the_table_and_then_those_for_information():
    assert sorted((row.id for row in ROWS), key=order) == ISSUED + BESIDE


def test_the_row_that_writes_comes_after_those_that_ask_and_before_what_it_wrote_is_dropped():
    ran = [row.id for row in ROWS]
    asking = ["4", "5", "13", "D", "6", "6b", "2", "3", "7", "14", "P"]

    assert max(ran.index(row) for row in asking) < ran.index("12")
    assert [row.id for row in ROWS if row.releases_main] == ["9"]
    assert ran.index("9") > ran.index("12")


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
    told = series["far"].to_json(truth)
    assert [told["short"], told["queries"], told["recall"]] == [40, 40, 0.5]
    assert series["far"].p50 == series["far"].p95 == 5.0
    assert series["right"].p50 < 5.0
    for name in systems:
        for query in range(20, 60):
            assert asked.count((name, query)) >= 2
    firsts = {pair[0][0] for pair in zip(asked[20::2], asked[21::2], strict=True)}
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


def test_a_peer_that_hangs_is_stopped(folder, monkeypatch):
    standing_in(folder, monkeypatch, "hnswlib", "import os\nos.read(os.pipe()[0], 1)")
    monkeypatch.setitem(SECONDS, "open", 1.0)

    with (
        pytest.raises(PeerUnavailable, match="did not answer within 1 seconds"),
        peer("hnswlib", sys.executable, folder),
    ):
        pytest.fail("it opened")


def test_a_python_that_is_not_there_is_told(folder):
    with pytest.raises(PeerUnavailable, match="cannot be started"), peer("hnswlib", "/no/python", folder):
        pytest.fail("it opened")


EXACT = """
    import numpy as np
    print("a library that prints must not disturb the answers")

    class Index:
        def __init__(self, space, dim): pass
        def init_index(self, **settings): pass
        def add_items(self, vectors): self.vectors = vectors
        def set_ef(self, ef): pass
        def knn_query(self, query, k, num_threads=1, filter=None):
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
    assert other.opened_in > 0


def test_a_question_a_peer_cannot_answer_is_told_and_the_peer_goes_on(folder, monkeypatch):
    standing_in(folder, monkeypatch, "hnswlib", EXACT)

    with peer("hnswlib", sys.executable, folder) as other:
        with pytest.raises(PeerUnavailable, match="IndexError"):
            other.ask(999)
        assert len(other.ask(0).ids) == 10
