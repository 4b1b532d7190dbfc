"""What embedders declare: spaces, options, pairs of models, quantized outputs, and how much they import."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pytest_httpserver import HTTPServer

import svr_retrievers.embedding
from svr_retrievers import Document, SVRClient
from svr_retrievers.embedding import CohereEmbedder, OpenAIEmbedder, VoyageEmbedder
from svr_retrievers.embedding import cohere as cohere_module
from svr_retrievers.embedding import openai as openai_module
from svr_retrievers.embedding import voyage as voyage_module
from svr_retrievers.errors import InputError, SpaceMismatch
from svr_retrievers.spaces import VectorSpace, space_of
from svr_retrievers.testing.clock import FakeTime
from tests.providers.conftest import PROVIDERS, Stage

pytestmark = pytest.mark.providers
only_voyage = pytest.mark.parametrize("stage", [PROVIDERS[1]], indirect=True)
quantizing = pytest.mark.parametrize("stage", PROVIDERS[1:], indirect=True, ids=lambda p: p.name)


def made(kind: type, model: str, **options):
    return kind(model, **{"api_key": "sk-0123456789", **options})


# Spaces


def test_known_models_declare_their_space_without_being_asked() -> None:
    assert space_of(made(OpenAIEmbedder, "text-embedding-3-small")) == VectorSpace(
        "openai", "text-embedding-3-small", 1536, normalized=True
    )
    assert space_of(made(OpenAIEmbedder, "text-embedding-3-large", dimensions=256)) == VectorSpace(
        "openai", "text-embedding-3-large", 256, normalized=True
    )
    assert space_of(made(CohereEmbedder, "embed-v4.0", dtype="int8")) == VectorSpace(
        "cohere", "embed-v4.0", 1536, inputs="search_document|search_query", dtype="int8"
    )


def test_the_voyage_4_series_is_one_space() -> None:
    names = ["voyage-4-large", "voyage-4", "voyage-4-lite", "voyage-4-nano"]
    spaces = {space_of(made(VoyageEmbedder, name)) for name in names}

    assert spaces == {VectorSpace("voyage", "voyage-4", 1024, normalized=True, inputs="document|query")}


def test_dimensions_and_number_types_make_other_spaces() -> None:
    spaces = [
        space_of(made(VoyageEmbedder, "voyage-4", dimensions=size, dtype=dtype))
        for size in (256, 1024)
        for dtype in ("float32", "int8", "binary")
    ]

    assert len({space.id for space in spaces}) == 6


@pytest.mark.parametrize("module", [openai_module, voyage_module, cohere_module])
def test_the_tables_agree_with_themselves(module) -> None:
    for name, facts in module.KNOWN.items():
        assert not facts.choices or facts.dimensions in facts.choices, name
        assert facts.price is None or 0 < facts.price < 1, name


# Asymmetric pairs


@only_voyage
def test_documents_by_the_large_model_queries_by_the_small_one(stage: Stage) -> None:
    options = {"dimensions": 256, "price_per_million_tokens": None}
    embedder = stage.embedder(model="voyage-4-large", query_model="voyage-4-lite", **options)
    embedder.embed_documents(["one"])
    embedder.embed_query("one")

    assert [(asked["model"], asked["input_type"]) for asked in stage.asked] == [
        ("voyage-4-large", "document"),
        ("voyage-4-lite", "query"),
    ]
    assert embedder.space == stage.embedder(model="voyage-4-lite", dimensions=256).space
    assert embedder.usage.cost_usd == pytest.approx(3 * 0.12e-6 + 3 * 0.02e-6)


@only_voyage
def test_a_shared_cache_does_not_mix_models_of_one_space(stage: Stage) -> None:
    from svr_retrievers.embedding import EmbeddingCache

    cache = EmbeddingCache()
    for name in ("voyage-4-large", "voyage-4-lite", "voyage-4-large"):
        stage.embedder(model=name, dimensions=256, cache=cache).embed_documents(["one"])

    assert [asked["model"] for asked in stage.asked] == ["voyage-4-large", "voyage-4-lite"]


@pytest.mark.parametrize(
    ("model", "query_model"),
    [("voyage-4", "voyage-3.5"), ("voyage-3-large", "voyage-3.5"), ("voyage-4", "unknown"), ("a", "b")],
)
def test_models_of_two_spaces_are_refused_as_a_pair(model: str, query_model: str) -> None:
    with pytest.raises(InputError, match="share no vector space"):
        made(VoyageEmbedder, model, query_model=query_model)


@only_voyage
def test_a_collection_refuses_an_embedder_of_another_space(stage: Stage) -> None:
    large = stage.embedder(model="voyage-4-large", dimensions=256)
    with SVRClient("memory://") as client:
        client.create_collection("notes", embedder=large).add([Document("1", "a note")])
        mixed = client.collection("notes", embedder=stage.embedder(model="voyage-4-lite", dimensions=256))
        assert [hit.text for hit in mixed.search(text="a note")] == ["a note"]
        with pytest.raises(SpaceMismatch, match=r"voyage-4 .*voyage-code-3"):
            client.collection("notes", embedder=stage.embedder(model="voyage-code-3", dimensions=256))


# Quantized outputs


@quantizing
def test_int8_keeps_its_whole_numbers(stage: Stage) -> None:
    row = stage.embedder(dtype="int8").embed_documents(["one"])[0]

    assert row.dtype == np.float32
    np.testing.assert_array_equal(row, np.round(stage.vectors(["one"])[0] * 127))


@quantizing
def test_bits_become_signs_so_that_every_metric_orders_as_hamming_does(stage: Stage) -> None:
    texts = [f"text {number}" for number in range(40)]
    rows = np.array(stage.embedder(dtype="binary", dimensions=64).embed_documents(texts))
    bits = stage.vectors(texts, size=64) > 0

    np.testing.assert_array_equal(rows, np.where(bits, 1, -1))
    hamming = (bits[0] != bits).sum(axis=1)
    np.testing.assert_array_equal(rows @ rows[0], 64 - 2 * hamming)


@quantizing
@pytest.mark.parametrize(("dtype", "wire"), [("float32", "float"), ("int8", "int8"), ("binary", "ubinary")])
def test_what_is_asked_for_on_the_wire(stage: Stage, dtype: str, wire: str) -> None:
    stage.embedder(dtype=dtype).embed_query("one")
    asked = stage.asked[0]

    assert (asked.get("output_dtype") or asked.get("embedding_types")) in (wire, [wire])


@quantizing
def test_truncation_is_asked_for_only_where_it_was_wanted(stage: Stage) -> None:
    stage.embedder(truncate=True).embed_query("one")

    assert stage.asked[0].get("truncation") is (True if stage.provider.name == "voyage" else None)
    assert stage.asked[0].get("truncate") == ("END" if stage.provider.name == "cohere" else None)


# Options


@pytest.mark.parametrize(
    ("kind", "model", "options", "words"),
    [
        (OpenAIEmbedder, "text-embedding-ada-002", {"dimensions": 512}, "no output of 512"),
        (
            OpenAIEmbedder,
            "text-embedding-3-small",
            {"dimensions": 1537},
            "no output of 1537 dimensions. It offers 1 to 1536.",
        ),
        (VoyageEmbedder, "voyage-4", {"dimensions": 300}, "256, 512, 1024, 2048"),
        (CohereEmbedder, "embed-english-v3.0", {"dimensions": 256}, "offers 1024"),
        (OpenAIEmbedder, "m", {"dimensions": 0}, "whole number"),
        (OpenAIEmbedder, "m", {"batch_size": 2049}, "from 1 to 2,048"),
        (VoyageEmbedder, "m", {"batch_size": 1001}, "from 1 to 1,000"),
        (CohereEmbedder, "m", {"batch_size": 97}, "from 1 to 96"),
        (CohereEmbedder, "m", {"batch_size": 0}, "from 1 to 96"),
        (VoyageEmbedder, "m", {"dtype": "float16"}, "float32, int8 or binary"),
        (OpenAIEmbedder, "m", {"concurrency": 0}, "concurrency"),
        (OpenAIEmbedder, "m", {"batch_tokens": 1.5}, "batch_tokens"),
        (OpenAIEmbedder, 5, {}, "model must be the name"),
        (VoyageEmbedder, "", {}, "model must be the name"),
        (CohereEmbedder, ["m"], {}, "model must be the name"),
        (VoyageEmbedder, "m", {"query_model": ""}, "query_model must be the name"),
        (OpenAIEmbedder, "m", {"base_url": 5}, "base_url"),
        (OpenAIEmbedder, "m", {"base_url": "localhost:8080/v1"}, "beginning with http:// or https://"),
        (VoyageEmbedder, "m", {"base_url": ""}, "base_url"),
        (CohereEmbedder, "m", {"base_url": "ftp://example.com"}, "base_url"),
        (OpenAIEmbedder, "m", {"batch_size": "5"}, "batch_size"),
        (OpenAIEmbedder, "m", {"api_key": 5}, "api_key"),
        (CohereEmbedder, "m", {"limits": 5}, "limits"),
        (CohereEmbedder, "m", {"limits": 0}, "limits"),
        (VoyageEmbedder, "m", {"retry": 3}, "retry"),
        (VoyageEmbedder, "m", {"truncate": "no"}, "truncate"),
        (CohereEmbedder, "m", {"dtype": ["int8"]}, "dtype"),
        (OpenAIEmbedder, "m", {"price_per_million_tokens": "1"}, "price_per_million_tokens"),
    ],
)
def test_options_that_the_model_has_not_are_refused(
    kind: type, model: str, options: dict, words: str
) -> None:
    with pytest.raises(InputError) as caught:
        made(kind, model, **options)

    assert words in str(caught.value)


def test_a_repr_tells_model_and_cost() -> None:
    embedder = made(OpenAIEmbedder, "text-embedding-3-small")

    assert repr(embedder) == (
        "OpenAIEmbedder(openai/text-embedding-3-small (1536 dimensions); 0 texts (0 from the cache), "
        "0 requests (0 repeated), 0 tokens, 0.000000 USD)"
    )


def test_importing_the_package_imports_no_sdk() -> None:
    script = (
        "import sys, svr_retrievers, svr_retrievers.embedding as e;"
        "found = {'openai', 'voyageai', 'cohere', 'tenacity', 'cachetools', 'aiohttp', 'sqlite3'} & set(sys.modules);"
        "assert not found, found;"
        "e.EmbeddingService; found = {'openai', 'voyageai', 'cohere'} & set(sys.modules); assert not found, found;"
        "e.OpenAIEmbedder; assert 'openai' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_public_name_is_there() -> None:
    for name in svr_retrievers.embedding.__all__:
        assert getattr(svr_retrievers.embedding, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        svr_retrievers.embedding.Nothing  # noqa: B018


def test_a_process_that_never_closes_its_embedders_ends_without_a_word(
    http_server: HTTPServer, fake_time: FakeTime
) -> None:
    http_server.clear()
    for provider in PROVIDERS[1:]:  # OpenAI and Voyage AI have one path: the answer tells who was asked
        stage = Stage(provider, http_server, fake_time)
        http_server.expect_request(provider.path, method="POST").respond_with_handler(stage.handle)
    script = (
        "import sys; sys.path.insert(0, '.');"
        "from tests.providers.conftest import PROVIDERS;"
        f"kept = [p.embedder({http_server.url_for('').rstrip('/')!r}) for p in PROVIDERS[1:]];"
        "print([len(one.embed_query('one')) for one in kept])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-W", "error::RuntimeWarning", "-c", script],
        check=True,
        capture_output=True,
        text=True,
    )
    http_server.clear()

    assert done.stdout.strip() == "[8, 8]"
    assert "Warning" not in done.stderr
    assert "Error" not in done.stderr
