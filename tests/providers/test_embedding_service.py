"""The service around any embedder: order, duplicates, single flight, concurrency, failures, and foreign embedders."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svr_retrievers import Document, SVRClient
from svr_retrievers.embedding import EmbeddingCache, EmbeddingService, Limits, check_embedder
from svr_retrievers.embedding.model import Batching, Made, estimated_tokens
from svr_retrievers.errors import EmbeddingFailed, InputError, SVRError
from svr_retrievers.providers.usage import Meter
from svr_retrievers.spaces import VectorSpace
from svr_retrievers.testing.clock import FakeTime

pytestmark = pytest.mark.providers
SPACE = VectorSpace("test", "lengths", 2)


def lengths(texts: Sequence[str]) -> np.ndarray:
    return np.array([[len(text), ord(text[0])] for text in texts], dtype=np.float32)


class Model:
    """Counts what it is asked; `gate`, where there is one, holds every call until it is opened."""

    label = "test/lengths"
    token = "test"
    batching = Batching(4)
    concurrency = 3
    asked = False

    def __init__(self) -> None:
        self.meter = Meter()
        self.space = SPACE
        self.calls: list[list[str]] = []
        self.now = self.most = 0
        self.gate: asyncio.Event | None = None
        self.began = asyncio.Event()
        self.failing: set[str] = set()

    def learn(self, dimensions: int) -> None:
        """Known already."""

    def inputs(self, kind: str) -> str:
        return kind

    async def embed(self, texts: Sequence[str], kind: str) -> Made:
        self.calls.append(list(texts))
        self.now += 1
        self.most = max(self.most, self.now)
        self.began.set()
        try:
            if self.gate is not None:
                await self.gate.wait()
            await asyncio.sleep(0)
            if self.failing & set(texts):
                raise EmbeddingFailed("no", reason="request", status=400, provider="test")
        finally:
            self.now -= 1
        return Made(lengths(texts))

    async def aclose(self) -> None:
        """Nothing to close."""


# Order, duplicates, batches


@given(st.lists(st.text("abc", min_size=1, max_size=5), max_size=40), st.integers(1, 9), st.integers(1, 4))
def test_one_vector_per_text_in_order(texts: list[str], size: int, concurrency: int) -> None:
    model = Model()
    service = EmbeddingService(model, batch_size=size, concurrency=concurrency)
    made = service.embed_documents(texts)

    np.testing.assert_array_equal(np.reshape(made, (-1, 2)), np.reshape(lengths(texts), (-1, 2)))
    asked = [text for call in model.calls for text in call]
    assert sorted(asked) == sorted(set(texts))
    assert all(len(call) <= size for call in model.calls)
    assert model.most <= concurrency


async def test_without_a_cache_equal_texts_of_a_call_are_still_embedded_once() -> None:
    model = Model()
    service = EmbeddingService(model, cache=False)
    await service.aembed_documents(["a", "b", "a", "a"])
    await service.aembed_documents(["a"])

    assert model.calls == [["a", "b"], ["a"]]


async def test_a_cached_text_is_not_asked_again_and_kinds_are_kept_apart() -> None:
    model = Model()
    service = EmbeddingService(model)
    await service.aembed_documents(["a", "b"])
    await service.aembed_documents(["b", "c"])
    await service.aembed_query("a")
    await service.aembed_query("a")

    assert model.calls == [["a", "b"], ["c"], ["a"]]
    assert (service.usage.texts, service.usage.from_cache) == (6, 2)


def test_vectors_of_the_cache_cannot_be_changed() -> None:
    service = EmbeddingService(Model())
    row = service.embed_query("abc")
    with pytest.raises(ValueError, match="read-only"):
        row[0] = 9

    assert service.embed_query("abc")[0] == 3


@given(st.text())
def test_tokens_are_guessed_on_the_high_side_of_a_quarter(text: str) -> None:
    assert estimated_tokens(text) >= len(text) // 4 + 1
    assert estimated_tokens("日本" * 50) >= 100


# Single flight


async def test_tasks_that_want_the_same_text_share_one_call() -> None:
    model = Model()
    model.gate = asyncio.Event()
    service = EmbeddingService(model, cache=False)
    tasks = [asyncio.create_task(service.aembed_query("a")) for _ in range(50)]
    await model.began.wait()
    model.gate.set()
    made = await asyncio.gather(*tasks)

    assert model.calls == [["a"]]
    assert all(row is made[0] for row in made)
    assert (service.usage.texts, service.usage.from_cache) == (50, 49)


async def test_overlapping_calls_each_get_all_of_theirs() -> None:
    model = Model()
    model.gate = asyncio.Event()
    service = EmbeddingService(model)
    first = asyncio.create_task(service.aembed_documents(["a", "b", "c"]))
    await model.began.wait()
    second = asyncio.create_task(service.aembed_documents(["d", "c", "b"]))
    await asyncio.sleep(0)
    model.gate.set()

    np.testing.assert_array_equal(await first, lengths(["a", "b", "c"]))
    np.testing.assert_array_equal(await second, lengths(["d", "c", "b"]))
    assert model.calls == [["a", "b", "c"], ["d"]]


async def test_when_the_one_at_work_is_cancelled_another_takes_over() -> None:
    model = Model()
    model.gate = asyncio.Event()
    service = EmbeddingService(model)
    first = asyncio.create_task(service.aembed_query("a"))
    await model.began.wait()
    others = [asyncio.create_task(service.aembed_query("a")) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    model.gate.set()
    made = await asyncio.gather(*others)

    assert len(made) == 5
    assert model.calls == [["a"], ["a"]]


async def test_cancelling_one_who_waits_disturbs_nobody() -> None:
    model = Model()
    model.gate = asyncio.Event()
    service = EmbeddingService(model)
    first = asyncio.create_task(service.aembed_query("a"))
    await model.began.wait()
    second = asyncio.create_task(service.aembed_query("a"))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    model.gate.set()

    assert (await first)[0] == 1
    assert (await service.aembed_query("a"))[0] == 1
    assert model.calls == [["a"]]


async def test_a_failure_reaches_all_who_wait_for_it_and_is_not_kept() -> None:
    model = Model()
    model.gate, model.failing = asyncio.Event(), {"a"}
    service = EmbeddingService(model)
    tasks = [asyncio.create_task(service.aembed_documents(["b", "a"][: 2 - n % 2])) for n in range(6)]
    await model.began.wait()
    await asyncio.sleep(0)
    model.gate.set()
    made = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [error for error in made if isinstance(error, EmbeddingFailed)]
    model.failing = set()

    assert len(failed) >= 3
    assert len({id(error) for error in failed}) == len(failed)
    assert (await service.aembed_query("a"))[0] == 1


def test_threads_and_loops_share_one_flight() -> None:
    calls: list[str] = []
    gate = threading.Event()

    class Slow:
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [self.embed_query(text).tolist() for text in texts]

        def embed_query(self, text: str) -> np.ndarray:
            calls.append(text)
            gate.wait(30)
            return lengths([text])[0]

    service = EmbeddingService(Slow(), space=SPACE)
    made: list[np.ndarray] = []
    threads = [
        threading.Thread(
            target=lambda n=n: made.append(
                asyncio.run(service.aembed_query("a")) if n % 2 else service.embed_query("a")
            )
        )
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()

    assert calls == ["a"]
    assert [row.tolist() for row in made] == [[1.0, 97.0]] * 8


async def test_concurrency_is_bounded_over_all_callers() -> None:
    model = Model()
    service = EmbeddingService(model, cache=False, batch_size=1, concurrency=2)
    await asyncio.gather(*(service.aembed_documents([f"{n}", f"{n}x", f"{n}y"]) for n in range(10)))

    assert model.most == 2
    assert len(model.calls) == 30


async def test_a_cancelled_caller_leaves_its_slot_to_others() -> None:
    model = Model()
    model.gate = asyncio.Event()
    service = EmbeddingService(model, concurrency=1)
    first = asyncio.create_task(service.aembed_query("a"))
    await model.began.wait()
    waiting = asyncio.create_task(service.aembed_query("b"))
    await asyncio.sleep(0.0)
    waiting.cancel()
    first.cancel()
    await asyncio.gather(waiting, first, return_exceptions=True)
    model.gate.set()

    assert (await service.aembed_query("c"))[0] == 1


# Failures


async def test_a_failure_names_its_texts_and_begins_nothing_more() -> None:
    model = Model()
    model.failing = {"c"}
    service = EmbeddingService(model, batch_size=2, concurrency=1)
    with pytest.raises(EmbeddingFailed, match="3 of 7 texts: number 2, 3, 4") as caught:
        await service.aembed_documents(["a", "b", "c", "d", "c", "e", "f"])

    assert caught.value.texts == (2, 3, 4)
    assert (caught.value.reason, caught.value.status, caught.value.provider) == ("request", 400, "test")
    assert model.calls == [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize("text", ["", "  \n", "half \ud800 character"])
def test_texts_without_content_are_named_before_anything_is_sent(text: str) -> None:
    model = Model()
    with pytest.raises(EmbeddingFailed, match="number 1") as caught:
        EmbeddingService(model).embed_documents(["a", text, "b"])

    assert caught.value.texts == (1,)
    assert model.calls == []


@pytest.mark.parametrize("wrong", ["abc", [1], ["a", None], [b"a"]])
def test_what_is_no_list_of_texts_is_refused(wrong: object) -> None:
    with pytest.raises(InputError):
        EmbeddingService(Model()).embed_documents(wrong)


def test_no_texts_need_no_call() -> None:
    model = Model()

    assert EmbeddingService(model).embed_documents([]) == []
    assert model.calls == []


def test_any_iterable_of_texts_serves() -> None:
    made = EmbeddingService(Model()).embed_documents(text for text in ("a", "bb"))

    np.testing.assert_array_equal(made, lengths(["a", "bb"]))


def _in_child(queue: multiprocessing.Queue[object], service: EmbeddingService) -> None:
    queue.put(service.embed_query("a").tolist())


@pytest.mark.filterwarnings(
    "ignore:This process:DeprecationWarning"
)  # forking beside threads: what this is about
def test_a_child_forked_in_mid_call_waits_for_nothing_of_its_parent() -> None:
    """The parent is embedding the very text, and holds the only slot and all there is in the bucket."""
    gate, began = threading.Event(), threading.Event()
    parent = os.getpid()

    class Slow(LangChainLike):
        def embed_query(self, text: str) -> list[float]:
            if os.getpid() == parent:
                began.set()
                gate.wait(60)
            return super().embed_query(text)

    service = EmbeddingService(Slow(), space=SPACE, concurrency=1, limits=Limits(requests_per_minute=1e6))
    thread = threading.Thread(target=service.embed_query, args=("a",))
    thread.start()
    began.wait(60)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    locks = [service.flights._lock, service.slots._lock, service.cache._lock, service.model.meter._lock]
    for lock in locks:
        lock.acquire()
    child = context.Process(target=_in_child, args=(queue, service))
    child.start()
    for lock in locks:
        lock.release()
    answer = queue.get(timeout=60)
    gate.set()
    thread.join()
    child.join()

    assert answer == [1.0, 97.0]


# Foreign embedders


class LangChainLike:
    def __init__(self) -> None:
        self.calls: list[tuple[str, int, object]] = []

    def _note(self, name: str, argument: object) -> None:
        self.calls.append((name, threading.get_ident(), argument))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self._note("embed_documents", texts)
        return lengths(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        self._note("embed_query", text)
        return lengths([text])[0].tolist()


class AwaitedToo(LangChainLike):
    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        self._note("aembed_documents", texts)
        return lengths(texts).tolist()

    async def aembed_query(self, text: str) -> list[float]:
        self._note("aembed_query", text)
        return lengths([text])[0].tolist()


class LlamaIndexLike:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def get_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs
    ) -> list[list[float]]:
        self.calls.append("batch")
        return lengths(texts).tolist()

    def get_query_embedding(self, query: str) -> list[float]:
        self.calls.append("query")
        return lengths([query])[0].tolist()

    async def aget_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False
    ) -> list[list[float]]:
        self.calls.append("abatch")
        return lengths(texts).tolist()

    async def aget_query_embedding(self, query: str) -> list[float]:
        self.calls.append("aquery")
        return lengths([query])[0].tolist()


async def test_an_awaitable_embedder_is_awaited_on_the_callers_own_loop() -> None:
    foreign = AwaitedToo()
    service = EmbeddingService(foreign, cache=False)
    await service.aembed_documents(["a"])
    await service.aembed_query("a")

    assert [(name, thread) for name, thread, _ in foreign.calls] == [
        ("aembed_documents", threading.get_ident()),
        ("aembed_query", threading.get_ident()),
    ]


async def test_a_blocking_embedder_never_runs_on_the_loop() -> None:
    foreign = LangChainLike()
    await EmbeddingService(foreign).aembed_documents(["a"])

    assert [name for name, _, _ in foreign.calls] == ["embed_documents"]
    assert foreign.calls[0][1] != threading.get_ident()


def test_a_blocking_call_uses_the_blocking_method() -> None:
    foreign = AwaitedToo()
    service = EmbeddingService(foreign)
    service.embed_documents(["a"])
    service.embed_query("a")

    assert [name for name, _, _ in foreign.calls] == ["embed_documents", "embed_query"]


async def test_a_llama_index_embedding_serves_in_both_styles() -> None:
    foreign = LlamaIndexLike()
    service = EmbeddingService(foreign, space=SPACE, cache=False)
    await service.aembed_documents(["a"])
    await service.aembed_query("a")
    await asyncio.to_thread(service.embed_documents, ["a"])
    await asyncio.to_thread(service.embed_query, "a")

    assert foreign.calls == ["abatch", "aquery", "batch", "query"]
    assert service.space == SPACE


def test_the_frameworks_own_classes_are_recognised() -> None:
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from llama_index.core.embeddings.mock_embed_model import MockEmbedding

    first = EmbeddingService(DeterministicFakeEmbedding(size=6))
    second = EmbeddingService(MockEmbedding(embed_dim=5))

    assert [len(row) for row in first.embed_documents(["a", "b"])] == [6, 6]
    assert [len(row) for row in second.embed_documents(["a", "b"])] == [5, 5]
    assert (first.dimensions, second.dimensions) == (6, 5)
    assert first.space is None
    check_embedder(second)


def test_a_collection_takes_a_wrapped_embedding() -> None:
    with SVRClient("memory://") as client:
        service = EmbeddingService(LlamaIndexLike(), space=SPACE)
        notes = client.create_collection("notes", embedder=service)
        notes.add([Document("1", "aaa"), Document("2", "b")])

        assert [hit.id for hit in notes.search(text="aaa", limit=1)] == ["1"]
        assert notes.space == SPACE


def test_an_error_of_a_foreign_embedder_is_its_cause() -> None:
    class Broken(LangChainLike):
        def embed_query(self, text: str) -> list[float]:
            raise RuntimeError("its own words")

    with pytest.raises(EmbeddingFailed, match="Broken failed: RuntimeError") as caught:
        EmbeddingService(Broken()).embed_query("a")

    assert repr(caught.value.__cause__) == "RuntimeError('its own words')"
    assert caught.value.texts == (0,)


@pytest.mark.parametrize(
    "answer",
    [
        [["1", "2"]] * 2,
        [[True, False]] * 2,
        [[1.0, True]] * 2,
        np.zeros((2, 2), "datetime64[s]"),
        [],
        [[1.0]],
        [[1.0, float("nan")]],
        [[1.0], [2.0, 3.0]],
        "x",
        None,
        [[1.0, 2.0, 3.0]] * 2,
        [1.0, 2.0],
    ],
)
def test_senseless_vectors_of_a_foreign_embedder_are_told(answer: object) -> None:
    class Senseless(LangChainLike):
        def embed_documents(self, texts: list[str]) -> object:
            return answer

    with pytest.raises(EmbeddingFailed) as caught:
        EmbeddingService(Senseless(), space=SPACE).embed_documents(["a", "b"])

    assert caught.value.reason == "answer"
    with SVRClient("memory://") as client, pytest.raises(SVRError):
        client.create_collection("c", dimensions=2, embedder=Senseless()).add(
            [Document("a", "a"), Document("b", "b")]
        )


@pytest.mark.parametrize("wrong", [None, object(), "text", 5])
def test_what_is_no_embedder_is_refused(wrong: object) -> None:
    with pytest.raises(InputError, match="no embedder"):
        EmbeddingService(wrong)


def test_a_class_is_no_embedder() -> None:
    with pytest.raises(InputError, match="class LangChainLike"):
        EmbeddingService(LangChainLike)
    with pytest.raises(InputError, match="class LangChainLike"):
        check_embedder(LangChainLike)


@pytest.mark.parametrize("wrong", [{"space": "x"}, {"limits": 5}, {"limits": 0}])
def test_arguments_of_another_kind_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        EmbeddingService(LangChainLike(), **wrong)


async def test_limits_hold_for_a_foreign_embedder() -> None:
    time = FakeTime()
    limits = Limits(requests_per_minute=60, timing=time.timing)
    service = EmbeddingService(LangChainLike(), limits=limits, batch_size=1, concurrency=5)
    await service.aembed_documents([f"text {n}" for n in range(11)])

    assert time.now - 1000 >= 10 - 1e-3
    assert service.usage.requests == 11


def test_a_service_around_a_service_uses_its_model_alone() -> None:
    inner = EmbeddingService(Model())
    outer = EmbeddingService(inner, batch_size=2)
    outer.embed_documents(["a", "b", "c"])

    assert outer.model is inner.model
    assert len(inner.model.calls) == 2
    assert len(inner.cache) == 0
    with pytest.raises(InputError, match="foreign embedders"):
        EmbeddingService(inner, space=SPACE)


def test_the_cache_argument_is_checked() -> None:
    with pytest.raises(InputError, match="EmbeddingCache, True or False"):
        EmbeddingService(Model(), cache={})
    cache = EmbeddingCache()
    assert EmbeddingService(Model(), cache=cache).cache is cache
    assert EmbeddingService(Model(), cache=False).cache is None


@pytest.mark.parametrize("error", [SystemExit(2), KeyboardInterrupt(), asyncio.CancelledError()])
@pytest.mark.parametrize("awaits", [True, False])
def test_a_foreign_embedder_that_would_end_the_program_is_an_error_for_its_caller(error, awaits) -> None:
    class Blocking:
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            raise error

        def embed_query(self, text: str) -> list[float]:
            return [1.0, 2.0]

    class Awaited:
        async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
            raise error

        async def aembed_query(self, text: str) -> list[float]:
            return [1.0, 2.0]

    service = EmbeddingService(Awaited() if awaits else Blocking(), space=SPACE)
    with pytest.raises(EmbeddingFailed) as raised:
        service.embed_documents(["a"])
    assert str(raised.value.__cause__) == type(error).__name__
    assert service.embed_query("b").tolist() == [1.0, 2.0]


def test_a_space_of_another_length_is_told_with_the_length_that_is() -> None:
    class Longer:
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [[1.0] * 64 for _ in texts]

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    service = EmbeddingService(Longer(), space=VectorSpace("example", "longer", 32))
    for ask in (lambda: service.embed_query("a"), lambda: service.embed_documents(["a"])):
        with pytest.raises(EmbeddingFailed, match=r"vectors of 64 .* says 32") as caught:
            ask()
        assert "VectorSpace('example', 'longer', 64)" in caught.value.hint
        assert caught.value.reason == "answer"
