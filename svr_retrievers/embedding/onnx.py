"""Sentence models exported to ONNX: onnxruntime and tokenizers, without PyTorch and without network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, get_args

import anyio.to_thread
import numpy as np

from svr_retrievers.embedding.onnx_folder import OnnxFolder, open_folder
from svr_retrievers.embedding.onnx_model import BATCH_SIZE, Floats, Ids, OnnxModel, Ran
from svr_retrievers.errors import ConfigError, EmbeddingFailed, InputError
from svr_retrievers.model import Vector
from svr_retrievers.spaces import VectorSpace
from svr_retrievers.values import JsonValue

Pooling = Literal["mean", "cls", "last"]
MODES: Final[Mapping[str, Pooling]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last",
}
POOLED: Final = "sentence_embedding"
PLAIN: Final = frozenset({"Transformer", "Pooling", "Normalize"})
TOKENS: Final = ("last_hidden_state", "token_embeddings")


class OnnxEmbedder:
    """Embeds with a model in a folder as Hugging Face exports it; nothing is ever downloaded.

    The folder holds `tokenizer.json` and `model.onnx` or `onnx/model.onnx` (another `file`, e.g.
    "model_quantized.onnx"). Where they are there, `config.json`, `1_Pooling/config.json` and
    `config_sentence_transformers.json` say how to pool, how many tokens to read and what to put before documents
    and queries; `pooling`, `max_length`, `document_prefix` and `query_prefix` say otherwise.

    Vectors are float32, of length 1 with `normalize`. A text beyond `max_length` tokens is cut. Texts are sorted by
    length into batches whose memory is bounded; calls from several threads take turns batch by batch. `threads`
    (at most 4, where nobody says) compute. The same call gives the same vectors; a model quantised dynamically to
    int8 rounds by what else is in the batch, so there a vector may differ slightly from call to call.

    Raises:
        ConfigError: the folder lacks a file, or the graph is no encoder of text; the hint says how to export one.
        MissingExtra: onnxruntime or tokenizers is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        pooling: Pooling | None = None,
        normalize: bool = True,
        document_prefix: str | None = None,
        query_prefix: str | None = None,
        max_length: int | None = None,
        file: str = "model.onnx",
        name: str | None = None,
        batch_size: int = BATCH_SIZE,
        threads: int | None = None,
    ) -> None:
        if pooling is not None and pooling not in get_args(Pooling):
            raise InputError(f"pooling must be 'mean', 'cls' or 'last', not {pooling!r}.")
        opened = open_folder(folder, file, task="feature-extraction")
        prompts = _prompts(opened)
        self._prefixes = {
            "document": prompts[0] if document_prefix is None else document_prefix,
            "query": prompts[1] if query_prefix is None else query_prefix,
        }
        self._model = OnnxModel(
            opened, max_length=max_length, batch_size=batch_size, threads=threads, error=EmbeddingFailed
        )
        self._output, self._pooling = _pooled(opened, self._model.outputs, pooling)
        self._normalize = normalize
        self._name = name or opened.name
        self._space = self._declared()

    @property
    def space(self) -> VectorSpace:
        """The model's name with the SHA-256 of its files: another export of the same model is another space."""
        return self._space

    @property
    def dimensions(self) -> int:
        return self._space.dimensions

    def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        """One vector per text, in order. Raises EmbeddingFailed."""
        return list(self.matrix(texts))

    def embed_query(self, text: str) -> Vector:
        """The vector of a question: `query_prefix` stands before it. Raises EmbeddingFailed."""
        row: Vector = self._embed([text], "query")[0]
        return row

    async def aembed_documents(self, texts: Sequence[str]) -> list[Vector]:
        """As `embed_documents`, in a worker thread."""
        return await anyio.to_thread.run_sync(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> Vector:
        """As `embed_query`, in a worker thread."""
        return await anyio.to_thread.run_sync(self.embed_query, text)

    def matrix(self, texts: Sequence[str]) -> Vector:
        """The documents' vectors as one array, a row per text."""
        return self._embed(texts, "document")

    def _embed(self, texts: Sequence[str], kind: Literal["document", "query"]) -> Vector:
        prefix = self._prefixes[kind]
        made = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for ran in self._model.run([prefix + text for text in texts], self._output):
            made[ran.rows] = self._finished(ran)
        return _checked(made, texts)

    def _finished(self, ran: Ran) -> Floats:
        pooled = ran.output if self._pooling is None else POOL[self._pooling](ran.output, ran.mask)
        if not self._normalize:
            return pooled
        lengths = np.linalg.norm(pooled, axis=1, keepdims=True)
        return np.asarray(pooled / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)

    def _declared(self) -> VectorSpace:
        """The vectors' length is what the model makes of one word: graphs need not declare it."""
        (ran,) = self._model.run(["a"], self._output)
        told = [f"pooling {self._pooling}"] if self._pooling else []
        told += [f"{kind} {prefix!r}" for kind, prefix in self._prefixes.items() if prefix]
        return VectorSpace(
            "onnx",
            self._name,
            int(ran.output.shape[-1]),
            version=self._model.folder.digest(),
            normalized=self._normalize,
            inputs=", ".join(told),
        )

    def __repr__(self) -> str:
        return (
            f"OnnxEmbedder({self._name!r}, dimensions={self.dimensions}, max_length={self._model.max_length})"
        )


def _mean(hidden: Floats, mask: Ids) -> Floats:
    weight = mask[:, :, None].astype(np.float32)
    return np.asarray((hidden * weight).sum(axis=1) / np.maximum(weight.sum(axis=1), 1), dtype=np.float32)


def _first(hidden: Floats, mask: Ids) -> Floats:  # noqa: ARG001 - one signature for all
    return hidden[:, 0]


def _last(hidden: Floats, mask: Ids) -> Floats:
    ends = np.maximum(mask.sum(axis=1) - 1, 0)
    return np.asarray(hidden[np.arange(len(hidden)), ends], dtype=np.float32)


POOL: Final[Mapping[Pooling, Callable[[Floats, Ids], Floats]]] = {"mean": _mean, "cls": _first, "last": _last}


def _checked(made: Vector, texts: Sequence[str]) -> Vector:
    bad = np.flatnonzero(~(np.isfinite(made).all(axis=1) & made.any(axis=1)))
    if bad.size:
        first = int(bad[0])
        raise EmbeddingFailed(
            f"{bad.size} of {len(texts)} texts have no vector; the first is number {first}: {texts[first][:40]!r}.",
            hint="Leave texts out that hold nothing, or give those documents a vector.",
            reason="answer",
            provider="onnx",
        )
    return made


def _pooled(
    folder: OnnxFolder, outputs: Mapping[str, int], wanted: Pooling | None
) -> tuple[str, Pooling | None]:
    """(output to read, pooling that is left to us). Raises ConfigError for a graph or folder of another kind."""
    if wanted is None and POOLED in outputs:
        return POOLED, None
    output = next((name for name in TOKENS if name in outputs), None)
    output = output or next((name for name, axes in outputs.items() if axes == 3), None)
    if output is not None:
        _refuse_more_layers(folder)
        return output, wanted or _said(folder)
    raise ConfigError(
        f"{folder.graph} answers {', '.join(outputs)}: neither a vector per token nor a {POOLED}.",
        hint="Export the model for the task feature-extraction.",
    )


def _said(folder: OnnxFolder) -> Pooling:
    """What the folder says about pooling; the mean where it says nothing."""
    body = folder.settings("1_Pooling/config.json")
    told = [name for name, value in body.items() if name.startswith("pooling_mode") and value is True]
    if isinstance(mode := body.get("pooling_mode"), str):
        told = [mode]
    if not told:
        return "mean"
    if len(told) > 1 or told[0] not in MODES:
        raise ConfigError(
            f"{folder.name} pools by {' and '.join(told)}, which is not known here.",
            hint="Export it as a whole with sentence-transformers, or pass pooling='mean', 'cls' or 'last'.",
        )
    return MODES[told[0]]


def _refuse_more_layers(folder: OnnxFolder) -> None:
    """Raises ConfigError for a model with layers behind the pooling, which an exported encoder lacks."""
    more = [kind for kind in folder.modules() if kind not in PLAIN]
    if more:
        raise ConfigError(
            f"{folder.name} has layers that {folder.graph.name} does not hold: {', '.join(more)}.",
            hint=f"Export it so that the graph answers {POOLED}, or use SentenceTransformerEmbedder.",
        )


def _prompts(folder: OnnxFolder) -> tuple[str, str]:
    """(document prefix, query prefix) as the folder says, else none."""
    found = folder.settings("config_sentence_transformers.json").get("prompts")
    prompts: Mapping[str, JsonValue] = found if isinstance(found, dict) else {}
    document = prompts.get("document") or prompts.get("passage") or ""
    return str(document), str(prompts.get("query") or "")
