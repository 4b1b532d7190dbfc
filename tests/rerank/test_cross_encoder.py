"""The local cross-encoder: exact scores from a tiny real graph and from a double of sentence-transformers' model."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import anyio

from svr_retrievers import Document, SVRClient
from svr_retrievers.errors import ConfigError, InputError, MissingExtra, RerankFailed
from svr_retrievers.reranking import check_reranker, scores
from svr_retrievers.reranking.cross_encoder import CrossEncoderReranker, scores_of
from tests.providers.onnx_models import ids, write_encoder, write_scorer, write_tokenizer

pytestmark = pytest.mark.rerank

TEXTS = ["blue sea", "red", "warm warm sun sky green", ""]


def logit(query: str, text: str, kept: int = 512) -> float:
    """What the tiny graph answers: 10 for each token of the text and its end, and all token ids, by 100."""
    first, second = ids(query), ids(text)[1:]
    second = second if len(first) + len(second) <= kept else [*second[: kept - len(first) - 1], 3]
    return (sum(first) + sum(second) + 10 * len(second)) / 100


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_scorer(tmp_path_factory.mktemp("models") / "tiny-pairs")


class PairDouble:
    """`CrossEncoder.predict`, with the same answers as the tiny graph."""

    def __init__(self, labels: int = 1) -> None:
        self.labels = labels
        self.batches: list[int] = []

    def predict(self, inputs, *, batch_size, show_progress_bar, activation_fn):
        assert batch_size == len(inputs)
        assert show_progress_bar is False
        self.batches.append(batch_size)
        found = np.array([logit(query, text) for query, text in inputs], np.float32)
        return activation_fn(found if self.labels == 1 else np.stack([0 * found, found], axis=1))


@pytest.fixture(params=["onnx", "sentence-transformers"])
def model(request, folder):
    return folder if request.param == "onnx" else PairDouble()


def test_scores_are_exact_and_in_the_order_given(model):
    expected = [logit("red sky", text) for text in TEXTS]
    raw = CrossEncoderReranker(model, scale="raw").rerank("red sky", TEXTS)
    np.testing.assert_allclose(raw, expected, rtol=1e-6)
    np.testing.assert_allclose(
        CrossEncoderReranker(model).rerank("red sky", TEXTS), sigmoid(expected), rtol=1e-6
    )
    assert CrossEncoderReranker(model).rerank("red sky", []) == []


def test_many_texts_keep_their_order(model):
    rng = np.random.default_rng(8)
    texts = [" ".join(rng.choice(["red", "sea", "sun"], int(n))) for n in rng.integers(0, 60, 700)]
    found = CrossEncoderReranker(model, scale="raw", batch_size=7).rerank("warm", texts)
    np.testing.assert_allclose(found, [logit("warm", text) for text in texts], rtol=1e-5)


async def test_awaited_it_answers_the_same(model):
    reranker = CrossEncoderReranker(model)
    assert check_reranker(reranker) is reranker
    assert await reranker.arerank("red", TEXTS) == reranker.rerank("red", TEXTS)
    assert await scores(reranker, "red", TEXTS) == reranker.rerank("red", TEXTS)


@pytest.mark.parametrize("backend", ["onnx", "sentence-transformers"])
def test_of_two_logits_the_second_is_the_score(tmp_path, backend):
    model = write_scorer(tmp_path / "two", labels=2) if backend == "onnx" else PairDouble(labels=2)
    higher = np.array([-1.0] * len(TEXTS)) if backend == "onnx" else [logit("red", text) for text in TEXTS]
    np.testing.assert_allclose(CrossEncoderReranker(model).rerank("red", TEXTS), sigmoid(higher), rtol=1e-5)
    np.testing.assert_allclose(
        CrossEncoderReranker(model, scale="raw").rerank("red", TEXTS), higher, rtol=1e-5
    )


def test_a_graph_without_an_axis_of_labels_is_read_too(tmp_path):
    reranker = CrossEncoderReranker(write_scorer(tmp_path / "flat", rank=1), scale="raw")
    np.testing.assert_allclose(reranker.rerank("red", ["blue sea"]), [logit("red", "blue sea")], rtol=1e-6)


def test_large_logits_keep_their_order_as_probabilities():
    found = scores_of(np.array([-800.0, -20.0, 0.0, 18.0, 20.0, 30.0], np.float32), "probability", 6)
    assert list(found) == sorted(found)
    assert len(set(found)) == 6
    assert 0 <= found[0] < found[-1] < 1


def test_a_tokenizer_that_tells_no_types_feeds_none(tmp_path):
    folder = write_scorer(tmp_path / "m")
    (folder / "tokenizer_config.json").write_text('{"model_input_names": ["input_ids", "attention_mask"]}')
    found = CrossEncoderReranker(folder, scale="raw").rerank("red", ["blue sea"])
    np.testing.assert_allclose(found, [logit("red", "blue sea") - 0.3], rtol=1e-6)


def test_a_long_text_is_cut_at_its_end_and_the_query_kept(folder):
    reranker = CrossEncoderReranker(folder, scale="raw", max_length=8)
    long = "blue " * 50
    np.testing.assert_allclose(
        reranker.rerank("red sky", [long]), [logit("red sky", long, kept=8)], rtol=1e-6
    )


def test_a_long_query_leaves_half_of_the_room_to_the_text(folder):
    reranker = CrossEncoderReranker(folder, scale="raw", max_length=12)
    asked = reranker.rerank("red " * 40, ["blue"])
    np.testing.assert_allclose(asked, [logit("red " * 6, "blue")], rtol=1e-6)


async def test_a_cancelled_call_stops_before_the_next_batch():
    entered, go_on, done = threading.Event(), threading.Event(), threading.Event()

    class Slow(PairDouble):
        def predict(self, inputs, **options):
            if inputs[0][0] == "slow":
                entered.set()
                assert go_on.wait(20)
            return super().predict(inputs, **options)

    model = Slow()
    reranker = CrossEncoderReranker(model, batch_size=2)
    work = reranker._scores

    def watched(*arguments):
        try:
            return work(*arguments)
        finally:
            done.set()

    reranker._scores = watched
    tried = len(model.batches)
    task = asyncio.create_task(reranker.arerank("slow", ["red"] * 40))
    await anyio.to_thread.run_sync(entered.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    assert await anyio.to_thread.run_sync(done.wait, 20)
    assert model.batches[tried:] == [2]


async def test_the_onnx_model_stops_too(folder):
    reranker = CrossEncoderReranker(folder, batch_size=1)
    asked = iter([False, False, True])
    assert reranker._scores("red", ["blue"] * 10, lambda: next(asked)) == []
    assert next(asked, None) is None


async def test_a_late_model_leaves_the_search_its_order():
    """The search answers in time, and the thread that was left behind ends."""
    go_on = threading.Event()

    class Stuck(PairDouble):
        def predict(self, inputs, **options):
            if inputs[0][0] != "a":
                assert go_on.wait(20)
            return super().predict(inputs, **options)

    with pytest.raises(RerankFailed, match="did not answer within") as caught:
        await scores(CrossEncoderReranker(Stuck()), "red", ["blue"], timeout_seconds=0.05)
    go_on.set()
    assert caught.value.reason == "timeout"


def test_a_search_is_reranked(folder):
    documents = [Document(id=text, text=text, vector=[1.0, float(n)]) for n, text in enumerate(TEXTS[:3])]
    with SVRClient("memory://") as client:
        made = client.create_collection("c", dimensions=2)
        made.add(documents)
        found = made.search(
            vector=[1.0, 0.0], limit=3, rerank_query="red", reranker=CrossEncoderReranker(folder)
        )
    assert found.reranked
    assert [hit.text for hit in found] == sorted(TEXTS[:3], key=lambda t: -logit("red", t))
    assert {hit.text for hit in found} == set(TEXTS[:3])


def test_what_scores_no_pairs_is_refused_when_it_is_opened(tmp_path):
    with pytest.raises(ConfigError, match=r"no logits.*scores no pairs"):
        CrossEncoderReranker(write_encoder(tmp_path / "encoder"))
    with pytest.raises(ConfigError, match=r"shape \(1, 3\)"):
        CrossEncoderReranker(write_scorer(tmp_path / "nli", labels=3))


def test_a_folder_that_lacks_a_file_is_told_how_to_make_it(tmp_path):
    with pytest.raises(ConfigError, match=r"neither model\.onnx.*--task text-classification"):
        CrossEncoderReranker(tmp_path)
    write_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"neither small\.onnx nor onnx/small\.onnx"):
        CrossEncoderReranker(tmp_path, file="small.onnx")
    with pytest.raises(ConfigError, match="does not exist"):
        CrossEncoderReranker("./nowhere")


def test_bad_text_and_a_failing_model_say_why(folder):
    with pytest.raises(RerankFailed, match="surrogates") as caught:
        CrossEncoderReranker(folder).rerank("red", ["bad \ud800"])
    assert caught.value.reason == "request"

    class Failing(PairDouble):
        def predict(self, inputs, **options):
            if inputs[0][0] == "a":
                return super().predict(inputs, **options)
            raise RuntimeError("CUDA out of memory")

    with pytest.raises(RerankFailed, match="RuntimeError: CUDA out of memory"):
        CrossEncoderReranker(Failing()).rerank("red", ["blue"])


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("scale", {"scale": "percent"}),
        ("batch_size", {"batch_size": 0}),
        ("device", {"device": "cpu"}),
        ("max_length", {"max_length": 2}),
    ],
)
def test_options_that_cannot_be_met_are_refused(folder, what, options):
    with pytest.raises((InputError, ConfigError), match=what):
        CrossEncoderReranker(folder, **options)


@pytest.mark.parametrize(
    "options", [{"threads": 1}, {"file": "m.onnx"}, {"device": "cpu"}, {"max_length": 9}]
)
def test_options_of_loading_are_refused_for_a_loaded_model(options):
    with pytest.raises(InputError, match=next(iter(options))):
        CrossEncoderReranker(PairDouble(), **options)
    with pytest.raises(InputError, match="not int"):
        CrossEncoderReranker(7)


def test_a_name_needs_sentence_transformers(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(MissingExtra, match=r"svr-retrievers\[huggingface\]"):
        CrossEncoderReranker("cross-encoder/ms-marco-MiniLM-L6-v2")


def test_its_name_is_the_models(folder):
    assert CrossEncoderReranker(folder).name == "tiny-pairs"
    assert CrossEncoderReranker(folder, name="mine").name == "mine"
    assert repr(CrossEncoderReranker(folder)) == "CrossEncoderReranker('tiny-pairs', scale='probability')"
