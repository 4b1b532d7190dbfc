"""Known items of the demo corpus: fused rankings find them at least as well as either ranking alone."""

from __future__ import annotations

import pytest

from svr_retrievers import SVRClient
from svr_retrievers.demo.standard_library import standard_library_corpus
from svr_retrievers.embedding.local import WordLlamaEmbedder
from svr_retrievers.evaluation import Compared, compare, known_items, table, thinned, ways
from svr_retrievers.evaluation.known_items import SENTENCES
from svr_retrievers.model import Document

pytestmark = [pytest.mark.hybrid, pytest.mark.postgres, pytest.mark.slow]

DOCUMENTS = 1_500


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return thinned(standard_library_corpus().read().documents, DOCUMENTS)


@pytest.fixture(scope="module")
def compared(documents: list[Document], postgres_url: str) -> dict[str, Compared]:
    with SVRClient(postgres_url) as client:
        collection = client.create_collection("known items", embedder=WordLlamaEmbedder())
        collection.add(documents)
        items = known_items(documents)
        found = compare(ways(collection), items)
        print("\n" + table(found, questions=len(items), documents=len(documents)))  # noqa: T201 - to be looked at
        return {each.name: each for each in found}


def test_this_python_documents_nearly_all_of_them(documents: list[Document]) -> None:
    items = known_items(documents)
    assert len(items) >= 2 * 0.9 * len(SENTENCES)
    assert {item.kind for item in items} == {"sentence", "name"}
    there = {document.id for document in documents}
    assert all(item.relevant.keys() <= there for item in items)


def test_the_fused_ranking_is_at_least_as_good_as_either(compared: dict[str, Compared]) -> None:
    whole = {name: each.scores["all"].ndcg for name, each in compared.items()}
    assert whole["hybrid, rrf"] >= max(whole["vectors"], whole["words"])
    for fusion in ("hybrid, distribution", "hybrid, convex"):
        assert whole[fusion] >= whole["vectors"]


def test_sentences_gain_from_both(compared: dict[str, Compared]) -> None:
    by_sentence = {name: each.scores["sentence"].ndcg for name, each in compared.items()}
    best = max(by_sentence["vectors"], by_sentence["words"])
    assert all(by_sentence[name] >= best for name in by_sentence if name.startswith("hybrid"))


def test_names_are_found_by_their_words(compared: dict[str, Compared]) -> None:
    assert compared["words"].scores["name"].ndcg > 0.95
    assert compared["hybrid, rrf"].scores["name"].ndcg > 0.9
    assert compared["vectors"].scores["name"].ndcg < compared["hybrid, rrf"].scores["name"].ndcg
