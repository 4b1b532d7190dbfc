"""A whole search over a scripted backend: widening, shortfalls and their causes, deadlines between stages."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import anyio
import numpy as np
import pytest

from svr_retrievers import by_field
from svr_retrievers.backends.protocol import Candidate, CollectionConfig, CollectionRef, MapState, Page, Query
from svr_retrievers.concurrency import NeedsLoop
from svr_retrievers.errors import BackendError, DeadlineExceeded, FilterError, InputError, PartitionFailed
from svr_retrievers.filters import parse
from svr_retrievers.model import Metric, Partition, PartitionKey, PartitionMap, PartitionStats
from svr_retrievers.routing.plan import Wish
from svr_retrievers.routing.probe import Calibration, Depth
from svr_retrievers.search.execute import Engine, run
from svr_retrievers.search.request import Request
from svr_retrievers.search.view import View

QUERY = np.array([1, 0], dtype=np.float32)


@dataclass
class Scripted:
    """Answers each partition with the rows it was given; a partition may fail or hang instead."""

    rows: dict[int, list[float]]
    fails: dict[int, Exception] = field(default_factory=dict)
    hangs: frozenset[int] = frozenset()
    approximate: bool = False
    asked: list[Query] = field(default_factory=list)

    def shards(self, ref, known, partitions):
        return [(p,) for p in partitions]

    async def search(self, ref, known, query):
        self.asked.append(query)
        (number,) = query.partitions
        if number in self.hangs:
            await anyio.sleep_forever()
        if number in self.fails:
            raise self.fails[number]
        found = sorted(
            (
                Candidate("default", f"{number}-{i}", "t", {"k": i}, 1, number, distance)
                for i, distance in enumerate(self.rows.get(number, []))
            ),
            key=lambda c: c.distance,
        )
        return Page(tuple(found[: query.limit]), exact=not self.approximate)


def view(count=3, calibration=None) -> View:
    parts = [
        Partition(
            i,
            f"cat={i}",
            PartitionKey("field", f"n:{i}"),
            stats=PartitionStats(9, np.array([[np.cos(i), np.sin(i)]], dtype=np.float32)),
        )
        for i in range(count)
    ]
    return View(MapState(PartitionMap(4, parts), calibration), Metric.COSINE)


async def search(backend, *, seen=None, seconds=30.0, **asked):
    request = Request(vector=QUERY, **asked).check()
    ref = CollectionRef(1, CollectionConfig("c", 2, scheme=by_field("cat")))
    wish = Wish(parse(request.filter, {}), partitions=request.partitions, nprobe=request.nprobe)
    engine = Engine(backend, ref, 4)
    return await run(engine, seen or view(), request, wish, QUERY, timeout_seconds=seconds)


async def test_hits_are_merged_and_translated():
    backend = Scripted({0: [0.3, 0.1], 1: [0.2], 2: []})
    result = await search(backend, limit=3)
    assert result.ids == ("0-1", "1-0", "0-0")
    assert result.incomplete is None
    assert [h.partition for h in result] == ["cat=0", "cat=1", "cat=0"]
    assert result[0].score == pytest.approx(0.9)
    assert result[0].relevance == pytest.approx(0.9)
    assert result.route.generation == 4
    assert not result.route.widened
    assert result.timings.total_ms >= result.timings.search_ms > 0


async def test_too_few_hits_in_the_closest_partitions_widen_to_the_rest():
    backend = Scripted({0: [0.3], 1: [0.2], 2: [0.1]})
    result = await search(backend, limit=3, nprobe=1)
    assert backend.asked[0].partitions == (0,)
    assert result.ids == ("2-0", "1-0", "0-0")
    assert result.route.widened
    assert result.route.complete
    assert result.route.estimated_recall == 1.0
    assert {p.reason for p in result.route.partitions[1:]} == {"too few matches in the closest ones"}
    assert result.incomplete is None


async def test_enough_hits_do_not_widen():
    backend = Scripted({0: [0.3, 0.2], 1: [0.1]})
    result = await search(backend, limit=2, nprobe=1)
    assert [q.partitions for q in backend.asked] == [(0,)]
    assert not result.route.widened
    assert result.route.paths == ("cat=0",)


async def test_few_matches_are_explained():
    result = await search(Scripted({0: [0.1]}), limit=5)
    assert result.incomplete is not None
    assert result.incomplete.code == "few_matches"
    assert "only 1" in result.incomplete.message
    filtered = await search(Scripted({0: [0.1]}), limit=5, filter={"lang": "en"})
    assert "filter" in filtered.incomplete.message
    named = await search(Scripted({0: [0.1]}), limit=5, partitions=["cat=0"])
    assert "partitions asked for" in named.incomplete.message


async def test_an_index_that_may_have_missed_matches_is_named():
    result = await search(Scripted({0: [0.1]}, approximate=True), limit=5)
    assert result.incomplete is not None
    assert result.incomplete.code == "approximate"
    full = await search(Scripted({0: [0.1]}, approximate=True), limit=1)
    assert full.incomplete is None


async def test_an_empty_collection_answers_without_asking():
    backend = Scripted({})
    result = await search(backend, seen=view(0))
    assert len(result) == 0
    assert result.incomplete is not None
    assert result.incomplete.message == "the collection is empty"
    assert backend.asked == []


async def test_what_the_filter_settles_is_not_asked_of_rows():
    backend = Scripted({1: [0.1]})
    await search(backend, filter={"cat": 1, "lang": "en"})
    assert [(q.partitions, q.filter) for q in backend.asked] == [((1,), parse({"lang": "en"}, {}))]


async def test_options_reach_the_backend():
    backend = Scripted({0: [0.1]})
    await search(
        backend, limit=1, exact=True, ef_search=77, with_vectors=True, partitions=["cat=0"], seconds=9.0
    )
    (query,) = backend.asked
    assert (query.limit, query.exact, query.ef_search, query.with_vectors) == (1, True, 77, True)
    assert query.timeout_seconds == 9.0


async def test_partial_names_failed_partitions_and_does_not_widen_past_them():
    backend = Scripted({0: [0.1], 1: [0.2]}, fails={2: BackendError("gone")})
    result = await search(backend, limit=5, on_failure="partial")
    assert result.ids == ("0-0", "1-0")
    assert result.incomplete is not None
    assert (result.incomplete.code, result.incomplete.partitions) == ("partition_failed", ("cat=2",))
    assert "gone" in str(result.incomplete)
    with pytest.raises(PartitionFailed):
        await search(backend, limit=5)


async def test_partial_names_late_partitions():
    backend = Scripted({0: [0.1], 1: [0.2]}, hangs=frozenset({2}))
    result = await search(backend, limit=5, on_failure="partial", seconds=0.05)
    assert result.incomplete is not None
    assert (result.incomplete.code, result.incomplete.partitions) == ("deadline", ("cat=2",))
    with pytest.raises(DeadlineExceeded):
        await search(backend, limit=5, seconds=0.05)


async def test_partial_keeps_what_was_found_when_the_wider_search_is_too_late():
    backend = Scripted({0: [0.1]}, hangs=frozenset({1, 2}))
    result = await search(backend, limit=5, nprobe=1, on_failure="partial", seconds=0.05)
    assert result.ids == ("0-0",)
    assert result.incomplete is not None
    assert result.incomplete.code == "deadline"
    assert set(result.incomplete.partitions) == {"cat=1", "cat=2"}
    assert not result.route.widened
    with pytest.raises(DeadlineExceeded):
        await search(backend, limit=5, nprobe=1, seconds=0.05)


async def test_partial_keeps_what_was_found_when_the_wider_search_fails():
    backend = Scripted({0: [0.1]}, fails={1: BackendError("gone"), 2: BackendError("gone")})
    result = await search(backend, limit=5, nprobe=1, on_failure="partial")
    assert result.ids == ("0-0",)
    assert result.incomplete is not None
    assert result.incomplete.code == "partition_failed"
    assert set(result.incomplete.partitions) == {"cat=1", "cat=2"}
    with pytest.raises(PartitionFailed):
        await search(backend, limit=5, nprobe=1)


async def test_partial_does_not_hide_a_wrong_argument_in_the_wider_search():
    backend = Scripted({0: [0.1]}, fails={1: FilterError("no such cast")})
    with pytest.raises(InputError, match="no such cast"):
        await search(backend, limit=5, nprobe=1, on_failure="partial")


async def test_time_spent_on_the_first_stage_counts_against_the_wider_one(monkeypatch):
    clock = iter([0.0, 0.0, 99.0, 99.0, 99.0])
    monkeypatch.setattr("svr_retrievers.search.execute.time.perf_counter", lambda: next(clock))
    with pytest.raises(DeadlineExceeded, match="30 s"):
        await search(Scripted({0: [0.1]}), limit=5, nprobe=1)


async def test_a_large_table_is_prepared_off_the_loop_with_the_same_route(monkeypatch):
    wish = Wish(nprobe=2)
    here = await view(5).route(by_field("cat"), wish, QUERY)
    monkeypatch.setattr("svr_retrievers.search.view._SLOW_FROM", 2)
    assert (await view(5).route(by_field("cat"), wish, QUERY)).route == here.route


def test_a_partition_the_map_does_not_know_is_shown_by_number():
    assert view().path(77) == "#77"


GOOD = {"vector": [1.0]}


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({}, "vector or text"),
        ({"vector": [1.0], "text": "a"}, "not both"),
        ({"text": 3}, "text"),
        ({"text": "a\x00"}, "NUL"),
        (GOOD | {"limit": 0}, "limit"),
        (GOOD | {"limit": 10_001}, "limit"),
        (GOOD | {"limit": True}, "limit"),
        (GOOD | {"limit": 1.0}, "limit"),
        (GOOD | {"namespace": ""}, "namespace"),
        (GOOD | {"nprobe": 0}, "nprobe"),
        (GOOD | {"nprobe": "3"}, "nprobe"),
        (GOOD | {"ef_search": 1001}, "ef_search"),
        (GOOD | {"recall_target": 0}, "recall_target"),
        (GOOD | {"recall_target": 1.01}, "recall_target"),
        (GOOD | {"recall_target": True}, "recall_target"),
        (GOOD | {"recall_target": float("nan")}, "recall_target"),
        (GOOD | {"timeout_seconds": 0}, "timeout_seconds"),
        (GOOD | {"timeout_seconds": float("inf")}, "timeout_seconds"),
        (GOOD | {"timeout_seconds": float("nan")}, "timeout_seconds"),
        (GOOD | {"timeout_seconds": True}, "timeout_seconds"),
        (GOOD | {"on_failure": "ignore"}, "on_failure"),
        (GOOD | {"exact": 1}, "exact"),
        (GOOD | {"with_vectors": "yes"}, "with_vectors"),
        (GOOD | {"partitions": "cat=a"}, "partitions"),
        (GOOD | {"partitions": 3}, "partitions"),
        (GOOD | {"partitions": []}, "partitions"),
        (GOOD | {"partitions": [3]}, "partitions"),
    ],
)
def test_a_wrong_request_is_refused_by_name(asked, word):
    with pytest.raises(InputError, match=word):
        Request(**asked).check()


def test_a_right_request_is_itself():
    request = Request(
        vector=[1.0],
        nprobe=1,
        ef_search=1,
        recall_target=1,
        timeout_seconds=1,
        partitions=("a",),
        on_failure="partial",
    )
    assert request.check() is request


async def test_a_recall_target_says_how_widely_each_index_is_searched():
    gains = {0.8: 0.4, 0.9: 0.2, 0.95: 0.1, 0.99: 0.01}
    depth = Depth(1.0, 20.0, 0.0, 0.0, gains, dict.fromkeys(gains, 1.5))
    seen = view(5, Calibration((depth,), 10, index={40: 0.97, 80: 0.999}))
    backend = Scripted({i: [0.1 * i] * 10 for i in range(5)})
    ref = CollectionRef(1, CollectionConfig("c", 2, scheme=by_field("cat")))
    for asked, used in ((None, 80), (33, 33)):
        request = Request([1.0, 0.0], recall_target=0.98, ef_search=asked)
        wish = Wish(recall_target=0.98, ef_search=asked)
        await run(Engine(backend, ref, 2), seen, request, wish, QUERY, timeout_seconds=5)
        assert {query.ef_search for query in backend.asked} == {used}
        backend.asked.clear()


@pytest.mark.parametrize(("target", "probes"), [(0.8, 1), (0.99, 4)])
async def test_a_collections_own_recall_target_holds_where_none_is_asked_for(target, probes):
    gains = {0.8: 0.6, 0.9: 0.2, 0.95: 0.1, 0.99: 0.001}
    depth = Depth(1.0, 3.0, 0.0, 0.0, gains, dict.fromkeys(gains, 1.5))
    config = CollectionConfig("c", 2, scheme=by_field("cat"), recall_target=target)
    engine = Engine(Scripted({}), CollectionRef(1, config), 2)
    seen = view(5, Calibration((depth,), 10))
    big = View(replace(seen.state, map=seen.map.with_rows(dict.fromkeys(range(5), 10_000))), Metric.COSINE)
    assert len((await engine.route(big, Wish(), QUERY)).route.partitions) >= probes
    asked = await engine.route(big, Wish(recall_target=0.8), QUERY)
    assert len(asked.route.partitions) <= probes


async def test_a_backend_that_needs_the_event_loop_is_not_taken_for_one_that_failed():
    with pytest.raises(NeedsLoop):
        await search(Scripted({}, fails={0: NeedsLoop()}), partitions=["cat=0"])
