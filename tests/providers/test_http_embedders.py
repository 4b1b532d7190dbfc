"""The real SDKs against a local server that replays what providers document: what goes out, and what comes back."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from werkzeug import Request, Response

from svr_retrievers import AsyncSVRClient
from svr_retrievers.embedding import RetryPolicy
from svr_retrievers.errors import EmbeddingFailed
from tests.providers.conftest import PROVIDERS, Stage, as_json

pytestmark = [
    pytest.mark.providers,
    # Voyage AI's SDK logs a broken answer by a method of logging that is going away.
    pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning"),
]
TEXTS = ["one", "two", "three"]
THREE = RetryPolicy(attempts=3, base_seconds=1.0)


def failed(stage: Stage, retry: RetryPolicy = THREE, **options) -> EmbeddingFailed:
    """How embedding three texts fails."""
    with pytest.raises(EmbeddingFailed) as caught:
        stage.embedder(retry=retry, **options).embed_documents(TEXTS)
    return caught.value


# Answers


def test_a_batch_in_order(stage: Stage) -> None:
    made = stage.embedder().embed_documents(TEXTS)

    np.testing.assert_allclose(made, stage.vectors(TEXTS), rtol=1e-6)
    assert stage.texts() == [TEXTS]
    assert stage.headers[0]["Authorization"].startswith("Bearer sk-test-")


async def test_a_batch_awaited(stage: Stage) -> None:
    made = await stage.embedder().aembed_documents(TEXTS)

    np.testing.assert_allclose(made, stage.vectors(TEXTS), rtol=1e-6)


def test_a_query_is_marked_as_one_where_the_provider_tells_them_apart(stage: Stage) -> None:
    embedder = stage.embedder()
    np.testing.assert_allclose(embedder.embed_query("one"), stage.vectors(["one"], "query")[0], rtol=1e-6)
    embedder.embed_documents(["one"])
    kinds = [asked.get("input_type") for asked in stage.asked]

    assert (
        kinds
        == {
            "openai": [None],  # embeds both alike, so the query's vector serves the document
            "voyage": ["query", "document"],
            "cohere": ["search_query", "search_document"],
        }[stage.provider.name]
    )


def test_large_input_goes_out_in_batches_and_comes_back_in_order(stage: Stage) -> None:
    texts = [f"text {number}" for number in range(50)]
    made = stage.embedder(batch_size=7).embed_documents(texts)

    np.testing.assert_allclose(made, stage.vectors(texts), rtol=1e-6)
    assert sorted(map(len, stage.texts())) == [1, *[7] * 7]


def test_batches_are_limited_by_tokens(stage: Stage) -> None:
    texts = [f"{number} " + "x" * 398 for number in range(10)]
    stage.embedder(batch_tokens=350, batch_size=90).embed_documents(texts)

    assert sorted(map(len, stage.texts())) == [1, 3, 3, 3]


def test_every_request_asks_for_what_was_configured(stage: Stage) -> None:
    stage.embedder(dimensions=16).embed_documents(TEXTS)
    asked = stage.asked[0]

    assert asked["model"] == "test-model"
    assert asked.get("dimensions") == (16 if stage.provider.name == "openai" else None)
    assert asked.get("output_dimension") == (None if stage.provider.name == "openai" else 16)
    assert asked.get("truncation") is (False if stage.provider.name == "voyage" else None)
    assert asked.get("truncate") == ("NONE" if stage.provider.name == "cohere" else None)


def test_an_unknown_model_is_asked_once(stage: Stage) -> None:
    embedder = stage.embedder(dimensions=None)
    assert embedder.dimensions == 8
    assert embedder.space is not None
    embedder.embed_documents(TEXTS)

    assert stage.texts() == [["dimensions"], TEXTS]


async def test_a_collection_asks_an_unknown_model_without_holding_the_loop(stage: Stage) -> None:
    loops: list[bool] = []

    def slow(request: Request) -> Response:
        """Answers once the test's own event loop has turned: it never would while that waits for the answer."""
        turned = threading.Event()
        loop.call_soon_threadsafe(turned.set)
        loops.append(turned.wait(30))
        return stage.good(request)

    loop = asyncio.get_running_loop()
    stage.always = slow
    async with AsyncSVRClient("memory://") as client:
        await client.create_collection("notes", dimensions=8, embedder=stage.embedder(dimensions=None))
        await client.collection("notes", embedder=stage.embedder(dimensions=None))

    assert loops == [True, True]


def test_usage_and_cost_are_counted_as_the_provider_reports_them(stage: Stage) -> None:
    stage.script = [stage.refuse(500)]
    embedder = stage.embedder(price_per_million_tokens=2.0)
    embedder.embed_documents([*TEXTS, "one"])
    embedder.embed_documents(TEXTS)
    usage = embedder.usage

    assert (usage.requests, usage.retries, usage.failures) == (2, 1, 0)
    assert (usage.texts, usage.from_cache) == (7, 4)
    assert (usage.tokens, usage.estimated_tokens) == (len("onetwothree"), 0)
    assert usage.cost_usd == pytest.approx(11 * 2.0 / 1_000_000)


@pytest.mark.parametrize("stage", [PROVIDERS[0]], indirect=True, ids=["openai"])
def test_a_server_that_knows_neither_base64_nor_usage_serves_as_well(stage: Stage) -> None:
    def plain(_: Request) -> Response:
        rows = stage.vectors(stage.asked[-1]["input"]).tolist()
        data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
        return as_json({"object": "list", "data": data, "model": "m"})

    stage.always = plain
    embedder = stage.embedder()
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), stage.vectors(TEXTS), rtol=1e-6)

    assert (embedder.usage.tokens, embedder.usage.estimated_tokens) == (0, 4)


class _Counting(ThreadingHTTPServer):
    """Speaks HTTP/1.1, as providers do, and counts the connections that are opened to it."""

    daemon_threads = True
    connections = 0

    def finish_request(self, request: object, address: object) -> None:
        self.connections += 1
        super().finish_request(request, address)


def test_requests_of_all_loops_share_a_connection(stage: Stage) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *args: object) -> None:
            """Says nothing."""

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(stage.provider.answer(asked)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with _Counting(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with stage.provider.embedder(f"http://127.0.0.1:{server.server_address[1]}", cache=False) as embedder:
            for number in range(4):
                asyncio.run(embedder.aembed_query(f"text {number}"))
                embedder.embed_query(f"other {number}")
        server.shutdown()
        thread.join()

    assert server.connections == 1


# Batches that are too big


def test_a_batch_refused_as_too_big_is_halved(stage: Stage) -> None:
    def picky(request) -> object:
        if len(stage.asked[-1][stage.provider.inputs]) > 2:
            return stage.refuse(400, "Requested 9000 tokens, max 8192 tokens per request")(request)
        return stage.good(request)

    stage.always = picky
    texts = [f"text {number}" for number in range(7)]
    made = stage.embedder(concurrency=1).embed_documents(texts)

    np.testing.assert_allclose(made, stage.vectors(texts), rtol=1e-6)
    assert [len(some) for some in stage.texts()] == [7, 3, 1, 2, 4, 2, 2]


def test_a_single_text_that_is_too_big_is_named(stage: Stage) -> None:
    def picky(request) -> object:
        if "giant" in stage.asked[-1][stage.provider.inputs]:
            return stage.refuse(400, "This model's maximum context length is 8192 tokens")(request)
        return stage.good(request)

    stage.always = picky
    embedder = stage.embedder(concurrency=1)
    with pytest.raises(EmbeddingFailed, match="number 2") as caught:
        embedder.embed_documents(["a", "b", "giant", "c", "d"])
    asked = len(stage.asked)
    embedder.embed_documents(["a", "b"])

    assert caught.value.texts == (2,)
    assert caught.value.reason == "request"
    assert len(stage.asked) == asked, "what was embedded is in the cache"


def test_a_refusal_for_another_cause_is_not_halved(stage: Stage) -> None:
    stage.always = stage.refuse(400, "unknown parameter")

    assert failed(stage).texts == (0, 1, 2)
    assert len(stage.asked) == 1
