"""What lies in a model's folder as Hugging Face exports it: the graph, the tokenizer, and settings, if any."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from svr_retrievers.errors import ConfigError
from svr_retrievers.values import JsonValue

MOST_TOKENS: Final = 2_048
"""Where nobody says otherwise: attention takes memory by the square, 256 MiB for a text of this length."""
USUAL_TOKENS: Final = 512
LEAST_TOKENS: Final = 4
EXPORT: Final = (
    "pip install 'optimum-onnx[onnxruntime]' && optimum-cli export onnx --model MODEL --task {task} {folder}"
)


@dataclass(frozen=True, slots=True)
class OnnxFolder:
    """A folder that has been looked into: `graph` and `tokenizer` are files that exist."""

    path: Path
    graph: Path
    tokenizer: Path

    @property
    def name(self) -> str:
        """The model's, also where the folder is a snapshot in the cache of huggingface_hub."""
        for part in reversed(self.path.parts):
            if part.startswith("models--"):
                return part.rpartition("--")[2]
        return self.path.name

    def settings(self, file: str) -> Mapping[str, JsonValue]:
        """A JSON file's object, empty where there is none. Raises ConfigError for one that cannot be read."""
        body = self._json(file)
        return body if isinstance(body, dict) else {}

    def _json(self, file: str) -> JsonValue:
        path = self.path / file
        if not path.is_file():
            return None
        try:
            body: JsonValue = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} is no JSON: {error}.", hint="Export the model again.") from error
        return body

    def modules(self) -> list[str]:
        """The kinds of layers that sentence-transformers would chain, e.g. ["Transformer", "Pooling"]; often none."""
        body = self._json("modules.json")
        kinds = (
            [entry.get("type") for entry in body if isinstance(entry, dict)] if isinstance(body, list) else []
        )
        return [str(kind).rpartition(".")[2] for kind in kinds]

    def digest(self) -> str:
        """16 hexadecimal digits of the SHA-256 over graph, weights beside it and tokenizer: what decides a vector."""
        whole = hashlib.sha256()
        weights = sorted(p for p in self.graph.parent.iterdir() if p.name.startswith(self.graph.name))
        for path in (*weights, self.tokenizer):
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()[:16]

    def max_length(self, wanted: int | None) -> int:
        """In tokens: `wanted`, else the least that the settings name. Raises ConfigError beyond the model's own."""
        positions = _whole(self.settings("config.json").get("max_position_embeddings"))
        if wanted is not None:
            if wanted < LEAST_TOKENS or (positions is not None and wanted > positions):
                raise ConfigError(
                    f"max_length is {wanted:,}, but {self.name} reads from 4 to {positions or MOST_TOKENS:,} tokens."
                )
            return wanted
        known = (
            _whole(self.settings("sentence_bert_config.json").get("max_seq_length")),
            _whole(self.settings("tokenizer_config.json").get("model_max_length")),
            positions,
        )
        return min([MOST_TOKENS, *(length for length in known if length)]) if any(known) else USUAL_TOKENS

    def tokenizer_inputs(self) -> Sequence[str]:
        """What the tokenizer feeds the model: one that leaves token types out has them all zero."""
        named = self.settings("tokenizer_config.json").get("model_input_names")
        return [str(name) for name in named] if isinstance(named, list) else ["token_type_ids"]

    def pad_id(self) -> int:
        return _whole(self.settings("config.json").get("pad_token_id"), least=0) or 0


def _whole(value: JsonValue | None, least: int = 4) -> int | None:
    """A usable number. Tokenizers without a limit say 10 to the power of 30."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= least:
        return int(value)
    return None


def looks_like_onnx(folder: str | Path, file: str = "model.onnx") -> bool:
    return _graph(Path(folder), file) is not None


def open_folder(folder: str | Path, file: str, *, task: str) -> OnnxFolder:
    """The folder with the files that are needed. `task` is what the model is to be exported for.

    Raises:
        ConfigError: the folder or one of the files is missing; the hint holds the command that makes them.
    """
    path = Path(folder).expanduser()
    made_by = EXPORT.format(task=task, folder=shlex.quote(str(path)))
    if not path.is_dir():
        raise ConfigError(f"The folder {str(path)!r} does not exist.", hint=f"Make it with: {made_by}")
    path = path.resolve()
    graph, tokenizer = _graph(path, file), path / "tokenizer.json"
    if graph is None:
        raise ConfigError(f"{path} holds neither {file} nor onnx/{file}.", hint=f"Make it with: {made_by}")
    if not tokenizer.is_file():
        raise ConfigError(
            f"{path} holds no tokenizer.json, which says how text becomes tokens.",
            hint=f"It lies beside the model's other files, and this makes it: {made_by}",
        )
    return OnnxFolder(path, graph, tokenizer)


def _graph(folder: Path, file: str) -> Path | None:
    return next((path for path in (folder / file, folder / "onnx" / file) if path.is_file()), None)
