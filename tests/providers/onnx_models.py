"""Tiny real ONNX models whose answers can be computed by hand, in folders as Hugging Face exports them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = (*SPECIAL, "red", "green", "blue", "warm", "cold", "sea", "sky", "sun")
DIMENSIONS = 6
TABLE = np.random.default_rng(3).normal(size=(len(WORDS), DIMENSIONS)).astype(np.float32)


def ids(text: str) -> list[int]:
    """What the tokenizer makes of words of the vocabulary."""
    return [2, *(WORDS.index(w) if w in WORDS else 1 for w in text.lower().split()), 3]


def write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def _inputs(names: Sequence[str], kind: int) -> list[object]:
    return [helper.make_tensor_value_info(name, kind, ["batch", "sequence"]) for name in names]


def _save(path: Path, nodes, inputs, output: str, axes: Sequence[object], constants) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, axes)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))


def write_encoder(
    folder: Path,
    *,
    file: str = "model.onnx",
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
    number: int = TensorProto.INT64,
    output: str = "last_hidden_state",
    table: np.ndarray = TABLE,
    tokenizer: bool = True,
    pooled: bool = False,
) -> Path:
    """A vector per token: its row of the table, whatever stands around it. `pooled`: the largest of each axis."""
    folder.mkdir(parents=True, exist_ok=True)
    output = "sentence_embedding" if pooled else output
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["rows" if pooled else output])]
    if pooled:
        nodes.append(helper.make_node("ReduceMax", ["rows"], [output], axes=[1], keepdims=0))
    axes = ["batch", table.shape[1]] if pooled else ["batch", "sequence", table.shape[1]]
    _save(folder / file, nodes, _inputs(inputs, number), output, axes, {"table": table})
    if tokenizer:
        write_tokenizer(folder)
    return folder


def write_scorer(folder: Path, *, labels: int = 1, rank: int = 2) -> Path:
    """Logits of a pair: ten times the number of passage tokens (type 1), plus the sum of all token ids, by 100.

    With more labels each further one is the first less 1. With rank 1 the answer has no axis of labels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    constants = {
        "ten": np.array(10.0, np.float32),
        "hundred": np.array(100.0, np.float32),
        "axis": np.array([1], np.int64),
        "steps": -np.arange(labels, dtype=np.float32)[None, :],
    }
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["types", "ten"], ["tens"]),
        helper.make_node("Add", ["ids", "tens"], ["tokens"]),
        helper.make_node("Mul", ["tokens", "mask"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "axis"], ["sums"], keepdims=int(rank == 2)),
        helper.make_node("Div", ["sums", "hundred"], ["first"]),
        helper.make_node("Add", ["first", "steps"], ["logits"]) if rank == 2 else
        helper.make_node("Identity", ["first"], ["logits"]),
    ]  # fmt: skip
    names = ("input_ids", "attention_mask", "token_type_ids")
    axes = ["batch", labels] if rank == 2 else ["batch"]
    _save(folder / "model.onnx", nodes, _inputs(names, TensorProto.INT64), "logits", axes, constants)
    write_tokenizer(folder)
    return folder


def write_json(folder: Path, file: str, body: object) -> None:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(body))
