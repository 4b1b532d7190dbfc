"""docs/local-models.md: its example runs, and the figures it states are those of the code."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from svr_retrievers.embedding import (
    OnnxEmbedder,
    SentenceTransformerEmbedder,
    huggingface,
    onnx_folder,
    onnx_model,
)
from svr_retrievers.reranking import CrossEncoderReranker, cross_encoder
from tests.providers.onnx_models import write_encoder, write_scorer

pytestmark = pytest.mark.providers

PAGE = (Path(__file__).parents[2] / "docs/local-models.md").read_text("utf-8")
WORDS = " ".join(PAGE.split())


def test_the_example_runs_on_folders_of_these_names(tmp_path, monkeypatch):
    write_encoder(tmp_path / "minilm")
    write_scorer(tmp_path / "reranker")
    monkeypatch.chdir(tmp_path)
    (example,) = [
        block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "OnnxEmbedder(" in block
    ]
    names: dict[str, object] = {}
    exec(compile(example, "docs/local-models.md", "exec"), names)
    assert names["found"].reranked
    assert {hit.id for hit in names["found"]} == {"reset", "invoice"}
    names["client"].close()


def test_the_model_that_comes_with_the_package_is_called_as_the_page_shows(capsys):
    (example,) = [
        block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "demo_reranker" in block
    ]
    exec(compile(example, "docs/local-models.md", "exec"), {})
    first, second = json.loads(capsys.readouterr().out)
    assert first < second


def test_the_limits_in_the_text_are_those_of_the_code():
    assert f"at most {onnx_folder.MOST_TOKENS:,} tokens; {onnx_folder.USUAL_TOKENS} where" in WORDS
    assert f"| {onnx_model.BATCH_SIZE} texts |" in WORDS
    assert f"may use, at most {onnx_model.MOST_THREADS} |" in WORDS
    assert f"turns of up to {huggingface.TURN} texts" in WORDS
    assert f"Batches hold {cross_encoder.BATCH_SIZE} texts" in WORDS


@pytest.mark.parametrize("kind", [OnnxEmbedder, SentenceTransformerEmbedder, CrossEncoderReranker])
def test_every_argument_is_told(kind):
    arguments = [name for name in inspect.signature(kind).parameters if name not in ("folder", "model")]
    missing = [name for name in arguments if f"`{name}" not in WORDS and f"{name}=" not in WORDS]
    assert not missing
