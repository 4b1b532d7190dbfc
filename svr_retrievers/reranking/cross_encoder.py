"""Reranking on this machine by a cross-encoder: an exported ONNX model, or one of sentence-transformers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Literal, Protocol, get_args, runtime_checkable

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from svr_retrievers.embedding.huggingface import load_model, model_name, refuse_for_objects
from svr_retrievers.embedding.onnx_folder import looks_like_onnx, open_folder
from svr_retrievers.embedding.onnx_model import OnnxModel, Stopped
from svr_retrievers.errors import ConfigError, InputError, RerankFailed

BATCH_SIZE: Final = 16
"""Small, so that a caller who has gone is noticed soon; larger batches are hardly faster on a CPU."""

Scale = Literal["probability", "raw"]
Scores = NDArray[np.float64]
Rows = Sequence[int]


@runtime_checkable
class PairModel(Protocol):
    """What is used of a sentence-transformers `CrossEncoder`."""

    def predict(self, inputs: list[tuple[str, str]], /, **options: object) -> object: ...


class _Backend(Protocol):
    name: str

    def logits(
        self, query: str, texts: Sequence[str], stopped: Callable[[], bool]
    ) -> Iterator[tuple[Rows, NDArray[np.float32]]]: ...


class CrossEncoderReranker:
    """Scores each text together with the query, by a model that reads both: slower than vectors, and closer.

    `model` is one of:

    - a folder with `tokenizer.json` and `model.onnx` or `onnx/model.onnx` (another `file`): runs with onnxruntime
      alone, on `threads` threads (at most 4, where nobody says);
    - a name on the Hugging Face hub, a folder of sentence-transformers, or a loaded `CrossEncoder`: runs with
      PyTorch, on `device`. A name is downloaded on first use.

    Scores are from 0 to 1 (the sigmoid of a model's one answer, the softmax of the second of two), or with
    `scale="raw"` the model's own number, of two the second less the first. The order is the same. A pair beyond
    `max_length` tokens is cut at the text's end, and a query beyond half of them at its own. Work goes in batches of
    `batch_size`; when the caller of `arerank` is cancelled or out of time, it stops before the next batch.

    Raises:
        ConfigError: the folder lacks a file, or the model does not score pairs.
        MissingExtra: the packages for the model are not installed.
    """

    def __init__(
        self,
        model: str | Path | PairModel,
        *,
        scale: Scale = "probability",
        max_length: int | None = None,
        batch_size: int = BATCH_SIZE,
        file: str | None = None,
        threads: int | None = None,
        device: str | None = None,
        name: str | None = None,
    ) -> None:
        if scale not in get_args(Scale):
            raise InputError(f"scale must be 'probability' or 'raw', not {scale!r}.")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size must be a whole number from 1 on, not {batch_size!r}.")
        self._scale = scale
        self._backend: _Backend
        if isinstance(model, str | Path) and _is_onnx(model, file):
            if device is not None:
                raise InputError(
                    "device is for models of sentence-transformers; an ONNX model runs on the CPU."
                )
            self._backend = _OnnxPairs(model, file or "model.onnx", max_length, batch_size, threads)
        else:
            if file is not None or threads is not None:
                raise InputError("file and threads are for ONNX models, and this model is none.")
            self._backend = _TorchPairs(model, max_length, batch_size, device)
        self.name = name or self._backend.name
        self._try_one()

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """One score per text, in order. Raises RerankFailed."""
        return self._scores(query, list(texts), lambda: False)

    async def arerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """As `rerank`, in a worker thread, which stops soon after this call is cancelled."""
        gone = threading.Event()
        work = partial(self._scores, query, list(texts), gone.is_set)
        try:
            return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        finally:
            gone.set()

    def _try_one(self) -> None:
        try:
            self.rerank("a", ["a"])
        except RerankFailed as error:
            raise ConfigError(f"{self.name} cannot rerank. {error.message}", hint=error.hint) from error

    def _scores(self, query: str, texts: Sequence[str], stopped: Callable[[], bool]) -> list[float]:
        found = np.zeros(len(texts), dtype=np.float64)
        try:
            for rows, logits in self._backend.logits(query, texts, stopped):
                found[list(rows)] = scores_of(logits, self._scale, len(rows))
        except Stopped:
            return []
        return [float(score) for score in found]

    def __repr__(self) -> str:
        return f"CrossEncoderReranker({self.name!r}, scale={self._scale!r})"


def scores_of(logits: NDArray[np.float32], scale: Scale, count: int) -> Scores:
    """A score per pair from a model's answers. Raises RerankFailed unless it answers one or two numbers a pair."""
    table = np.asarray(logits, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or len(table) != count or table.shape[1] not in (1, 2):
        raise RerankFailed(
            f"The model answered {count} pairs with an array of shape {table.shape}.",
            hint="A cross-encoder for reranking answers one or two numbers a pair.",
            reason="answer",
        )
    raw: Scores = table[:, 0] if table.shape[1] == 1 else table[:, 1] - table[:, 0]
    return raw if scale == "raw" else np.exp(-np.logaddexp(0.0, -raw))


def _is_onnx(model: str | Path, file: str | None) -> bool:
    """A folder with a graph; also what can only be meant as such a folder, so that the error speaks of it."""
    path = Path(model).expanduser()
    if path.is_dir():
        return file is not None or looks_like_onnx(path) or not (path / "config.json").is_file()
    return isinstance(model, Path) or str(model).startswith((".", "/", "~"))


class _OnnxPairs:
    def __init__(
        self, folder: str | Path, file: str, max_length: int | None, batch_size: int, threads: int | None
    ) -> None:
        opened = open_folder(folder, file, task="text-classification")
        self._model = OnnxModel(
            opened,
            max_length=max_length,
            batch_size=batch_size,
            threads=threads,
            pairs=True,
            error=RerankFailed,
        )
        self._output = _logits_of(opened.path, self._model.outputs)
        self.name = opened.name

    def logits(
        self, query: str, texts: Sequence[str], stopped: Callable[[], bool]
    ) -> Iterator[tuple[Rows, NDArray[np.float32]]]:
        asked = self._model.cut(query, self._model.max_length // 2)
        for ran in self._model.run([(asked, text) for text in texts], self._output, stopped):
            yield ran.rows, ran.output


def _logits_of(folder: Path, outputs: dict[str, int]) -> str:
    if "logits" in outputs:
        return "logits"
    found = [name for name, axes in outputs.items() if axes in (1, 2)]
    if len(found) != 1:
        raise ConfigError(
            f"The model in {folder} answers {', '.join(outputs)}, and no logits.",
            hint="Export a cross-encoder for the task text-classification; an embedding model scores no pairs.",
        )
    return found[0]


class _TorchPairs:
    def __init__(
        self, model: str | Path | PairModel, max_length: int | None, batch_size: int, device: str | None
    ) -> None:
        if isinstance(model, str | Path):
            loaded = load_model("CrossEncoder", model, device=device, max_length=max_length)
        else:
            refuse_for_objects(device=device, max_length=max_length)
            loaded = model
        if not isinstance(loaded, PairModel):
            raise InputError(
                f"model must be a name, a folder or a CrossEncoder, not {type(model).__name__}.",
                hint="An object needs predict(pairs), as sentence-transformers' CrossEncoder has.",
            )
        self._model = loaded
        self._batch_size = batch_size
        self._lock = threading.Lock()
        self.name = model_name(model)

    def logits(
        self, query: str, texts: Sequence[str], stopped: Callable[[], bool]
    ) -> Iterator[tuple[Rows, NDArray[np.float32]]]:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), self._batch_size):
            if stopped():
                raise Stopped
            rows = order[start : start + self._batch_size]
            yield rows, self._predicted([(query, texts[i]) for i in rows])

    def _predicted(self, pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
        """The model's own answers: its activation is left out, ours is the same for every model."""
        try:
            with self._lock:
                made = self._model.predict(
                    pairs, batch_size=len(pairs), show_progress_bar=False, activation_fn=_unchanged
                )
            return np.asarray(made, dtype=np.float32)
        except Exception as error:
            raise RerankFailed(
                f"The model {self.name} failed: {type(error).__name__}: {str(error)[:200]}",
                hint="The cause is attached to this error (`__cause__`).",
                provider=self.name,
            ) from error


def _unchanged(logits: object) -> object:
    return logits
