"""The distribution: what it declares, exports and says in its README is so."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import inspect
import re
import tomllib
from pathlib import Path
from typing import Any, get_type_hints

import langchain_svr
import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore
from langchain_svr import SVRRetriever, SVRVectorStore
from langchain_svr.options import (
    COMMON_OPTIONS,
    HYBRID_OPTIONS,
    KEYWORD_OPTIONS,
    RERANK_OPTIONS,
    SEARCH_OPTIONS,
)

from svr_retrievers import AtlasEmbedding
from svr_retrievers.errors import InputError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_installed_metadata_is_that_of_the_project() -> None:
    found = importlib.metadata.metadata("langchain-svr")
    assert found["Version"] == PROJECT["version"] == langchain_svr.__version__
    assert found["Requires-Python"] == ">=3.11"
    required = importlib.metadata.requires("langchain-svr") or []
    names = {re.split(r"[<>=\[; ]", line)[0] for line in required if "extra" not in line}
    assert names == {"svr-retrievers", "langchain-core", "numpy"}


def test_types_are_shipped() -> None:
    assert importlib.resources.files("langchain_svr").joinpath("py.typed").is_file()


def test_all_is_the_public_api() -> None:
    assert set(langchain_svr.__all__) == {"SVRRerank", "SVRRetriever", "SVRTranslator", "SVRVectorStore"}


def test_the_licence_is_the_projects() -> None:
    assert (ROOT / "LICENSE").read_text() == (ROOT.parents[1] / "LICENSE").read_text()


def test_every_awaitable_method_is_native() -> None:
    """None of LangChain's defaults, which run the blocking method in a thread, is left."""
    inherited_is_right = {"asearch", "asimilarity_search_with_relevance_scores"}
    for name, base in inspect.getmembers(VectorStore, inspect.isfunction):
        if name.startswith("a") and inspect.iscoroutinefunction(base) and name not in inherited_is_right:
            assert getattr(SVRVectorStore, name) is not base, name


PUBLIC = {
    "svr_retrievers",
    "svr_retrievers.errors",
    "svr_retrievers.blocking",
    "svr_retrievers.reranking",
}


def test_only_public_names_of_the_core_are_used() -> None:
    for path in (ROOT / "langchain_svr").glob("*.py"):
        for module in re.findall(r"(?:from|import) (svr_retrievers[\w.]*)", path.read_text()):
            assert module in PUBLIC, f"{path.name} imports {module}"


def test_every_public_method_says_what_it_returns() -> None:
    for kind in (SVRVectorStore, SVRRetriever):
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_") and method.__module__.startswith("langchain_svr"):
                assert "return" in get_type_hints(method), f"{kind.__name__}.{name}"
    assert get_type_hints(SVRVectorStore.asimilarity_search)["return"] == list[Document]
    assert (
        get_type_hints(SVRVectorStore.similarity_search_with_score)["return"] == list[tuple[Document, float]]
    )
    assert get_type_hints(SVRVectorStore.delete)["return"] is bool


ATLAS = "mongodb+srv://user:password@cluster0.example.mongodb.net/library"


def examples(*, of_atlas: bool) -> list[str]:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [block for block in blocks if (ATLAS in block) is of_atlas]


def run(code: list[str], embedding: Any, scope: dict[str, Any]) -> None:
    scope["embedding"] = embedding
    exec(compile("\n".join(code).replace("my_embeddings", "embedding"), "README.md", "exec"), scope)


@pytest.mark.filterwarnings("error")
def test_the_examples_of_the_readme_run(embedding: Any) -> None:
    scope: dict[str, Any] = {}
    run(examples(of_atlas=False), embedding, scope)
    scope["store"].close()


@pytest.mark.filterwarnings("error")
def test_the_example_of_mongodb_runs(mongodb_url: str, embedding: Any) -> None:
    scope: dict[str, Any] = {}
    run(examples(of_atlas=False), embedding, scope)
    [code] = examples(of_atlas=True)
    run([code.replace(ATLAS, mongodb_url)], embedding, scope)
    scope["store"].close()


def test_every_extra_is_one_of_the_core() -> None:
    core = tomllib.loads((ROOT.parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    extras = PROJECT["optional-dependencies"]
    assert set(extras) == {"postgres", "embedded", "mongodb"} <= set(core)
    assert all(needs == [f"svr-retrievers[{name}]"] for name, needs in extras.items())


@pytest.mark.parametrize("embedding", [None, AtlasEmbedding("voyage-4"), "text-embedding-3-small"], ids=repr)
def test_what_cannot_embed_is_refused_at_once(embedding: object) -> None:
    with pytest.raises(InputError, match="Embeddings"):
        SVRVectorStore(embedding, url="memory://")  # type: ignore[arg-type]


def test_the_tables_of_options_are_those_of_the_code() -> None:
    text = (ROOT / "README.md").read_text()
    tables = [
        {
            name
            for row in re.findall(r"^\| (`[^|]+) \|", part, re.MULTILINE)
            for name in re.findall(r"`(\w+)`", row)
        }
        for part in [table.partition("\n\n")[0] for table in text.split("| option | meaning |")[1:3]]
    ]

    assert tables[0] == SEARCH_OPTIONS | RERANK_OPTIONS
    assert tables[1] == COMMON_OPTIONS | HYBRID_OPTIONS | RERANK_OPTIONS
    hybrid_only = {
        name
        for row in re.findall(r"^\| (`[^|]+) \| hybrid only", text, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert hybrid_only == tables[1] - COMMON_OPTIONS - KEYWORD_OPTIONS
