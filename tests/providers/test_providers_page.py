"""The page on providers: its code runs, and its numbers are those of the code."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from svr_retrievers import SVRClient
from svr_retrievers.embedding import EmbeddingCache, EmbeddingService, RetryPolicy, VectorSpace
from svr_retrievers.embedding import cohere as cohere_module
from svr_retrievers.embedding import openai as openai_module
from svr_retrievers.embedding import voyage as voyage_module
from svr_retrievers.embedding.api import BATCH_TEXTS, CONCURRENCY
from svr_retrievers.errors import InputError
from svr_retrievers.providers.cohere import cohere_account
from svr_retrievers.providers.openai import openai_account
from svr_retrievers.providers.voyage import voyage_account
from tests.providers.conftest import KEY, as_json, openai_answer, voyage_answer

pytestmark = pytest.mark.providers
PAGE = Path(__file__).parents[2] / "docs/providers.md"
TEXT = " ".join(PAGE.read_text("utf-8").split())
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)


def answer(request: Request) -> Response:
    """OpenAI and Voyage AI have one path; only the latter knows kinds of input."""
    asked = request.get_json()
    return as_json(
        voyage_answer(asked) if "input_type" in asked else openai_answer({"dimensions": 1536, **asked})
    )


@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.split("(")[0].split()[-1])
def test_the_code_runs(
    code: str, http_server: HTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import voyageai._base

    http_server.clear()
    http_server.expect_request("/v1/embeddings", method="POST").respond_with_handler(answer)
    url = http_server.url_for("/v1")
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setattr(voyageai._base, "get_default_base_url", lambda _: url)
    for name in ("OPENAI_API_KEY", "VOYAGE_API_KEY"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), names)

    if "hits" in names:
        assert len(names["hits"]) == 1
    for name in ("embedder", "service", "notes", "code"):
        if hasattr(names.get(name), "close"):
            names[name].close()
    http_server.clear()


def default(call: object, name: str) -> object:
    return inspect.signature(call).parameters[name].default


def test_there_is_code_to_run() -> None:
    assert len(BLOCKS) == 6


def test_the_numbers_are_those_of_the_code() -> None:
    retry, cache = RetryPolicy(), EmbeddingCache()
    rates = {
        name: tuple(f"{default(call, f'{what}_per_minute'):,}" for what in ("requests", "tokens"))
        for name, call in (("OpenAI", openai_account), ("Voyage AI", voyage_account))
    }
    for words in (
        f"{openai_module.MOST_TEXTS:,} texts, {openai_module.MOST_TOKENS:,} tokens",
        f"{voyage_module.MOST_TEXTS:,} texts",
        f"| {cohere_module.MOST_TEXTS} texts |",
        f"at most {BATCH_TEXTS} a request ({cohere_module.MOST_TEXTS} with Cohere",
        f"At most {CONCURRENCY} requests are under way",
        f"{retry.attempts} attempts in all",
        f"at most {retry.retry_after_cap_seconds:g} s, by everybody",
        f"up to {retry.base_seconds:g} s, doubled with each failure, at most {retry.max_wait_seconds:g} s",
        f"An attempt may take {retry.timeout_seconds:g} s",
        f"than {retry.deadline_seconds:g} s after the first",
        f"keeps {cache.megabytes:g} MB of vectors in memory for a day",
        *(f"| {name} | {requests} | | {tokens} |" for name, (requests, tokens) in rates.items()),
        f"| Cohere | | {default(cohere_account, 'inputs_per_minute'):,} | |",
    ):
        assert words in TEXT, words
    assert cache.ttl_seconds == 86_400
    assert default(EmbeddingCache, "disk_megabytes") == 1024


def test_what_the_page_says_of_embedders_without_a_space_is_so(tmp_path: Path) -> None:
    class Lengths:
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [[1.0, float(len(text))] for text in texts]

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    assert "it opens any collection of the length of its vectors" in TEXT
    assert "a cache on disk is refused" in TEXT
    plain = EmbeddingService(Lengths())
    assert plain.space is None
    with pytest.raises(InputError, match="space"):
        EmbeddingService(Lengths(), cache=EmbeddingCache(path=tmp_path / "vectors.db"))
    with SVRClient("memory://") as client:
        declared = EmbeddingService(Lengths(), space=VectorSpace("example", "lengths", 2))
        client.create_collection("declared", embedder=declared)
        assert client.collection("declared", embedder=plain).search(text="a").ids == ()
        client.create_collection("undeclared", embedder=plain)
        assert client.collection("undeclared", embedder=declared).space is None


def test_the_default_models_are_those_of_the_page() -> None:
    for module, name in (
        (openai_module, "OpenAIEmbedder"),
        (voyage_module, "VoyageEmbedder"),
        (cohere_module, "CohereEmbedder"),
    ):
        assert f"`{name}` " in TEXT
        assert f"| {default(getattr(module, name), 'model')} |" in TEXT
