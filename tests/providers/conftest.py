"""A local server that answers as the providers document it, and embedders that talk to it through the real SDKs."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from svr_retrievers.embedding import EmbeddingService
from svr_retrievers.testing.clock import FakeTime

KEY = "sk-test-ThisKeyMustNeverBeSeen-0123456789"
Handler = Callable[[Request], Response]


def vector_of(text: str, kind: str, dimensions: int) -> np.ndarray:
    """What the server's model makes of a text: the same for the same text and kind, whatever the batch."""
    seed = int.from_bytes(hashlib.sha256(f"{kind}:{text}".encode()).digest()[:8], "big")
    vector = np.random.default_rng(seed).standard_normal(dimensions).astype(np.float32)
    return vector / np.linalg.norm(vector)


def openai_answer(asked: dict) -> dict:
    size = asked.get("dimensions") or 8
    rows = [vector_of(text, "", size) for text in asked["input"]]
    data = [
        {
            "object": "embedding",
            "index": i,
            "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode(),
        }
        for i, row in enumerate(rows)
    ]
    tokens = sum(len(text) for text in asked["input"])
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data[::-1], "model": asked["model"], "usage": usage}


def quantized(row: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "int8":
        return np.clip(np.round(row * 127), -128, 127).astype(np.int8)
    return np.packbits(row > 0) if dtype == "ubinary" else row.astype("<f4")


def voyage_answer(asked: dict) -> dict:
    size = asked.get("output_dimension") or 8
    rows = [
        quantized(vector_of(text, asked["input_type"], size), asked["output_dtype"])
        for text in asked["input"]
    ]
    data = [
        {"object": "embedding", "index": i, "embedding": base64.b64encode(row.tobytes()).decode()}
        for i, row in enumerate(rows)
    ]
    tokens = sum(len(text) for text in asked["input"])
    return {"object": "list", "data": data, "model": asked["model"], "usage": {"total_tokens": tokens}}


def cohere_answer(asked: dict) -> dict:
    size = asked.get("output_dimension") or 8
    kind = asked["input_type"].removeprefix("search_")
    [dtype] = asked["embedding_types"]
    rows = [quantized(vector_of(text, kind, size), dtype).tolist() for text in asked["texts"]]
    tokens = sum(len(text) for text in asked["texts"])
    return {
        "id": "0a1b",
        "embeddings": {dtype: rows},
        "texts": asked["texts"],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": tokens}},
        "response_type": "embeddings_by_type",
    }


@dataclass
class Provider:
    """How one provider is reached, and how it answers."""

    name: str
    title: str
    path: str
    base: str
    variable: str
    answer: Callable[[dict], dict]
    error: Callable[[str], dict]
    inputs: str

    def embedder(self, url: str, **options) -> EmbeddingService:
        from svr_retrievers.embedding import CohereEmbedder, OpenAIEmbedder, VoyageEmbedder

        made = {"openai": OpenAIEmbedder, "voyage": VoyageEmbedder, "cohere": CohereEmbedder}[self.name]
        given = {"model": "test-model", "dimensions": 8, "api_key": KEY, "base_url": f"{url}{self.base}"}
        return made(**{**given, **options})


PROVIDERS = [
    Provider(
        "openai", "OpenAI", "/v1/embeddings", "/v1", "OPENAI_API_KEY", openai_answer,
        lambda words: {"error": {"message": words, "type": "error", "param": None, "code": None}}, "input",
    ),
    Provider(
        "voyage", "Voyage AI", "/v1/embeddings", "/v1", "VOYAGE_API_KEY", voyage_answer,
        lambda words: {"detail": words}, "input",
    ),
    Provider(
        "cohere", "Cohere", "/v2/embed", "", "CO_API_KEY", cohere_answer,
        lambda words: {"id": "0a1b", "message": words}, "texts",
    ),
]  # fmt: skip


@dataclass
class Stage:
    """The server under a provider's name: what it was asked, and what it answers next."""

    provider: Provider
    server: HTTPServer
    time: FakeTime
    asked: list[dict] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    script: list[Handler] = field(default_factory=list)
    always: Handler | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    made: list[EmbeddingService] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def embedder(self, **options) -> EmbeddingService:
        options.setdefault("timing", self.time.timing)
        embedder = self.provider.embedder(self.server.url_for("").rstrip("/"), **options)
        self.made.append(embedder)
        return embedder

    def handle(self, request: Request) -> Response:
        with self.lock:
            self.asked.append(json.loads(request.data))
            self.headers.append(dict(request.headers))
            handler = self.script.pop(0) if self.script else self.always
        return handler(request) if handler is not None else self.good(request)

    def good(self, request: Request) -> Response:
        return as_json(self.provider.answer(json.loads(request.data)))

    def texts(self) -> list[list[str]]:
        return [asked[self.provider.inputs] for asked in self.asked]

    def refuse(self, status: int, words: str = "no", **headers: str) -> Handler:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return lambda _: as_json(self.provider.error(words), status, named)

    def vectors(self, texts: Sequence[str], kind: str = "document", size: int = 8) -> np.ndarray:
        told = "" if self.provider.name == "openai" else kind
        return np.array([vector_of(text, told, size) for text in texts])


def as_json(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(body), status, {"Content-Type": "application/json", **(headers or {})})


def raw(words: str) -> Handler:
    return lambda _: Response(words, 200, {"Content-Type": "application/json"})


def truncated(request: Request) -> Response:
    """Half an answer, and then the end of the connection."""
    pipe: socket.socket = request.environ["werkzeug.socket"]
    pipe.sendall(
        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{"data": ['
    )
    pipe.shutdown(socket.SHUT_RDWR)
    return Response()


def reset(request: Request) -> Response:
    """A reset instead of an answer."""
    pipe: socket.socket = request.environ["werkzeug.socket"]
    pipe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(pipe.detach())
    return Response()


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


@pytest.fixture(scope="session")
def http_server() -> Iterator[HTTPServer]:
    with HTTPServer(threaded=True) as server:
        yield server


@pytest.fixture(params=PROVIDERS, ids=lambda provider: provider.name)
def stage(
    request: pytest.FixtureRequest,
    http_server: HTTPServer,
    fake_time: FakeTime,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Stage]:
    for provider in PROVIDERS:
        monkeypatch.delenv(provider.variable, raising=False)
    http_server.clear()
    made = Stage(request.param, http_server, fake_time)
    http_server.expect_request(made.provider.path, method="POST").respond_with_handler(made.handle)
    yield made
    made.gate.set()
    for embedder in made.made:
        embedder.close()
    http_server.clear()
