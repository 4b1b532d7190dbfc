"""Models by sentence-transformers: with a double of its surface, and with the package itself where it is installed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest

from svr_retrievers import Document, SVRClient
from svr_retrievers.embedding.huggingface import SentenceTransformerEmbedder, model_name
from svr_retrievers.embedding.protocol import AsyncEmbedder, Embedder
from svr_retrievers.errors import ConfigError, EmbeddingFailed, InputError, MissingExtra, SpaceMismatch

pytestmark = pytest.mark.providers

installed = pytest.mark.skipif(
    find_spec("sentence_transformers") is None,
    reason="needs sentence-transformers, which brings PyTorch: pip install 'svr-retrievers[huggingface]'",
)


class TensorDouble:
    """What weights are read by."""

    def __init__(self, values) -> None:
        self.values = np.asarray(values, np.float64)

    def detach(self):
        return self

    cpu = detach

    def float(self):
        return TensorDouble(self.values.astype(np.float32))

    def numpy(self):
        return self.values


class ModelDouble:
    """The surface of a `SentenceTransformer`: vectors of letters counted, the prompt's among them."""

    def __init__(self, weight: float = 1.0) -> None:
        self.prompts = {"query": "q: ", "document": "", "passage": "p: "}
        self.weight = weight
        self.calls = []

    def state_dict(self):
        return {"b": TensorDouble([0.0]), "a": TensorDouble([self.weight])}

    def encode_query(self, inputs, *, prompt, **options):
        return self._encode(inputs, "q: " if prompt is None else prompt, **options)

    def encode_document(self, inputs, *, prompt, **options):
        return self._encode(inputs, "p: " if prompt is None else prompt, **options)

    def _encode(self, inputs, prompt, *, normalize_embeddings, truncate_dim, batch_size, show_progress_bar):
        assert show_progress_bar is False
        self.calls.append((len(inputs), batch_size))
        rows = np.array([[(prompt + t).count(c) for c in "pqabc:"] for t in inputs], np.float32)[
            :, :truncate_dim
        ]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True) if normalize_embeddings else rows


def test_prompts_are_the_models_or_ones_given():
    own = SentenceTransformerEmbedder(ModelDouble(), normalize=False)
    assert list(own.embed_query("abba")) == [0, 1, 2, 2, 0, 1]
    assert [list(v) for v in own.embed_documents(["a", "bb"])] == [[1, 0, 1, 0, 0, 1], [1, 0, 0, 2, 0, 1]]
    given = SentenceTransformerEmbedder(ModelDouble(), normalize=False, query_prompt="", document_prompt="c")
    assert list(given.embed_query("abba")) == [0, 0, 2, 2, 0, 0]
    assert list(given.matrix(["a"])[0]) == [0, 0, 1, 0, 1, 0]
    assert (own.space.inputs, given.space.inputs) == ("document 'p: ', query 'q: '", "document 'c'")


def test_length_one_and_fewer_dimensions():
    embedder = SentenceTransformerEmbedder(ModelDouble(), truncate_dim=4, batch_size=5)
    made = embedder.matrix(["ab", "ccc a"])
    assert (embedder.dimensions, made.shape, made.dtype) == (4, (2, 4), np.float32)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, rtol=1e-6)
    assert embedder.space.normalized
    assert embedder._model.calls[-1] == (2, 5)


async def test_order_threads_and_tasks():
    model = ModelDouble()
    embedder = SentenceTransformerEmbedder(model)
    assert isinstance(embedder, Embedder)
    assert isinstance(embedder, AsyncEmbedder)
    texts = ["a" * (n % 7) + "b" * (n % 5) for n in range(1_100)]
    expected = embedder.matrix(texts)
    assert [size for size, _ in model.calls[1:]] == [512, 512, 76]
    np.testing.assert_array_equal(expected[700], embedder.embed_documents([texts[700]])[0])
    np.testing.assert_array_equal(await embedder.aembed_documents(texts), expected)
    np.testing.assert_array_equal(await embedder.aembed_query("a"), embedder.embed_query("a"))
    with ThreadPoolExecutor(4) as pool:
        for made in pool.map(embedder.matrix, [texts] * 8):
            np.testing.assert_array_equal(made, expected)
    assert embedder.embed_documents([]) == []


def test_the_space_follows_the_weights_and_the_name():
    first = SentenceTransformerEmbedder(ModelDouble())
    assert first.space == SentenceTransformerEmbedder(ModelDouble()).space
    assert first.space != SentenceTransformerEmbedder(ModelDouble(2.0)).space
    assert first.space.model == "ModelDouble"
    assert SentenceTransformerEmbedder(ModelDouble(), name="mine").space.model == "mine"
    names = ["org/tiny", "tiny", "/x/tiny", "/x/models--org--tiny/snapshots/0a"]
    assert {model_name(name) for name in names} == {"tiny"}


def test_a_pooler_that_no_vector_depends_on_makes_no_other_space():
    class WithPooler(ModelDouble):
        def state_dict(self):
            return {
                **super().state_dict(),
                "0.pooler.dense": TensorDouble(np.random.default_rng().normal(size=3)),
            }

    own = SentenceTransformerEmbedder(ModelDouble(), name="m").space
    assert SentenceTransformerEmbedder(WithPooler(), name="m").space == own


def test_a_collection_refuses_another_model():
    with SVRClient("memory://") as client:
        made = client.create_collection("c", embedder=SentenceTransformerEmbedder(ModelDouble()))
        made.add([Document(id="1", text="aaa"), Document(id="2", text="ccc")])
        assert made.search(text="aa", limit=1)[0].id == "1"
        with pytest.raises(SpaceMismatch, match="sentence-transformers/ModelDouble"):
            client.collection("c", embedder=SentenceTransformerEmbedder(ModelDouble(2.0))).search(text="a")


def test_a_failing_model_and_a_wrong_answer_say_why(monkeypatch):
    embedder = SentenceTransformerEmbedder(ModelDouble())
    monkeypatch.setattr(embedder._model, "encode_query", lambda *_, **__: 1 / 0)
    with pytest.raises(EmbeddingFailed, match="ZeroDivisionError"):
        embedder.embed_query("a")
    monkeypatch.setattr(embedder._model, "encode_document", lambda *_, **__: np.full((1, 6), np.nan))
    with pytest.raises(EmbeddingFailed, match=r"2 texts with shape \(1, 6\)"):
        embedder.embed_documents(["a", "b"])
    with pytest.raises(EmbeddingFailed, match="no finite numbers"):
        embedder.embed_documents(["a"])


@pytest.mark.parametrize(
    ("match", "model", "options"),
    [
        ("batch_size", ModelDouble(), {"batch_size": 0}),
        ("truncate_dim", ModelDouble(), {"truncate_dim": -1}),
        ("device", ModelDouble(), {"device": "cpu"}),
        ("revision", ModelDouble(), {"revision": "main"}),
        ("not float", 7.0, {}),
    ],
)
def test_wrong_arguments_are_refused(match, model, options):
    with pytest.raises(InputError, match=match):
        SentenceTransformerEmbedder(model, **options)


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(MissingExtra, match=r"svr-retrievers\[huggingface\]"):
        SentenceTransformerEmbedder("sentence-transformers/all-MiniLM-L6-v2")


# With the package itself: a tiny BERT of random weights, in a folder.

CONFIG = {
    "vocab_size": 12,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


def save_model(folder, model) -> str:
    from transformers import PreTrainedTokenizerFast

    from tests.providers.onnx_models import write_tokenizer

    model.eval().save_pretrained(folder)
    write_tokenizer(folder)
    named = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep")}
    named["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), model_max_length=64, **named
    ).save_pretrained(folder)
    return str(folder)


def export(model, folder, output: str) -> None:
    import torch

    class Named(torch.nn.Module):
        """The arguments by name, whatever order the model has them in."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, input_ids, attention_mask, token_type_ids):
            made = self.inner(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            )
            return made[output]

    names = ("input_ids", "attention_mask", "token_type_ids")
    example = {name: torch.ones((2, 5), dtype=torch.long) for name in names}
    axes = {name: {0: "batch", 1: "sequence"} for name in names}
    torch.onnx.export(
        Named(), (), str(folder / "model.onnx"), kwargs=example, input_names=list(names), output_names=[output],
        dynamic_axes={**axes, output: {0: "batch"} if output == "logits" else axes["input_ids"]}, dynamo=False,
    )  # fmt: skip


TEXTS = ["red", "blue sea", "warm sun sky green blue", "sun " * 80]


@installed
@pytest.mark.filterwarnings("ignore")
def test_a_real_model_by_folder_and_by_object_and_its_onnx_export_agree(tmp_path):
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel

    from svr_retrievers.embedding.onnx import OnnxEmbedder

    torch.manual_seed(1)
    model = BertModel(BertConfig(**CONFIG), add_pooling_layer=False)
    folder = save_model(tmp_path, model)
    by_folder = SentenceTransformerEmbedder(folder, device="cpu")
    by_object = SentenceTransformerEmbedder(SentenceTransformer(folder, device="cpu"))
    assert by_folder.space == by_object.space
    assert by_folder.space.model == tmp_path.name
    expected = by_folder.matrix(TEXTS)
    np.testing.assert_allclose(by_object.matrix(TEXTS), expected, atol=1e-6)
    assert SentenceTransformerEmbedder(folder, device="cpu", truncate_dim=8).dimensions == 8
    prompted = SentenceTransformerEmbedder(folder, device="cpu", query_prompt="warm ")
    np.testing.assert_allclose(prompted.embed_query("sun"), by_folder.matrix(["warm sun"])[0], atol=1e-6)
    export(model, tmp_path, "last_hidden_state")
    np.testing.assert_allclose(OnnxEmbedder(tmp_path).matrix(TEXTS), expected, atol=1e-5)


@installed
@pytest.mark.rerank
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("labels", [1, 2])
def test_a_real_cross_encoder_by_folder_and_by_object_and_its_onnx_export_agree(tmp_path, labels):
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification

    from svr_retrievers.reranking import CrossEncoderReranker

    torch.manual_seed(2)
    config = BertConfig(**CONFIG, num_labels=labels)
    model = BertForSequenceClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    folder = save_model(tmp_path, model)
    asked = "warm sea"
    by_folder = CrossEncoderReranker(folder, device="cpu", max_length=64, batch_size=2)
    loaded = CrossEncoder(folder, device="cpu", max_length=64)
    expected = by_folder.rerank(asked, TEXTS)
    assert len(set(expected)) == len(TEXTS)
    np.testing.assert_allclose(CrossEncoderReranker(loaded).rerank(asked, TEXTS), expected, atol=1e-6)
    own = np.asarray(
        loaded.predict([(asked, text) for text in TEXTS], apply_softmax=labels == 2, activation_fn=None)
    )
    np.testing.assert_allclose(own if labels == 1 else own[:, 1], expected, atol=1e-5)
    export(model, tmp_path, "logits")
    np.testing.assert_allclose(CrossEncoderReranker(tmp_path).rerank(asked, TEXTS), expected, atol=1e-5)


@installed
@pytest.mark.filterwarnings("ignore")
def test_a_real_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="sentence-transformers cannot load"):
        SentenceTransformerEmbedder(tmp_path, device="cpu")
