"""Asking a reranker: what it may be, what its answer must be, how long it may take."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from decimal import Decimal

import numpy as np
import pytest

import svr_retrievers.reranking
from svr_retrievers import errors
from svr_retrievers.reranking.protocol import check_reranker, name_of, scores
from svr_retrievers.reranking.threads import MOST, Threads

pytestmark = pytest.mark.rerank


class Lengths:
    """Longer texts are better."""

    name = "lengths"

    def __init__(self) -> None:
        self.threads: list[str] = []

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        self.threads.append(threading.current_thread().name)
        return [float(len(text)) for text in texts]


class Awaited:
    async def arerank(self, query: str, texts: Sequence[str]) -> list[float]:
        await asyncio.sleep(0)
        return [-float(len(text)) for text in texts]


class Both(Lengths, Awaited):
    pass


class Answers:
    """Answers what it is told to."""

    name = "odd"

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def rerank(self, query: str, texts: Sequence[str]) -> object:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


async def test_a_blocking_reranker_runs_beside_the_event_loop() -> None:
    reranker = Lengths()

    assert await scores(reranker, "q", ["a", "bbb"]) == [1.0, 3.0]
    assert reranker.threads[0].startswith("svr-rerank")


async def test_an_awaitable_one_is_awaited_and_preferred() -> None:
    both = Both()

    assert await scores(Awaited(), "q", ["a", "bbb"]) == [-1.0, -3.0]
    assert await scores(both, "q", ["a", "bbb"]) == [-1.0, -3.0]
    assert both.threads == []


async def test_without_texts_nothing_is_asked() -> None:
    reranker = Lengths()

    assert await scores(reranker, "q", []) == []
    assert reranker.threads == []


@pytest.mark.parametrize(
    "answer",
    [[1, 2], (1.0, 2.0), np.array([1, 2], np.float32), [np.float64(1), np.int8(2)], [Decimal(1), 2]],
    ids=["list", "tuple", "array", "numpy numbers", "a decimal"],
)
async def test_scores_may_be_any_sequence_of_numbers(answer: object) -> None:
    assert await scores(Answers(answer), "q", ["a", "b"]) == [1.0, 2.0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ([1.0], "1 scores for 2 texts"),
        ([1.0, 2.0, 3.0], "3 scores for 2 texts"),
        ([], "0 scores for 2 texts"),
        ([1.0, float("nan")], "not finite"),
        ([1.0, float("inf")], "not finite"),
        ([1.0, None], "not finite"),
        (None, "0 dimensions"),
        ([[1.0], [2.0]], "2 dimensions"),
        (["a", "b"], "other than numbers"),
        (["1", "2"], "other than numbers"),
        ([Decimal(1), "2"], "other than numbers"),
        (np.array(["1", "2"], dtype=object), "other than numbers"),
        ([True, 2], "other than numbers"),
        (np.array([True, False]), "other than numbers"),
        (np.array(["2026-01-01", "2026-01-02"], dtype="datetime64[D]"), "other than numbers"),
        ([np.timedelta64(1), np.timedelta64(2)], "other than numbers"),
        ([1j, 2j], "other than numbers"),
        ([[1.0], [2.0, 3.0]], "other than numbers"),
        ({0: 1.0, 1: 2.0}, "other than numbers"),
        ((x for x in (1.0, 2.0)), "other than numbers"),
    ],
)
async def test_anything_else_is_refused(answer: object, told: str) -> None:
    with pytest.raises(errors.RerankFailed, match=told) as caught:
        await scores(Answers(answer), "q", ["a", "b"])  # type: ignore[arg-type]

    assert caught.value.reason == "answer"
    assert caught.value.provider == "odd"


@pytest.mark.parametrize("error", [ValueError("sk-secret"), StopIteration(1), TimeoutError(), KeyError("x")])
async def test_the_error_of_a_reranker_is_named_but_not_repeated(error: Exception) -> None:
    """Its message may hold what no log should."""
    with pytest.raises(errors.RerankFailed) as caught:
        await scores(Answers(error), "q", ["a"])  # type: ignore[arg-type]

    assert "sk-secret" not in str(caught.value)
    assert caught.value.reason == "failed"
    assert caught.value.__cause__ is not None


async def test_errors_of_the_package_pass_as_they_are() -> None:
    error = errors.RerankFailed("No more today.", reason="limited", provider="voyage")

    with pytest.raises(errors.RerankFailed) as caught:
        await scores(Answers(error), "q", ["a"])  # type: ignore[arg-type]

    assert caught.value is error


class Stuck:
    """Answers when it is let go."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.asked = threading.Semaphore(0)
        self.ended: list[str] = []

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        self.asked.release()
        assert self.free.wait(30)
        self.ended.append(query)
        return [0.0 for _ in texts]


class Never:
    """Waits, and remembers how that ended."""

    name = "never"

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.ended = ""

    async def arerank(self, query: str, texts: Sequence[str]) -> list[float]:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        raise AssertionError


async def test_a_late_blocking_reranker_is_left_to_its_thread() -> None:
    reranker = Stuck()
    try:
        with pytest.raises(errors.RerankFailed, match=r"did not answer within 0\.01 s") as caught:
            await scores(reranker, "q", ["a"], timeout_seconds=0.01)
    finally:
        reranker.free.set()

    assert caught.value.reason == "timeout"


async def test_a_late_awaitable_one_is_cancelled() -> None:
    reranker = Never()
    with pytest.raises(errors.RerankFailed, match=r"never did not answer within 0\.01 s"):
        await scores(reranker, "q", ["a"], timeout_seconds=0.01)

    assert reranker.ended == "cancelled"


async def test_cancelling_the_caller_cancels_the_reranker() -> None:
    reranker = Never()
    task = asyncio.create_task(scores(reranker, "q", ["a"]))
    await reranker.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert reranker.ended == "cancelled"
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_many_late_rerankers_stay_few_threads_and_those_that_waited_never_run() -> None:
    reranker = Stuck()
    many = [asyncio.create_task(scores(reranker, str(n), ["a"])) for n in range(3 * MOST)]
    for _ in range(MOST):
        await asyncio.to_thread(reranker.asked.acquire)
    for task in many:
        task.cancel()
    await asyncio.gather(*many, return_exceptions=True)
    running = [t for t in threading.enumerate() if t.name.startswith("svr-rerank")]
    reranker.free.set()

    assert await scores(Lengths(), "q", ["four"]) == [4.0]
    assert len(running) <= MOST
    assert len(reranker.ended) <= MOST


@pytest.mark.parametrize("what", [Lengths, "voyage", 7, object(), [Lengths()]])
def test_something_else_is_no_reranker(what: object) -> None:
    with pytest.raises(errors.InputError, match=r"rerank\(query, texts\)"):
        check_reranker(what)


def test_a_function_that_makes_a_reranker_wants_to_be_called() -> None:
    def makes_one() -> Lengths:
        return Lengths()

    for given in (makes_one, Lengths().rerank):
        with pytest.raises(errors.InputError, match=r"is the function .* Call it") as caught:
            check_reranker(given)
    assert "rerank()" in caught.value.hint


def test_a_coroutine_function_must_be_named_so() -> None:
    class Misnamed:
        async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
            return [0.0 for _ in texts]

    with pytest.raises(errors.InputError, match="arerank"):
        check_reranker(Misnamed())


def test_a_reranker_is_called_by_its_name_or_its_class() -> None:
    class Nameless:
        def __repr__(self) -> str:
            return "sk-secret"

    assert name_of(Lengths()) == "lengths"
    assert name_of(Nameless()) == "Nameless"
    assert name_of(Answers(None)) == "odd"


async def test_what_would_end_the_program_is_an_error_of_the_reranker() -> None:
    with pytest.raises(errors.RerankFailed) as caught:
        await scores(Answers(SystemExit(3)), "q", ["a"])  # type: ignore[arg-type]

    assert str(caught.value.__cause__) == "SystemExit"


async def test_a_reranker_that_gives_up_its_own_task_cancels_nobody_else() -> None:
    class GivesUp:
        async def arerank(self, query: str, texts: Sequence[str]) -> list[float]:
            inner = asyncio.ensure_future(asyncio.sleep(60))
            inner.cancel()
            await inner
            return [1.0]

    with pytest.raises(errors.RerankFailed) as raised:
        await scores(GivesUp(), "q", ["a"])
    assert isinstance(raised.value.__cause__, RuntimeError)


async def test_a_name_that_cannot_be_read_is_none() -> None:
    class Nameless(Lengths):
        @property
        def name(self) -> str:
            raise RuntimeError

    assert await scores(Nameless(), "q", ["abc"]) == [3.0]
    assert name_of(Nameless()) == "Nameless"


async def test_a_reranker_sees_the_context_of_its_caller() -> None:
    seen: list[str] = []
    trace: ContextVar[str] = ContextVar("trace")

    class Sees:
        def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
            seen.append(trace.get())
            return [0.0 for _ in texts]

    trace.set("a search")
    await scores(Sees(), "q", ["a"])

    assert seen == ["a search"]


def test_threads_are_started_as_needed_and_used_again() -> None:
    threads = Threads()
    names = [threads.submit(lambda: threading.current_thread().name) for _ in range(200)]
    ran = {future.result(30)[0] for future in names}
    gate = threading.Barrier(MOST)
    together = [threads.submit(gate.wait) for _ in range(MOST)]

    assert len(ran) <= MOST
    assert sorted(future.result(30)[0] for future in together) == list(range(MOST))  # type: ignore[type-var]


def test_the_package_names_what_it_lacks() -> None:
    with pytest.raises(AttributeError, match="NoSuchReranker"):
        _ = svr_retrievers.reranking.NoSuchReranker


def run(program: str) -> str:
    """What a program of its own prints, which has to end by itself and well."""
    asked = [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        program,
    ]  # forking beside threads warns
    ended = subprocess.run(asked, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_stuck_reranker_does_not_keep_the_interpreter_alive() -> None:
    program = """
import asyncio, threading
from svr_retrievers.errors import RerankFailed
from svr_retrievers.reranking import scores

class Stuck:
    def rerank(self, query, texts):
        threading.Event().wait()

try:
    asyncio.run(scores(Stuck(), "q", ["a"], timeout_seconds=0.01))
except RerankFailed as error:
    print(error.reason)
"""

    assert run(program) == "timeout\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_has_threads_of_its_own() -> None:
    program = """
import asyncio, os
from svr_retrievers.reranking import scores

class Lengths:
    def rerank(self, query, texts):
        return [len(text) for text in texts]

def ask():
    return asyncio.run(scores(Lengths(), "q", ["abc"], timeout_seconds=20))

ask()
child = os.fork()
if child == 0:
    try:
        os._exit(0 if ask() == [3.0] else 1)
    finally:
        os._exit(2)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

    assert run(program) == "0\n"
