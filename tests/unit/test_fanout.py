"""Fan-out: its deadline, its bound on concurrency, its failure policies; no task outlives it."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from svr_retrievers.backends.protocol import Candidate, Page, StaleMap
from svr_retrievers.errors import BackendError, DeadlineExceeded, FilterError, PartitionFailed
from svr_retrievers.search.fanout import Answers, fan_out

SHARDS = [(1, 2), (3,), (4, 5)]


def page(shard) -> Page:
    return Page((Candidate("default", str(shard[0]), "", {}, 1, shard[0], float(shard[0])),), exact=True)


async def ask_all(ask, *, shards=SHARDS, timeout_seconds=30.0, concurrency=8, on_failure="fail") -> Answers:
    before = asyncio.all_tasks()
    try:
        return await fan_out(
            shards,
            ask,
            timeout_seconds=timeout_seconds,
            concurrency=concurrency,
            on_failure=on_failure,
            path_of=lambda p: f"p{p}",
        )
    finally:
        assert asyncio.all_tasks() == before


def failing(error, only=(3,)):
    async def ask(shard):
        await anyio.lowlevel.checkpoint()
        if only is None or shard == only:
            raise error
        return page(shard)

    return ask


def hanging(*stuck):
    """Answers all but the stuck shards, which wait for ever; says which of them were cancelled."""
    cancelled: list[tuple[int, ...]] = []

    async def ask(shard):
        if shard in stuck:
            try:
                await anyio.sleep_forever()
            except BaseException:
                cancelled.append(shard)
                raise
        return page(shard)

    return ask, cancelled


@pytest.mark.parametrize("shards", [SHARDS, [(1,)], [(i,) for i in range(50)], []])
async def test_every_shard_is_asked_once_and_answers(shards):
    asked = []

    async def ask(shard):
        asked.append(shard)
        return page(shard)

    answers = await ask_all(ask, shards=shards)
    assert sorted(asked) == sorted(shards)
    assert len(answers.pages) == len(shards)
    assert answers.exact
    assert not answers.failed
    assert not answers.late


@pytest.mark.parametrize("bound", [1, 2, 5])
async def test_at_most_so_many_are_in_flight_and_the_bound_is_used(bound):
    flying, most, full = 0, 0, anyio.Event()

    async def ask(shard):
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        if flying == bound:
            full.set()
        await full.wait()
        await anyio.lowlevel.checkpoint()
        flying -= 1
        return page(shard)

    answers = await ask_all(ask, shards=[(i,) for i in range(10)], concurrency=bound)
    assert most == bound
    assert len(answers.pages) == 10


@pytest.mark.parametrize("error", [BackendError("disk full"), RuntimeError("bug")])
async def test_fail_names_the_partitions_and_keeps_the_cause(error):
    with pytest.raises(PartitionFailed, match="p3") as caught:
        await ask_all(failing(error))
    assert caught.value.partitions == ("p3",)
    assert caught.value.__cause__ is error


async def test_fail_cancels_those_still_running():
    stuck, cancelled = hanging((1, 2), (4, 5))

    async def ask(shard):
        if shard == (3,):
            raise BackendError("gone")
        return await stuck(shard)

    with pytest.raises(PartitionFailed) as caught:
        await ask_all(ask)
    assert caught.value.partitions == ("p3",)
    assert sorted(cancelled) == [(1, 2), (4, 5)]


async def test_partial_returns_what_answered_and_lists_the_rest():
    error = BackendError("gone")
    answers = await ask_all(failing(error), on_failure="partial")
    assert answers.failed == {(3,): error}
    assert len(answers.pages) == 2
    assert answers.late == []


@pytest.mark.parametrize("policy", ["fail", "partial"])
async def test_when_nothing_answered_both_policies_raise(policy):
    with pytest.raises(PartitionFailed) as caught:
        await ask_all(failing(BackendError("gone"), only=None), on_failure=policy)
    assert isinstance(caught.value.__cause__, BackendError)
    stuck, cancelled = hanging(*SHARDS)
    with pytest.raises(DeadlineExceeded, match=r"0.01 s"):
        await ask_all(stuck, timeout_seconds=0.01, on_failure=policy)
    assert sorted(cancelled) == SHARDS


@pytest.mark.parametrize("policy", ["fail", "partial"])
async def test_a_single_shard_raises_its_own_error(policy):
    error = BackendError("disk full")
    with pytest.raises(BackendError) as caught:
        await ask_all(failing(error, only=None), shards=[(1, 2)], on_failure=policy)
    assert caught.value is error
    with pytest.raises(PartitionFailed) as wrapped:
        await ask_all(failing(RuntimeError("bug"), only=None), shards=[(1, 2)], on_failure=policy)
    assert wrapped.value.partitions == ("p1", "p2")


async def test_the_deadline_under_fail_names_what_is_missing():
    stuck, cancelled = hanging((4, 5))
    with pytest.raises(DeadlineExceeded, match="p4, p5"):
        await ask_all(stuck, timeout_seconds=0.02)
    assert cancelled == [(4, 5)]


async def test_the_deadline_under_partial_lists_the_late():
    stuck, cancelled = hanging((4, 5))
    answers = await ask_all(stuck, timeout_seconds=0.02, on_failure="partial")
    assert answers.late == [(4, 5)]
    assert len(answers.pages) == 2
    assert cancelled == [(4, 5)]


async def test_shards_that_never_got_their_turn_are_late_too():
    stuck, _ = hanging((1, 2))
    with pytest.raises(DeadlineExceeded):
        await ask_all(stuck, concurrency=1, timeout_seconds=0.02, on_failure="partial")
    stuck, _ = hanging((3,))
    answers = await ask_all(stuck, concurrency=1, timeout_seconds=0.02, on_failure="partial")
    assert answers.late == [(3,), (4, 5)]


async def test_a_shard_that_reports_the_deadline_itself_is_late():
    answers = await ask_all(failing(DeadlineExceeded("statement timeout")), on_failure="partial")
    assert answers.late == [(3,)]
    assert answers.failed == {}
    with pytest.raises(DeadlineExceeded, match="p3"):
        await ask_all(failing(DeadlineExceeded("statement timeout")), concurrency=1, shards=[(1, 2), (3,)])


@pytest.mark.parametrize("policy", ["fail", "partial"])
@pytest.mark.parametrize("error", [StaleMap(), FilterError("no such cast")])
async def test_a_stale_map_and_a_wrong_argument_are_raised_under_either_policy(policy, error):
    stuck, cancelled = hanging((1, 2))

    async def ask(shard):
        if shard == (3,):
            raise error
        return await stuck(shard)

    with pytest.raises(type(error)) as caught:
        await ask_all(ask, on_failure=policy)
    assert caught.value is error
    assert cancelled == [(1, 2)]


async def test_cancelling_the_caller_cancels_every_shard():
    stuck, cancelled = hanging(*SHARDS)
    with anyio.move_on_after(0.02) as scope:
        await ask_all(stuck)
    assert scope.cancelled_caught
    assert sorted(cancelled) == SHARDS


async def test_one_approximate_page_makes_the_whole_approximate():
    async def ask(shard):
        return Page((), exact=shard != (3,))

    assert not (await ask_all(ask)).exact


async def test_many_failures_are_listed_shortly():
    with pytest.raises(PartitionFailed, match="and more") as caught:
        await ask_all(
            failing(BackendError("x"), only=None),
            shards=[(i, i + 100) for i in range(4)],
            on_failure="partial",
        )
    assert len(caught.value.partitions) == 8
