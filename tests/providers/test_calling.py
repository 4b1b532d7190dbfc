"""How any SDK is called: from every loop and thread, after a fork, with whatever exceptions it raises."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import threading
import traceback
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from svr_retrievers.errors import CalledFromLoop, InputError, ProviderFailed, RerankFailed
from svr_retrievers.providers.calling import Account, RetryPolicy
from svr_retrievers.providers.failures import read_failure, retry_after
from svr_retrievers.providers.home import at_home, home, waited
from svr_retrievers.providers.limits import Limits
from svr_retrievers.providers.sdk import Sdk
from svr_retrievers.testing.clock import FakeTime
from tests.providers.conftest import KEY, Stage

pytestmark = pytest.mark.providers


class Client:
    """An SDK's client that remembers its loop, and refuses another: as connection pools do."""

    made: list[Client]

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed = False

    async def say(self, word: str) -> str:
        assert asyncio.get_running_loop() is self.loop
        await asyncio.sleep(0)
        return word

    async def aclose(self) -> None:
        assert asyncio.get_running_loop() is self.loop
        self.closed = True


def account(made: list[Client], **options) -> Account[Client]:
    def build() -> Client:
        made.append(Client())
        return made[-1]

    return Account("Test", Sdk(build, Client.aclose), **options)


# Loops and threads


def test_one_client_serves_all_loops_and_threads() -> None:
    made: list[Client] = []
    one = account(made)
    said = [asyncio.run(one.call(lambda c, n=n: c.say(f"{n}"))) for n in range(3)]
    threads = [
        threading.Thread(target=lambda n=n: said.append(one.blocking(lambda c: c.say(f"{n}"))))
        for n in range(3, 6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(said) == list("012345")
    assert len(made) == 1
    assert one.meter.usage.requests == 6


async def test_a_blocking_call_on_somebody_s_loop_ends() -> None:
    """It holds that loop up, as any blocking call does, and waits for no one there."""
    assert account([]).blocking(lambda c: c.say("a")) == "a"


def test_a_blocking_call_on_the_common_loop_is_refused_at_once() -> None:
    async def inside() -> str:
        return account([]).blocking(lambda c: c.say("a"))

    with pytest.raises(CalledFromLoop, match="blocking call"):
        waited(inside())


async def test_cancelling_the_caller_cancels_the_call() -> None:
    began, ended = threading.Event(), threading.Event()

    async def stuck(_: Client) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(account([]).call(stuck))
    await asyncio.to_thread(began.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await asyncio.to_thread(ended.wait, 30)


async def test_closing_closes_the_client_and_a_later_call_opens_another() -> None:
    made: list[Client] = []
    one = account(made)
    await one.aclose()
    await one.call(lambda c: c.say("a"))
    await one.aclose()
    await one.aclose()
    await one.call(lambda c: c.say("a"))
    await asyncio.to_thread(one.close)

    assert [client.closed for client in made] == [True, True]


def test_a_forgotten_account_closes_its_client() -> None:
    made: list[Client] = []
    one = account(made)
    one.blocking(lambda c: c.say("a"))
    del one
    gc.collect()
    waited(asyncio.sleep(0))  # whatever was submitted before has run by now

    assert made[0].closed


def _in_child(queue: multiprocessing.Queue[object], one: Account[Client]) -> None:
    queue.put(one.blocking(lambda c: c.say("child")))


def test_after_a_fork_the_child_has_a_loop_and_a_client_of_its_own() -> None:
    one = account([])
    assert one.blocking(lambda c: c.say("parent")) == "parent"
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads: what this is about
        child = context.Process(target=_in_child, args=(queue, one))
        child.start()
    answer = queue.get(timeout=60)
    child.join()

    assert answer == "child"
    assert one.blocking(lambda c: c.say("still")) == "still"


async def test_the_common_loop_runs_what_is_there_already_in_place() -> None:
    async def nested() -> bool:
        return await at_home(asyncio.sleep(0, home().here))

    assert await at_home(nested())


# What is repeated


class Refused(Exception):
    def __init__(
        self, status: int | None = None, headers: dict[str, str] | None = None, **more: object
    ) -> None:
        super().__init__("refused")
        if status is not None:
            self.status_code = status
        self.headers = headers or {}
        vars(self).update(more)


async def tried(errors: list[BaseException], **policy) -> tuple[object, int, list[float]]:
    """The outcome of a call that raises these errors first, the attempts, and the waits."""
    time, attempts, left = FakeTime(), 0, list(errors)

    async def attempt(_: Client) -> str:
        nonlocal attempts
        attempts += 1
        if left:
            raise left.pop(0)
        return "good"

    one = account([], timing=time.timing, retry=RetryPolicy(**policy), error=RerankFailed)
    try:
        outcome: object = await one.call(attempt)
    except ProviderFailed as error:
        outcome = error
    return outcome, attempts, time.slept


@given(st.integers(1, 8), st.integers(0, 8))
def test_attempts_are_exactly_those_configured(most: int, failures: int) -> None:
    outcome, attempts, slept = asyncio.run(tried([Refused(503) for _ in range(failures)], attempts=most))

    assert attempts == min(most, failures + 1)
    assert len(slept) == attempts - 1
    assert (outcome == "good") == (failures < most)


@pytest.mark.parametrize(
    ("error", "reason", "again"),
    [
        (Refused(500), "unavailable", True),
        (Refused(501), "unavailable", False),
        (Refused(429), "limited", True),
        (Refused(413), "request", False),
        (TimeoutError(), "timeout", True),
        (ConnectionResetError("reset by peer"), "unavailable", True),
        (OSError(101, "Network is unreachable"), "unavailable", True),
        (ValueError("no JSON"), "answer", False),
        (KeyError("data"), "answer", False),
        (Refused(200), "answer", False),
        (RuntimeError("the SDK broke"), "failed", False),
        (ZeroDivisionError(), "failed", False),
    ],
    ids=repr,
)
async def test_what_is_tried_again_and_what_it_is_called(error: Exception, reason: str, again: bool) -> None:
    outcome, attempts, _ = await tried([error, error], attempts=2)

    assert isinstance(outcome, RerankFailed)
    assert (outcome.reason, attempts) == (reason, 2 if again else 1)


async def test_cancellation_and_the_package_s_own_errors_pass_through() -> None:
    with pytest.raises(InputError):
        await tried([InputError("wrong use")])
    with pytest.raises(asyncio.CancelledError):
        await tried([asyncio.CancelledError()])


@given(st.integers(1, 40), st.floats(0, 1, exclude_max=True), st.one_of(st.none(), st.floats(0, 1e9)))
def test_waits_stay_within_their_caps(failed: int, draw: float, asked: float | None) -> None:
    policy = RetryPolicy(base_seconds=0.5, max_wait_seconds=20, retry_after_cap_seconds=60)
    wait = policy.wait_seconds(failed, asked, draw)

    assert 0 <= wait <= (20 if asked is None else 60)
    assert asked is None or wait == min(asked, 60)


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"attempts": 1.5},
        {"base_seconds": -1},
        {"timeout_seconds": 0},
        {"deadline_seconds": float("nan")},
        {"retry_after_cap_seconds": -0.1},
        {"base_seconds": "x"},
        {"timeout_seconds": None},
        {"attempts": True},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        RetryPolicy(**wrong)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3),
        ({"RETRY-AFTER": "0"}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:09 GMT"}, 9),
        ({"retry-after": "Thu, 01 Jan 2026 01:00:09 +0100"}, 9),
        ({"retry-after": "Wed, 31 Dec 2025 00:00:00 GMT"}, 0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "next week"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, wall=1_767_225_600.0) == seconds


def test_the_provider_s_own_words_are_found_wherever_they_stand() -> None:
    bodies: list[object] = [
        {"error": {"message": "its words"}},
        {"detail": "its words"},
        {"message": "its words"},
        {"error": "its words"},
    ]
    for body in bodies:
        assert read_failure(Refused(400, body=body), wall=0).message == "its words"
    assert read_failure(Refused(400, body={"detail": [{"loc": "a"}]}), wall=0).message == '[{"loc": "a"}]'
    assert read_failure(Refused(400, body={"other": 1}), wall=0).message == "refused"
    assert len(read_failure(Refused(400, body={"detail": "x" * 9999}), wall=0).message) == 300


async def test_a_turn_that_comes_after_the_deadline_is_not_taken() -> None:
    time, attempts = FakeTime(), 0

    async def attempt(_: Client) -> None:
        nonlocal attempts
        attempts += 1
        raise Refused(503)

    limits = Limits(requests_per_minute=1, timing=time.timing)
    retry = RetryPolicy(attempts=5, deadline_seconds=70, base_seconds=0)
    one = account([], timing=time.timing, retry=retry, limits=limits)
    with pytest.raises(ProviderFailed) as caught:
        await one.call(attempt)

    assert (attempts, caught.value.attempts, caught.value.status) == (2, 2, 503)
    assert one.meter.usage.requests == 2


async def test_an_error_of_the_package_raised_within_an_attempt_is_told_as_the_account_s() -> None:
    async def attempt(_: Client) -> None:
        raise ProviderFailed("makes no sense", reason="answer")

    with pytest.raises(ProviderFailed) as caught:
        await account([]).call(attempt)

    assert (caught.value.provider, caught.value.attempts, caught.value.reason) == ("Test", 1, "answer")


async def test_a_key_in_the_provider_s_words_is_blotted_out() -> None:
    async def attempt(_: Client) -> None:
        raise Refused(401, body={"detail": f"bad key {KEY}"})

    with pytest.raises(ProviderFailed) as caught:
        await account([], key=SecretStr(KEY)).call(attempt)

    assert "bad key ***" in str(caught.value)


# Through a real SDK


def test_an_embedder_serves_one_loop_after_another(stage: Stage) -> None:
    embedder = stage.embedder(cache=False)
    for _ in range(3):
        assert len(asyncio.run(embedder.aembed_query("a"))) == 8
    assert len(embedder.embed_query("a")) == 8


async def test_threads_and_tasks_use_an_embedder_at_once(stage: Stage) -> None:
    embedder = stage.embedder(cache=False, concurrency=8)
    tasks = [embedder.aembed_query(f"task {n}") for n in range(10)]
    threads = [asyncio.to_thread(embedder.embed_query, f"thread {n}") for n in range(10)]
    made = await asyncio.gather(*tasks, *threads)

    assert len(stage.asked) == 20
    assert {len(row) for row in made} == {8}


async def test_no_local_of_a_frame_holds_the_key_that_a_server_repeats() -> None:
    async def refused(_: Client) -> str:
        raise ValueError(f"bad key {KEY}")

    with pytest.raises(ProviderFailed) as raised:
        await account([], key=SecretStr(KEY)).call(refused)
    told = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
    assert "bad key ***" in str(raised.value)
    assert KEY not in "".join(told.format()).replace(f"KEY = {KEY!r}", "")
