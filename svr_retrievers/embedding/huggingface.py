"""Sentence models by sentence-transformers, on this machine: any of its models, on CPU or GPU, with PyTorch."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Final, Literal, Protocol, cast, runtime_checkable

import anyio.to_thread
import numpy as np

from svr_retrievers.errors import ConfigError, EmbeddingFailed, InputError, MissingExtra
from svr_retrievers.model import Vector
from svr_retrievers.spaces import VectorSpace

TURN: Final = 512
"""Texts embedded before another thread gets its turn."""


class _Tensor(Protocol):
    def detach(self) -> _Tensor: ...

    def cpu(self) -> _Tensor: ...

    def float(self) -> _Tensor: ...

    def numpy(self) -> Vector: ...


@runtime_checkable
class SentenceModel(Protocol):
    """What is used of a `SentenceTransformer`."""

    def encode_query(self, inputs: list[str], /, **options: object) -> object: ...

    def encode_document(self, inputs: list[str], /, **options: object) -> object: ...

    def state_dict(self) -> Mapping[str, _Tensor]: ...


class SentenceTransformerEmbedder:
    """Embeds with a sentence-transformers model: a name on the Hugging Face hub, a folder, or a loaded model.

    A name is downloaded on first use, once; a folder and a loaded model need no network. Queries and documents get
    the prompts that the model declares for them; `query_prompt` and `document_prompt` replace these ("" for none).
    Vectors are float32, of length 1 with `normalize`, cut to `truncate_dim` numbers for models trained for that.
    Calls from several threads take turns. `device` is PyTorch's, e.g. "cpu" or "cuda:0".

    Raises:
        ConfigError: the model cannot be loaded.
        MissingExtra: sentence-transformers is not installed.
    """

    def __init__(
        self,
        model: str | Path | SentenceModel,
        *,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        normalize: bool = True,
        truncate_dim: int | None = None,
        device: str | None = None,
        revision: str | None = None,
        batch_size: int = 32,
        name: str | None = None,
    ) -> None:
        for what, value in (("batch_size", batch_size), ("truncate_dim", truncate_dim)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"{what} must be a whole number from 1 on, not {value!r}.")
        self._model = _opened(model, device=device, revision=revision)
        self._lock = threading.Lock()
        self._prompts = {"query": query_prompt, "document": document_prompt}
        self._options = {
            "normalize_embeddings": normalize,
            "truncate_dim": truncate_dim,
            "batch_size": batch_size,
        }
        self._space = self._declared(name or model_name(model), normalized=normalize)

    @property
    def space(self) -> VectorSpace:
        """The model's name, and the SHA-256 of its weights: the same model from hub and folder is one space."""
        return self._space

    @property
    def dimensions(self) -> int:
        return self._space.dimensions

    def embed_documents(self, texts: Sequence[str]) -> list[Vector]:
        """One vector per text, in order. Raises EmbeddingFailed."""
        return list(self.matrix(texts))

    def embed_query(self, text: str) -> Vector:
        """The vector of a question. Raises EmbeddingFailed."""
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
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        turns = range(0, len(texts), TURN)
        return np.concatenate([self._embed(texts[start : start + TURN], "document") for start in turns])

    def _embed(self, texts: Sequence[str], kind: Literal["query", "document"]) -> Vector:
        encode = self._model.encode_query if kind == "query" else self._model.encode_document
        call = partial(
            encode, list(texts), prompt=self._prompts[kind], show_progress_bar=False, **self._options
        )
        try:
            with self._lock:
                made = np.asarray(call(), dtype=np.float32)
        except Exception as error:
            raise EmbeddingFailed(
                f"The local model failed: {type(error).__name__}: {str(error)[:200]}",
                hint="The cause is attached to this error (`__cause__`).",
                provider="sentence-transformers",
            ) from error
        if made.ndim != 2 or len(made) != len(texts) or not np.isfinite(made).all():
            raise EmbeddingFailed(
                f"The local model answered {len(texts)} texts with shape {made.shape}, or with no finite numbers.",
                reason="answer",
                provider="sentence-transformers",
            )
        return made

    def _declared(self, name: str, *, normalized: bool) -> VectorSpace:
        declared = getattr(self._model, "prompts", None)
        own: Mapping[str, str] = declared if isinstance(declared, Mapping) else {}
        query = self._prompts["query"] if self._prompts["query"] is not None else own.get("query")
        documents = (own.get(key) for key in ("document", "passage", "corpus"))
        document = self._prompts["document"]
        document = next((p for p in documents if p), "") if document is None else document
        told = [f"{kind} {prompt!r}" for kind, prompt in (("document", document), ("query", query)) if prompt]
        return VectorSpace(
            "sentence-transformers",
            name,
            self._embed(["a"], "document").shape[1],
            version=_digest(self._model.state_dict().items()),
            normalized=normalized,
            inputs=", ".join(told),
        )

    def __repr__(self) -> str:
        return f"SentenceTransformerEmbedder({self._space.model!r}, dimensions={self.dimensions})"


def _opened(model: object, *, device: str | None, revision: str | None) -> SentenceModel:
    if isinstance(model, str | Path):
        opened = load_model("SentenceTransformer", model, device=device, revision=revision)
    else:
        refuse_for_objects(device=device, revision=revision)
        opened = model
    if not isinstance(opened, SentenceModel):
        raise InputError(
            f"model must be a name, a folder or a SentenceTransformer, not {type(model).__name__}.",
            hint="Models need encode_query and encode_document: sentence-transformers 5 or newer.",
        )
    return opened


def load_model(kind: str, model: str | Path, **options: object) -> object:
    """A model of sentence-transformers by its class's name. Raises ConfigError, MissingExtra."""
    try:
        package = import_module("sentence_transformers")
    except ImportError as error:
        raise MissingExtra(
            "Local models of the Hugging Face hub need the package `sentence-transformers`, which is not installed.",
            hint='Run: pip install "svr-retrievers[huggingface]" (with PyTorch), or export the model to ONNX.',
        ) from error
    given = {name: value for name, value in options.items() if value is not None}
    path = Path(model).expanduser()
    try:
        return cast("object", getattr(package, kind)(str(path) if path.is_dir() else str(model), **given))
    except Exception as error:
        raise ConfigError(
            f"sentence-transformers cannot load {str(model)!r}: {type(error).__name__}: {str(error)[:300]}",
            hint="Give the name of a model on the hub, or a folder written by save_pretrained().",
        ) from error


def refuse_for_objects(**options: object) -> None:
    """Raises InputError for options that only mean something while a model is loaded."""
    for name, value in options.items():
        if value is not None:
            raise InputError(f"{name} cannot be given with a loaded model: it is the model's own.")


def model_name(model: object) -> str:
    """The last part of its name or folder, also of a loaded model: hub and folder give the same."""
    if not isinstance(model, str | Path):
        return _name_within(model) or type(model).__name__
    path = Path(model).expanduser()
    parts = (path.resolve() if path.is_dir() else path).parts
    cached = next((part for part in reversed(parts) if part.startswith("models--")), "")
    return cached.rpartition("--")[2] or parts[-1]


def _name_within(model: object) -> str:
    """Transformers remembers where a model came from."""
    try:
        first = next(iter(cast("Iterable[object]", model)))
    except (TypeError, StopIteration):
        return ""
    inner = getattr(first, "auto_model", None)
    origin = getattr(getattr(inner, "config", None), "_name_or_path", "")
    return model_name(origin) if isinstance(origin, str) and origin else ""


def _digest(weights: Iterable[tuple[str, _Tensor]]) -> str:
    """16 hexadecimal digits; about a second for each gigabyte of weights.

    BERT's own pooler is left out: sentence models do not use it, and where a file lacks it, it is random.
    """
    whole = hashlib.sha256()
    for name, tensor in sorted(
        (pair for pair in weights if ".pooler." not in pair[0]), key=lambda pair: pair[0]
    ):
        whole.update(name.encode())
        whole.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy()).tobytes())
    return whole.hexdigest()[:16]
