"""Rate limits really limit: counted on a clock that is moved by hand."""

from __future__ import annotations

import asyncio
import itertools
import threading

import pytest

from svr_retrievers.errors import InputError
from svr_retrievers.providers.limits import Bucket, Limits, shared_limits
from svr_retrievers.providers.timing import REAL
from svr_retrievers.testing.clock import FakeTime

pytestmark = pytest.mark.providers


async def _run(bucket: Bucket, time: FakeTime, tasks: int, calls: int) -> list[float]:
    """When each call was let through, by so many tasks at once."""
    numbers = iter(range(calls))
    moments: list[float] = []

    async def worker() -> None:
        for _ in numbers:
            await bucket.take()
            moments.append(time.now)

    await asyncio.gather(*(worker() for _ in range(tasks)))
    return moments


async def test_two_hundred_calls_of_fifty_tasks_take_eighteen_seconds() -> None:
    time = FakeTime()
    moments = await _run(Bucket(10, 10, timing=time.timing), time, 50, 200)

    assert len(moments) == 200
    assert 18 <= moments[-1] - moments[0] <= 20


async def test_no_span_of_time_lets_more_through_than_burst_and_rate() -> None:
    time = FakeTime()
    moments = await _run(Bucket(10, 10, timing=time.timing), time, 50, 200)

    for first, last in itertools.combinations(range(0, 200, 3), 2):
        assert last - first + 1 <= 10 + 10 * (moments[last] - moments[first]) + 1e-3


def test_several_event_loops_share_a_bucket() -> None:
    time = FakeTime()
    bucket = Bucket(10, 10, timing=time.timing)
    start = time.now
    counts: list[int] = []

    def loop() -> None:
        counts.append(len(asyncio.run(_run(bucket, time, 5, 30))))

    threads = [threading.Thread(target=loop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert counts == [30] * 4
    assert time.now - start >= 11 - 1e-3


async def test_whoever_is_cancelled_in_line_takes_nothing() -> None:
    time = FakeTime()
    bucket = Bucket(1, 1, timing=time.timing)
    await bucket.take()
    ahead = asyncio.create_task(bucket.take(100))
    await asyncio.sleep(0)
    ahead.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ahead

    before = time.now
    await bucket.take()

    assert time.now - before <= 1 + 1e-3


async def test_first_come_first_served() -> None:
    time = FakeTime()
    bucket = Bucket(1, 1, timing=time.timing)
    order: list[int] = []

    async def take(number: int) -> None:
        await bucket.take()
        order.append(number)

    await asyncio.gather(*(take(number) for number in range(8)))

    assert order == list(range(8))


async def test_more_than_the_burst_waits_for_a_full_bucket_and_leaves_a_debt() -> None:
    time = FakeTime()
    bucket = Bucket(10, 10, timing=time.timing)
    await bucket.take(30)
    before = time.now
    await bucket.take(10)

    assert time.now - before == pytest.approx(3.0, abs=1e-3)


async def test_a_pause_holds_everybody() -> None:
    time = FakeTime()
    bucket = Bucket(10, 10, timing=time.timing)
    bucket.hold(30)
    before = time.now
    await asyncio.gather(*(bucket.take() for _ in range(5)))

    assert time.now - before == pytest.approx(30.4, abs=1e-3)


async def test_requests_inputs_and_tokens_are_counted_each() -> None:
    time = FakeTime()
    limits = Limits(requests_per_minute=600, inputs_per_minute=60, tokens_per_minute=6000, timing=time.timing)
    for _ in range(5):
        await limits.take(inputs=2, tokens=10)
    by_inputs = time.now
    await limits.take(inputs=1, tokens=1)
    before = time.now
    await limits.take(inputs=1, tokens=300)
    await limits.take(inputs=1, tokens=1)

    assert by_inputs - 1000 >= 8 - 1e-3
    assert time.now - before >= 2 - 1e-3
    assert repr(limits) == "Limits(600 requests, 60 inputs, 6,000 tokens a minute)"


async def test_no_limit_waits_for_nothing() -> None:
    assert await Limits().take(inputs=10**6, tokens=10**9) == 0.0
    assert repr(Limits()) == "Limits(none)"


def test_one_account_has_one_bucket() -> None:
    made = [
        shared_limits("p", key, "embed", timing=REAL, make=lambda: Limits(requests_per_minute=5))
        for key in ("a", "a", "b")
    ]

    assert made[0] is made[1]
    assert made[0] is not made[2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"requests_per_minute": 0},
        {"tokens_per_minute": -1},
        {"burst_seconds": 0},
        {"inputs_per_minute": float("nan")},
        {"requests_per_minute": True},
        {"requests_per_minute": "60"},
        {"burst_seconds": "1"},
        {"burst_seconds": None},
    ],
)
def test_rates_must_be_positive(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))} must be a positive number"):
        Limits(**wrong)
    with pytest.raises(InputError, match="positive"):
        Bucket(0, 1)
