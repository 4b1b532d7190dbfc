"""The small cross-encoder of the package: it understands questions, changes orders, and loses no document."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("tokenizers")

from svr_retrievers import Document, SVRClient
from svr_retrievers.demo.reranker import demo_reranker

pytestmark = pytest.mark.rerank

FOLDER = Path(__file__).parents[2] / "svr_retrievers/demo/cross_encoder"
ABOUT = {
    "wait until several coroutines have finished": "Run awaitables concurrently and gather their results in a list.",
    "remove a folder with everything in it": "Recursively delete a directory tree.",
    "how long is this list?": "Return the number of items in a container.",
    "wrap a long line at 70 characters": "Break a paragraph into lines of at most the given width.",
    "compare two digests without leaking time": "Test strings for equality in constant time, against timing attacks.",
    "a lock that one thread may take twice": "A reentrant mutex, which its owner can acquire again without deadlock.",
    "read a file of settings with sections": "Parse configuration files made of sections with name and value pairs.",
    "the median of some numbers": "Middle value of sorted numeric data; the mean of the two middle ones if even.",
    "split a web address into its parts": "Parse a URL into scheme, network location, path, query and fragment.",
    "count how often each element occurs": "A mapping of hashable items to how many times they are found.",
    "give up after some seconds": "Raise an error when the operation exceeds the timeout.",
    "choose one entry by chance": "Pick a random element from a non-empty sequence.",
}


@pytest.fixture(scope="module")
def reranker():
    return demo_reranker(threads=1)


def test_most_questions_find_their_answer_first(reranker):
    passages = list(ABOUT.values())
    best = {}
    for question in ABOUT:
        scores = reranker.rerank(question, passages)
        best[question] = passages[scores.index(max(scores))]
    wrong = [question for question, passage in ABOUT.items() if best[question] != passage]
    assert len(wrong) <= 3, wrong


def test_scores_are_probabilities_and_stay_nearly_the_same_in_other_company(reranker):
    passages = list(ABOUT.values())
    together = reranker.rerank("the median of some numbers", passages)
    assert all(0 < score < 1 for score in together)
    assert together == reranker.rerank("the median of some numbers", passages)
    alone = [reranker.rerank("the median of some numbers", [passage])[0] for passage in passages]
    assert alone == pytest.approx(together, abs=0.1)


def test_a_search_changes_its_order_and_loses_nothing(reranker):
    passages = list(ABOUT.values())
    with SVRClient("memory://") as client:
        made = client.create_collection("c", dimensions=2)
        made.add([Document(id=str(n), text=t, vector=[1.0, float(n)]) for n, t in enumerate(passages)])
        plain = made.search(vector=[1.0, 0.0], limit=len(passages))
        query = "pick something random from a list"
        found = made.search(vector=[1.0, 0.0], limit=len(passages), rerank_query=query, reranker=reranker)
    assert found.reranked
    assert set(found.ids) == set(plain.ids)
    assert found.ids != plain.ids
    assert found[0].text == ABOUT["choose one entry by chance"]


def test_it_is_small_and_says_where_it_comes_from():
    assert (FOLDER / "model.onnx").stat().st_size < 8_500_000
    text = (FOLDER / "README.md").read_text("utf-8")
    for said in ("Apache", "all-MiniLM-L6-v2", "nDCG@10", "train_cross_encoder.py", "English"):
        assert said in text
