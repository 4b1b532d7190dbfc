"""The ONNX embedder over tiny real graphs: exact vectors, order, bounded batches, and folders that lack something."""

from __future__ import annotations

import shlex
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto

from svr_retrievers import Document, SVRClient
from svr_retrievers.embedding import onnx_model
from svr_retrievers.embedding.onnx import OnnxEmbedder
from svr_retrievers.embedding.protocol import AsyncEmbedder, Embedder
from svr_retrievers.errors import (
    ConfigError,
    EmbeddingFailed,
    ForkedClient,
    InputError,
    MissingExtra,
    SpaceMismatch,
)
from svr_retrievers.spaces import space_of
from tests.providers.onnx_models import TABLE, WORDS, ids, write_encoder, write_json, write_tokenizer

pytestmark = pytest.mark.providers


def unit(vectors):
    vectors = np.atleast_2d(np.asarray(vectors, np.float32))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def means(texts):
    return np.stack([TABLE[ids(text)].mean(axis=0) for text in texts])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("models") / "tiny-colours")


def test_mean_over_the_tokens_and_none_of_the_padding(folder):
    texts = ["red", "green blue sky warm sea", "sun sun"]
    embedder = OnnxEmbedder(folder)
    np.testing.assert_allclose(embedder.matrix(texts), unit(means(texts)), rtol=1e-5)
    np.testing.assert_allclose(embedder.embed_query("cold sea"), unit(means(["cold sea"]))[0], rtol=1e-5)
    assert embedder.dimensions == TABLE.shape[1]
    assert embedder.embed_documents(texts)[0].dtype == np.float32


def test_length_is_kept_without_normalize(folder):
    made = OnnxEmbedder(folder, normalize=False).matrix(["red green"])
    np.testing.assert_allclose(made, means(["red green"]), rtol=1e-5)


@pytest.mark.parametrize(("pooling", "position"), [("cls", 0), ("last", -1)])
def test_pooling_by_one_token(folder, pooling, position):
    texts = ["red", "green blue sky warm"]
    expected = unit([TABLE[ids(text)[position]] for text in texts])
    np.testing.assert_allclose(OnnxEmbedder(folder, pooling=pooling).matrix(texts), expected, rtol=1e-5)


def test_pooling_and_prefixes_are_read_from_the_folder(tmp_path):
    folder = write_encoder(tmp_path / "m", file="onnx/model.onnx")
    write_json(
        folder, "1_Pooling/config.json", {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    )
    prompts = {"prompts": {"query": "warm ", "passage": "cold "}}
    write_json(folder, "config_sentence_transformers.json", prompts)
    embedder = OnnxEmbedder(folder)
    np.testing.assert_allclose(embedder.embed_query("sea"), unit(means(["warm sea"]))[0], rtol=1e-5)
    np.testing.assert_allclose(embedder.matrix(["sea"]), unit(means(["cold sea"])), rtol=1e-5)
    assert "query 'warm '" in embedder.space.inputs
    bare = OnnxEmbedder(folder, query_prefix="", document_prefix="")
    np.testing.assert_allclose(bare.embed_query("sea"), bare.matrix(["sea"])[0], rtol=1e-6)
    assert bare.space != embedder.space
    write_json(folder, "1_Pooling/config.json", {"pooling_mode": "cls"})
    np.testing.assert_allclose(OnnxEmbedder(folder).embed_query("sea"), unit(TABLE[2])[0], rtol=1e-5)


def test_a_graph_that_pools_itself_is_left_to_it(tmp_path):
    embedder = OnnxEmbedder(write_encoder(tmp_path / "m", pooled=True))
    largest = [TABLE[ids(text)].max(axis=0) for text in ("red sky", "blue sea")]
    np.testing.assert_allclose(embedder.matrix(["red sky", "blue sea"]), unit(largest), rtol=1e-5)
    assert "pooling" not in embedder.space.inputs


@pytest.mark.parametrize(
    "inputs", [("input_ids",), ("input_ids", "token_type_ids", "attention_mask", "position_ids")]
)
def test_inputs_are_fed_by_the_names_and_numbers_that_the_graph_declares(tmp_path, inputs):
    folder = write_encoder(tmp_path / "m", inputs=inputs, number=TensorProto.INT32)
    np.testing.assert_allclose(OnnxEmbedder(folder).matrix(["red sky"]), unit(means(["red sky"])), rtol=1e-5)


def test_many_texts_keep_their_order_in_bounded_batches(folder, monkeypatch):
    rng = np.random.default_rng(5)
    texts = [" ".join(rng.choice(WORDS[4:], int(n))) for n in rng.integers(1, 40, 1_300)]
    embedder = OnnxEmbedder(folder, batch_size=16)
    sizes = []
    compute = embedder._model._compute

    def counted(output, feed):
        sizes.append(feed["input_ids"].shape)
        return compute(output, feed)

    monkeypatch.setattr(embedder._model, "_compute", counted)
    np.testing.assert_allclose(embedder.matrix(texts), unit(means(texts)), rtol=1e-4, atol=1e-6)
    assert max(rows for rows, _ in sizes) == 16
    assert sum(rows * tokens for rows, tokens in sizes) < 1.15 * sum(len(ids(text)) for text in texts)
    np.testing.assert_array_equal(embedder.matrix(texts), embedder.matrix(texts))


def test_long_texts_make_small_batches(folder, monkeypatch):
    monkeypatch.setattr(onnx_model, "SQUARED_TOKENS", 400)
    model = OnnxEmbedder(folder)._model
    assert [len(b) for b in model._batches([20, 10, 10, 10, 10, 10, 3])] == [4, 2, 1]
    assert [len(b) for b in model._batches([50])] == [1]


def test_a_text_beyond_max_length_is_cut(folder):
    embedder = OnnxEmbedder(folder, max_length=5)
    np.testing.assert_array_equal(
        embedder.embed_query("red green blue sky sun"), embedder.embed_query("red green blue")
    )


def test_max_length_is_the_least_that_the_folder_names(tmp_path):
    folder = write_encoder(tmp_path / "m")
    assert OnnxEmbedder(folder)._model.max_length == 512
    write_json(folder, "tokenizer_config.json", {"model_max_length": 1e30})
    assert OnnxEmbedder(folder)._model.max_length == 2_048
    write_json(folder, "config.json", {"max_position_embeddings": 600, "pad_token_id": 0})
    assert OnnxEmbedder(folder)._model.max_length == 600
    write_json(folder, "sentence_bert_config.json", {"max_seq_length": 128})
    assert OnnxEmbedder(folder)._model.max_length == 128
    with pytest.raises(ConfigError, match="from 4 to 600 tokens"):
        OnnxEmbedder(folder, max_length=601)


def test_the_space_is_the_name_and_the_files_and_outlives_a_move(tmp_path):
    first = OnnxEmbedder(write_encoder(tmp_path / "a" / "tiny"))
    moved = OnnxEmbedder(write_encoder(tmp_path / "b" / "tiny"))
    assert first.space == moved.space == space_of(moved)
    other = OnnxEmbedder(write_encoder(tmp_path / "c" / "tiny", table=TABLE + 1))
    assert other.space != first.space
    assert (first.space.provider, first.space.model, first.space.normalized) == ("onnx", "tiny", True)
    cached = write_encoder(tmp_path / "models--org--tiny" / "snapshots" / "0a1b2c")
    assert OnnxEmbedder(cached).space == first.space
    assert OnnxEmbedder(cached, name="mine").space.model == "mine"


async def test_the_same_from_threads_tasks_and_blocking_calls(folder):
    embedder = OnnxEmbedder(folder)
    assert isinstance(embedder, Embedder)
    assert isinstance(embedder, AsyncEmbedder)
    texts = [f"red {'blue ' * n}" for n in range(40)]
    expected = embedder.matrix(texts)
    np.testing.assert_array_equal(await embedder.aembed_documents(texts), expected)
    np.testing.assert_array_equal(await embedder.aembed_query("red"), embedder.embed_query("red"))
    with ThreadPoolExecutor(8) as pool:
        for made in pool.map(embedder.matrix, [texts] * 24):
            np.testing.assert_array_equal(made, expected)


def test_batches_of_several_threads_take_turns(folder, monkeypatch):
    embedder = OnnxEmbedder(folder, batch_size=1)
    session, under_way, most = embedder._model._session, [], []

    class Counting:
        def run(self, outputs, feed):
            under_way.append(threading.get_ident())
            most.append(len(under_way))
            made = session.run(outputs, feed)
            under_way.pop()
            return made

    monkeypatch.setattr(embedder._model, "_session", Counting())
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(embedder.matrix, [["red", "green"]] * 30))
    assert len(most) == 60
    assert max(most) == 1


def test_a_forked_child_is_told_to_open_its_own(folder, monkeypatch):
    """The runtime's threads do not survive a fork, and a run in the child would wait for them for ever."""
    embedder = OnnxEmbedder(folder)
    monkeypatch.setattr(onnx_model.os, "getpid", lambda: -1)
    with pytest.raises(ForkedClient, match="Open the model in the child"):
        embedder.embed_query("red")


def test_no_text_gives_no_vector_and_bad_text_a_reason(folder):
    embedder = OnnxEmbedder(folder)
    assert embedder.embed_documents([]) == []
    with pytest.raises(EmbeddingFailed, match="surrogates") as caught:
        embedder.embed_documents(["fine", "bad \ud800 text"])
    assert caught.value.reason == "request"


def test_a_text_without_a_vector_is_named_by_its_place(tmp_path):
    table = TABLE.copy()
    table[[1, 2, 3]] = 0
    embedder = OnnxEmbedder(write_encoder(tmp_path / "m", table=table))
    with pytest.raises(EmbeddingFailed, match=r"1 of 3 texts .* number 1: 'unheard of'"):
        embedder.embed_documents(["red", "unheard of", "sky"])


def test_a_failing_graph_says_so(folder, monkeypatch):
    embedder = OnnxEmbedder(folder)

    class Failing:
        def run(self, outputs, feed):
            raise RuntimeError("out of memory\nmuch more")

    monkeypatch.setattr(embedder._model, "_session", Failing())
    with pytest.raises(EmbeddingFailed, match=r"tiny-colours failed: out of memory\."):
        embedder.embed_query("red")


def test_a_folder_that_lacks_a_file_is_told_how_to_make_it(tmp_path):
    with pytest.raises(ConfigError, match=r"does not exist.*optimum-cli export onnx .*feature-extraction"):
        OnnxEmbedder(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"neither model\.onnx nor onnx/model\.onnx.*optimum-cli"):
        OnnxEmbedder(tmp_path)
    (tmp_path / "my models").mkdir()
    with pytest.raises(ConfigError) as caught:
        OnnxEmbedder(tmp_path / "my models")
    command = shlex.split(caught.value.hint.removeprefix("Make it with: "))
    assert command[:3] == ["pip", "install", "optimum-onnx[onnxruntime]"]
    assert command[-1] == str(tmp_path / "my models")
    folder = write_encoder(tmp_path / "m", tokenizer=False)
    with pytest.raises(ConfigError, match=r"no tokenizer\.json.*optimum-cli"):
        OnnxEmbedder(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be read"):
        OnnxEmbedder(folder)


def test_files_that_are_no_model_are_refused(tmp_path):
    write_tokenizer(tmp_path)
    (tmp_path / "model.onnx").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ConfigError, match=r"no model that onnxruntime can open.*Git LFS"):
        OnnxEmbedder(tmp_path)
    write_encoder(tmp_path, inputs=("input_ids", "pixel_values"))
    with pytest.raises(ConfigError, match=r"reads pixel_values"):
        OnnxEmbedder(tmp_path)
    write_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(ConfigError, match=r"config\.json is no JSON"):
        OnnxEmbedder(tmp_path)


def test_models_that_an_encoder_alone_cannot_stand_for_are_refused(tmp_path):
    folder = write_encoder(tmp_path / "m")
    write_json(folder, "1_Pooling/config.json", {"pooling_mode_max_tokens": True})
    with pytest.raises(ConfigError, match="pooling_mode_max_tokens, which is not known here"):
        OnnxEmbedder(folder)
    assert OnnxEmbedder(folder, pooling="mean").dimensions == TABLE.shape[1]
    kinds = ["Transformer", "Pooling", "Dense"]
    write_json(folder, "modules.json", [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds])
    with pytest.raises(ConfigError, match="does not hold: Dense"):
        OnnxEmbedder(folder, pooling="mean")


@pytest.mark.parametrize("wrong", [{"pooling": "max"}, {"batch_size": 0}, {"threads": 0}])
def test_wrong_arguments_are_refused(folder, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        OnnxEmbedder(folder, **wrong)


@pytest.mark.parametrize("package", ["onnxruntime", "tokenizers"])
def test_a_missing_package_is_named_with_its_command(folder, monkeypatch, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingExtra, match=rf"`{package}`.*svr-retrievers\[onnx\]"):
        OnnxEmbedder(folder)


def test_a_collection_remembers_the_model(folder, tmp_path):
    with SVRClient("memory://") as client:
        embedder = OnnxEmbedder(folder)
        colours = client.create_collection("colours", embedder=embedder)
        colours.add([Document(id=text, text=text) for text in ("red warm sun", "blue cold sea")])
        assert colours.search(text="cold blue", limit=1)[0].text == "blue cold sea"
        assert colours.space == embedder.space
        other = OnnxEmbedder(write_encoder(tmp_path / "other", table=TABLE * 2))
        with pytest.raises(SpaceMismatch, match="onnx/tiny-colours"):
            client.collection("colours", embedder=other).search(text="red")
