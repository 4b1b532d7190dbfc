"""Voyage AI's and Cohere's rerankers over their real SDKs and real sockets, against a server that replays answers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from svr_retrievers import Document, SVRClient, errors
from svr_retrievers.providers.timing import Timing
from svr_retrievers.reranking import CohereReranker, Limits, RetryPolicy, VoyageReranker, scores
from svr_retrievers.reranking.hosted import AT_ONCE
from svr_retrievers.reranking.threads import MOST
from svr_retrievers.search.request import MAX_LIMIT
from svr_retrievers.search.rerank import CANDIDATES_PER_HIT, DEFAULT_SECONDS, LEAST_CANDIDATES

pytest.importorskip("voyageai")
pytest.importorskip("cohere")
pytestmark = [
    pytest.mark.rerank,
    pytest.mark.providers,
    pytest.mark.filterwarnings(
        "ignore:The 'warn' method is deprecated"
    ),  # of Voyage's SDK, where a body breaks off
]

KEY = "pa-Never-Shown-0123456789"
Made = VoyageReranker | CohereReranker
Make = Callable[..., Made]


class Replay(ThreadingHTTPServer):
    """Answers requests by a script: the next entry of `script`, or a ranking by length once it is used up."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[Answer] = []
        self.requests: list[tuple[str, str, dict[str, object]]] = []
        self.lock = threading.Lock()
        self.asked = threading.Semaphore(0)
        self.free = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: Replay
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, self.headers.get("Authorization", ""), body))
            answer = self.server.script.pop(0) if self.server.script else ranking
        self.server.asked.release()
        answer(self, body)

    def say(
        self, status: int, body: object, headers: dict[str, str] | None = None, *, length: int = 0
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length or len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """The tests look at what was asked themselves."""


Answer = Callable[[_Handler, "dict[str, object]"], None]


def ranking(handler: _Handler, body: dict[str, object]) -> None:
    """As both providers answer: the best first, scores by the texts' length."""
    texts = body["documents"]
    assert isinstance(texts, list)
    ranked = [{"index": at, "relevance_score": len(text) / 1000} for at, text in enumerate(texts)]
    ranked.sort(key=lambda each: -each["relevance_score"])
    answered(ranked)(handler, body)


def answered(ranked: list[dict[str, object]]) -> Answer:
    def answer(handler: _Handler, body: dict[str, object]) -> None:
        if handler.path.startswith("/v2"):
            meta = {"billed_units": {"search_units": 1}}
            handler.say(200, {"id": "x", "results": ranked, "meta": meta})
        else:
            data = {"object": "list", "data": ranked, "model": body["model"], "usage": {"total_tokens": 26}}
            handler.say(200, data)

    return answer


def status(code: int, headers: dict[str, str] | None = None, body: object = None) -> Answer:
    """Both providers put their words into one field, each into another."""
    told = {"detail": "no", "message": "no"} if body is None else body
    return lambda handler, _: handler.say(code, told, headers)


def slow(handler: _Handler, body: dict[str, object]) -> None:
    assert handler.server.free.wait(30)
    ranking(handler, body)


def truncated(handler: _Handler, _: dict[str, object]) -> None:
    handler.say(200, b'{"object": "list", "da', length=5000)
    handler.close_connection = True


def reset(handler: _Handler, _: dict[str, object]) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.shutdown(socket.SHUT_RD)
    handler.connection.close()
    handler.close_connection = True


@pytest.fixture
def server() -> Iterator[Replay]:
    with Replay() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.free.set()
        made.shutdown()
        thread.join()


class Naps:
    """Sleeps that end at once and are remembered; a clock that goes by them; dice that show the highest number."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)

    @property
    def timing(self) -> Timing:
        return Timing(
            clock=lambda: sum(self.seconds), wall=lambda: 1_700_000_000.0, sleep=self.sleep, draw=lambda: 1.0
        )


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture(params=["voyage", "cohere"])
def make(request: pytest.FixtureRequest, server: Replay, naps: Naps) -> Iterator[Make]:
    with contextlib.ExitStack() as stack:

        def build(**given: object) -> Made:
            options = {"api_key": KEY, "timing": naps.timing, **given}
            if request.param == "voyage":
                made: Made = VoyageReranker(base_url=f"{server.url}/v1", **options)  # type: ignore[arg-type]
            else:
                made = CohereReranker(base_url=server.url, **options)  # type: ignore[arg-type]
            return stack.enter_context(made)

        yield build


TEXTS = ["four", "a", "sixteen letters!", "one two"]
SCORES = [0.004, 0.001, 0.016, 0.007]


# What is asked and answered


def test_scores_come_in_the_order_of_the_texts(make: Make, server: Replay) -> None:
    reranker = make()

    assert reranker.rerank("how long?", TEXTS) == SCORES
    (path, authorization, body) = server.requests[0]
    assert path.endswith("/rerank")
    assert authorization == f"Bearer {KEY}"
    assert body["query"] == "how long?"
    assert body["documents"] == TEXTS
    assert body["model"] == reranker.model
    assert not body.get("return_documents")


async def test_awaiting_answers_the_same(make: Make) -> None:
    assert await make().arerank("how long?", TEXTS) == SCORES
    assert await scores(make(), "how long?", TEXTS) == SCORES


def test_what_was_asked_is_counted(make: Make) -> None:
    reranker = make()
    reranker.rerank("q", TEXTS)
    reranker.rerank("q", TEXTS[:1])

    assert (reranker.usage.requests, reranker.usage.texts, reranker.usage.retries) == (2, 5, 0)
    if isinstance(reranker, CohereReranker):
        assert reranker.search_units == 2
        assert reranker.usage.estimated_tokens > 0
    else:
        assert reranker.usage.tokens == 52


def test_the_price_of_tokens_makes_the_cost(server: Replay) -> None:
    with VoyageReranker(
        api_key=KEY, base_url=f"{server.url}/v1", price_per_million_tokens=50_000
    ) as reranker:
        reranker.rerank("q", TEXTS)

        assert reranker.usage.cost_usd == pytest.approx(1.3)


@pytest.mark.parametrize(
    ("model", "cost"), [("rerank-2.5", 1.3e-6), ("rerank-2.5-lite", 5.2e-7), ("new", None)]
)
def test_list_prices_are_known(server: Replay, model: str, cost: float | None) -> None:
    with VoyageReranker(model, api_key=KEY, base_url=f"{server.url}/v1") as reranker:
        reranker.rerank("q", TEXTS)

        assert reranker.usage.cost_usd == (None if cost is None else pytest.approx(cost))


def test_options_reach_the_provider(server: Replay) -> None:
    with VoyageReranker("rerank-2.5-lite", api_key=KEY, base_url=f"{server.url}/v1", truncate=False) as one:
        one.rerank("q", TEXTS)
    with CohereReranker("rerank-v4.0-fast", api_key=KEY, base_url=server.url, max_tokens_per_doc=99) as other:
        other.rerank("q", TEXTS)
    voyage, cohere = (body for _, _, body in server.requests)

    assert (voyage["model"], voyage["truncation"]) == ("rerank-2.5-lite", False)
    assert (cohere["model"], cohere["max_tokens_per_doc"]) == ("rerank-v4.0-fast", 99)


def test_nothing_is_asked_about_no_texts(make: Make, server: Replay) -> None:
    assert make().rerank("q", []) == []
    assert server.requests == []


@pytest.mark.parametrize(
    ("query", "texts"), [(" ", ["a"]), ("", ["a"]), ("q", "abc"), ("q", [None]), (7, ["a"]), ("q", ["\x00"])]
)
def test_wrong_arguments_cost_no_request(make: Make, server: Replay, query: str, texts: list[str]) -> None:
    with pytest.raises(errors.InputError):
        make().rerank(query, texts)

    assert server.requests == []


# Long lists


def test_a_long_list_goes_in_several_requests_and_comes_back_in_order(make: Make, server: Replay) -> None:
    texts = ["x" * ((at * 7) % 23 + 1) for at in range(95)]
    reranker = make(max_documents=10)

    assert reranker.rerank("q", texts) == [len(text) / 1000 for text in texts]
    assert sorted(len(body["documents"]) for _, _, body in server.requests) == [5, *[10] * 9]  # type: ignore[arg-type]
    assert reranker.usage.texts == 95


def test_tokens_split_a_list_too_and_the_query_counts_for_each_document(server: Replay) -> None:
    with VoyageReranker(api_key=KEY, base_url=f"{server.url}/v1", max_tokens=70) as reranker:
        made = reranker.rerank("q" * 20, ["y" * 40, "y" * 41, "y" * 42, "y" * 2000, "y"])

    sizes = sorted(len(body["documents"]) for _, _, body in server.requests)  # type: ignore[arg-type]
    assert made == [0.04, 0.041, 0.042, 2.0, 0.001]
    assert sizes == [1, 1, 1, 2]


@pytest.mark.parametrize("name", ["max_documents", "max_tokens"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_a_request_holds_at_least_one_thing(name: str, value: object) -> None:
    with pytest.raises(errors.InputError, match="whole number from 1 on"):
        VoyageReranker(api_key=KEY, **{name: value})  # type: ignore[arg-type]


def test_one_failed_request_of_several_fails_the_list(make: Make, server: Replay) -> None:
    server.script = [status(400)]

    with pytest.raises(errors.RerankFailed) as caught:
        make(max_documents=1).rerank("q", TEXTS)

    assert caught.value.reason == "request"


# Failures


@pytest.mark.parametrize(
    ("answer", "reason", "code", "attempts"),
    [
        (status(401), "key", 401, 1),
        (status(403), "key", 403, 1),
        (status(400), "request", 400, 1),
        (status(404), "request", 404, 1),
        (status(422), "request", 422, 1),
        (status(429), "limited", 429, 4),
        (status(429, body="slow down"), "limited", 429, 4),
        (status(500), "unavailable", 500, 4),
        (status(503), "unavailable", 503, 4),
        (status(500, body=b"<html>"), "unavailable", 500, 4),
        (status(200, body=b"<html>sign in</html>"), "answer", None, 1),
        (status(200, body={}), "answer", None, 1),
        (status(200, body={"results": 7, "data": 7, "usage": {"total_tokens": 1}}), "answer", None, 1),
        (truncated, "unavailable", None, 4),
        (reset, "unavailable", None, 4),
        (answered([{"index": 0, "relevance_score": 0.1}]), "answer", None, 1),
        (answered([{"index": at, "relevance_score": 0.1} for at in (0, 1, 2, 2)]), "answer", None, 1),
        (answered([{"index": at, "relevance_score": 0.1} for at in (0, 1, 2, 4)]), "answer", None, 1),
        (answered([{"index": at, "relevance_score": 0.1} for at in (0, 1, 2, -1)]), "answer", None, 1),
        (answered([{"index": at, "relevance_score": 0.1} for at in range(5)]), "answer", None, 1),
        (answered([{"index": at, "relevance_score": None} for at in range(4)]), "answer", None, 1),
        (answered([{"index": at, "relevance_score": float("nan")} for at in range(4)]), "answer", None, 1),
        (answered([{"index": f"n{at}", "relevance_score": 1.0} for at in range(4)]), "answer", None, 1),
    ],
    ids=[
        "401", "403", "400", "404", "422", "429 storm", "429 with another body", "500", "503", "500 html",
        "200 html", "200 empty", "200 of another shape", "truncated", "reset", "too few", "twice", "beyond",
        "before", "too many", "no score", "not a number", "text index",
    ],
)  # fmt: skip
def test_each_failure_has_a_reason_and_exactly_so_many_requests(
    make: Make,
    server: Replay,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    answer: Answer,
    reason: str,
    code: int | None,
    attempts: int,
) -> None:
    caplog.set_level(logging.DEBUG)
    server.script = [answer] * 10
    reranker = make(retry=RetryPolicy(attempts=4))

    with pytest.raises(errors.RerankFailed) as caught:
        reranker.rerank("q", TEXTS)

    error = caught.value
    assert error.attempts == len(server.requests) == reranker.usage.requests
    assert error.attempts == attempts
    assert error.reason == reason
    assert error.status in {code, 200 if code is None else code}
    assert error.hint
    out = capfd.readouterr()
    told = [str(error), repr(error), repr(reranker), repr(reranker._account), caplog.text, out.out, out.err]
    told += [repr(one) for one in (error.__cause__, error.__context__) if one is not None]
    assert [text for text in told if KEY in text] == []


def test_a_storm_that_passes_is_ridden_out(make: Make, server: Replay, naps: Naps) -> None:
    server.script = [status(429), status(503), status(429)]

    assert make().rerank("q", TEXTS) == SCORES
    assert len(server.requests) == 4
    assert naps.seconds == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("3600", 60.0), ("Tue, 14 Nov 2023 22:13:29 GMT", 9.0), ("soon", 0.5)],
    ids=["seconds", "capped", "a date", "unreadable"],
)
def test_retry_after_is_honoured_up_to_a_cap(
    make: Make, server: Replay, naps: Naps, header: str, seconds: float
) -> None:
    server.script = [status(429, {"Retry-After": header})]

    assert make(limits=Limits()).rerank("q", TEXTS) == SCORES
    assert naps.seconds == [seconds]
    assert len(server.requests) == 2


def test_one_that_does_not_answer_in_time_is_asked_exactly_as_often_as_configured(
    make: Make, server: Replay
) -> None:
    server.script = [slow] * 9
    with pytest.raises(errors.RerankFailed) as caught:
        make(retry=RetryPolicy(attempts=3, timeout_seconds=0.05)).rerank("q", TEXTS)

    assert (caught.value.reason, caught.value.attempts, len(server.requests)) == ("timeout", 3, 3)


def test_where_nobody_listens(make: Make, server: Replay) -> None:
    reranker = make(retry=RetryPolicy(attempts=2))
    server.server_close()

    with pytest.raises(errors.RerankFailed) as caught:
        reranker.rerank("q", TEXTS)

    assert (caught.value.reason, caught.value.attempts) == ("unavailable", 2)


# Keys


@pytest.mark.parametrize(
    ("kind", "variable"),
    [(VoyageReranker, "VOYAGE_API_KEY"), (CohereReranker, "CO_API_KEY"), (CohereReranker, "COHERE_API_KEY")],
)
def test_the_key_may_come_from_the_environment(
    server: Replay, monkeypatch: pytest.MonkeyPatch, kind: type[Made], variable: str
) -> None:
    for name in ("VOYAGE_API_KEY", "CO_API_KEY", "COHERE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(errors.ConfigError, match=variable):
        kind()
    monkeypatch.setenv(variable, KEY)
    path = "/v1" if kind is VoyageReranker else ""
    with kind(base_url=server.url + path) as reranker:
        assert reranker.rerank("q", TEXTS) == SCORES

    assert server.requests[0][1] == f"Bearer {KEY}"


def test_a_key_may_be_a_secret(make: Make, server: Replay) -> None:
    make(api_key=SecretStr(KEY)).rerank("q", TEXTS)

    assert server.requests[0][1] == f"Bearer {KEY}"


# Tasks, threads, cancellation


async def test_cancelling_leaves_no_task_and_a_reranker_that_works(make: Make, server: Replay) -> None:
    server.script = [slow] * 4
    reranker = make(max_documents=1)
    task = asyncio.create_task(reranker.arerank("q", TEXTS))
    for _ in TEXTS:
        await asyncio.to_thread(server.asked.acquire)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
    server.free.set()

    assert await reranker.arerank("q", TEXTS) == SCORES


async def test_a_late_provider_is_given_up_in_time(make: Make, server: Replay) -> None:
    server.script = [slow]
    with pytest.raises(errors.RerankFailed, match=r"did not answer within 0\.05 s"):
        await scores(make(), "q", TEXTS, timeout_seconds=0.05)

    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_many_threads_and_loops_share_one(make: Make, server: Replay) -> None:
    reranker = make()

    def ask(number: int) -> list[float]:
        if number % 2:
            return reranker.rerank("q", TEXTS)
        return asyncio.run(reranker.arerank("q", TEXTS))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(24)))

    assert answers == [SCORES] * 24
    assert len(server.requests) == reranker.usage.requests == 24


def test_a_closed_one_opens_again(make: Make) -> None:
    reranker = make()
    reranker.rerank("q", TEXTS)
    reranker.close()

    assert reranker.rerank("q", TEXTS) == SCORES


async def test_as_an_asynchronous_context(make: Make) -> None:
    async with make() as reranker:
        assert await reranker.arerank("q", TEXTS) == SCORES


# In a search


def documents() -> list[Document]:
    return [Document(f"d{at}", "x" * (at + 1), vector=[1.0, at / 10]) for at in range(12)]


@pytest.mark.parametrize(
    "answer", [status(401), status(429), status(500), reset, status(200, body=b"<html>")]
)
def test_an_outage_costs_a_search_its_better_order_and_nothing_else(
    make: Make, server: Replay, answer: Answer
) -> None:
    with SVRClient("memory://") as client:
        collection = client.create_collection("c", dimensions=2)
        collection.add(documents())
        reranker = make(retry=RetryPolicy(attempts=2))
        asked = {"vector": [1.0, 0.0], "limit": 3, "rerank_query": "longest", "reranker": reranker}
        good = collection.search(**asked)  # type: ignore[arg-type]
        server.script = [answer] * 2
        bad = collection.search(**asked)  # type: ignore[arg-type]

        assert good.ids == ("d11", "d10", "d9")
        assert good.reranked
        assert bad.ids == ("d0", "d1", "d2")
        assert not bad.reranked
        assert bad.notes[0].endswith("the merged order stands")
        assert reranker._account.provider in bad.notes[0]
        assert KEY not in repr(bad) + bad._repr_html_()


def test_a_slow_provider_costs_a_search_no_more_than_its_time(make: Make, server: Replay) -> None:
    with SVRClient("memory://") as client:
        collection = client.create_collection("c", dimensions=2)
        collection.add(documents())
        server.script = [slow]
        found = collection.search(
            vector=[1.0, 0.0], rerank_query="longest", reranker=make(), rerank_timeout_seconds=0.05, limit=3
        )

        assert found.ids == ("d0", "d1", "d2")
        assert "did not answer within 0.05 s; the merged order stands" in found.notes[0]


# The page about it


def test_the_page_is_true(server: Replay, naps: Naps, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its code runs, one block after the other, and prints what it says."""
    page = Path(__file__).parents[2].joinpath("docs/reranking.md").read_text("utf-8")
    local = partial(VoyageReranker, api_key=KEY, base_url=f"{server.url}/v1")
    monkeypatch.setattr("svr_retrievers.reranking.VoyageReranker", local, raising=False)
    printed = io.StringIO()
    names: dict[str, object] = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    with contextlib.redirect_stdout(printed):
        for block in blocks:
            exec(compile(block, "docs/reranking.md", "exec", dont_inherit=True), names)
    promised = re.findall(r"^ *print\(.*\) +# (.+)$", "".join(blocks), flags=re.MULTILINE)

    assert len(blocks) == 4
    assert printed.getvalue().splitlines() == promised
    assert len(promised) == 9


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    page = " ".join(Path(__file__).parents[2].joinpath("docs/reranking.md").read_text("utf-8").split())

    assert f"{CANDIDATES_PER_HIT} × `limit`, at least {LEAST_CANDIDATES}" in page
    assert f"at least `limit`, at most {MAX_LIMIT:,}" in page
    assert f"| `rerank_timeout_seconds` | {DEFAULT_SECONDS:g} |" in page
    assert f"at most {MOST} at once" in page
    assert AT_ONCE == 4
    assert "goes in several, four at a time" in page
