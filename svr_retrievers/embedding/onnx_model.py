"""Runs an exported model with onnxruntime and tokenizers: batches of bounded size, a bounded number of threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from svr_retrievers.embedding.onnx_folder import OnnxFolder
from svr_retrievers.errors import ConfigError, ForkedClient, InputError, MissingExtra, ProviderFailed

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

BATCH_SIZE: Final = 32
SQUARED_TOKENS: Final = 2_048 * 2_048
"""A batch's texts times the square of its longest: what attention needs memory for, 16 MiB a head and layer."""
GROUP: Final = 512
"""Texts tokenised at a time: tokens weigh a hundred times their text."""
MOST_THREADS: Final = 4
"""More threads make a small model hardly faster, and take the machine from others."""

Floats = NDArray[np.float32]
Ids = NDArray[np.int64] | NDArray[np.int32]
Text = str | tuple[str, str]
Whole = type[np.int64] | type[np.int32]
NUMBERS: Final[Mapping[str, Whole]] = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


class _Node(Protocol):
    name: str
    type: str
    shape: Sequence[object]


class _Session(Protocol):
    def get_inputs(self) -> Sequence[_Node]: ...

    def get_outputs(self) -> Sequence[_Node]: ...

    def run(self, outputs: Sequence[str], feed: Mapping[str, Ids]) -> Sequence[Floats]: ...


@dataclass(frozen=True, slots=True)
class Ran:
    """A batch's results: `rows` are positions in the texts given, `mask` is 1 for each token that is no padding."""

    rows: Sequence[int]
    mask: Ids
    output: Floats


class Stopped(Exception):
    """The caller has gone; what was computed is of no use."""


class OnnxModel:
    """A graph and its tokenizer. Calls from several threads take turns batch by batch, so memory stays bounded."""

    def __init__(
        self,
        folder: OnnxFolder,
        *,
        max_length: int | None,
        batch_size: int,
        threads: int | None,
        pairs: bool = False,
        error: type[ProviderFailed],
    ) -> None:
        for name, value in (("batch_size", batch_size), ("threads", threads)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name} must be a whole number from 1 on, not {value!r}.")
        self.folder = folder
        self.max_length = folder.max_length(max_length)
        self._batch_size = batch_size
        self._error = error
        self._tokenizer = _tokenizer(folder, self.max_length, "only_second" if pairs else "longest_first")
        self._plain = _tokenizer(folder, None)
        padding = self._tokenizer.padding
        self._types = "token_type_ids" in folder.tokenizer_inputs()
        self._pad_id = int(padding["pad_id"]) if padding else folder.pad_id()
        self._tokenizer.no_padding()
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._session = _session(folder, threads or min(MOST_THREADS, _cores()))
        self.inputs = _checked_inputs(folder, self._session.get_inputs())
        self.outputs = {node.name: len(node.shape) for node in self._session.get_outputs()}

    def cut(self, text: str, tokens: int) -> str:
        """The text's beginning, of at most `tokens` tokens."""
        found = self._encoded(self._plain, [text], special=False)[0]
        return text if len(found.ids) <= tokens else text[: found.offsets[tokens - 1][1]]

    def run(
        self, texts: Sequence[Text], output: str, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Ran]:
        """Results in batches of texts of similar length. Raises Stopped before a batch that nobody waits for."""
        order = sorted(range(len(texts)), key=lambda i: _size(texts[i]))
        for start in range(0, len(order), GROUP):
            rows = order[start : start + GROUP]
            encodings = self._encoded(self._tokenizer, [texts[i] for i in rows])
            for batch in self._batches([len(e.ids) for e in encodings]):
                if stopped():
                    raise Stopped
                feed, mask = self._feed([encodings[i] for i in batch])
                yield Ran([rows[i] for i in batch], mask, self._compute(output, feed))

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        for row in sorted(range(len(lengths)), key=lengths.__getitem__):
            full = len(batch) >= self._batch_size
            if batch and (full or lengths[row] ** 2 * (len(batch) + 1) > SQUARED_TOKENS):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _feed(self, encodings: Sequence[Encoding]) -> tuple[dict[str, Ids], Ids]:
        longest = max(1, *(len(e.ids) for e in encodings))
        pad = partial(_padded, longest=longest)
        mask = pad([[1] * len(e.ids) for e in encodings], 0)
        made: dict[str, Callable[[], Ids]] = {
            "input_ids": lambda: pad([e.ids for e in encodings], self._pad_id),
            "attention_mask": lambda: mask,
            "token_type_ids": lambda: pad([e.type_ids if self._types else [] for e in encodings], 0),
            "position_ids": lambda: np.tile(np.arange(longest), (len(encodings), 1)),
        }
        return {name: cast("Ids", made[name]().astype(number)) for name, number in self.inputs.items()}, mask

    def _compute(self, output: str, feed: Mapping[str, Ids]) -> Floats:
        if self._process != os.getpid():
            raise ForkedClient(
                f"The model {self.folder.name} was opened before this process forked: its threads are not here.",
                hint="Open the model in the child process, or use threads.",
            )
        try:
            with self._lock:
                (found,) = self._session.run([output], feed)
        except Exception as error:
            raise self._error(
                f"The model {self.folder.name} failed: {_first_line(error)}.",
                hint="The cause is attached to this error (`__cause__`). Was the model exported for this task?",
                provider="onnx",
            ) from error
        return np.asarray(found, dtype=np.float32)

    def _encoded(
        self, tokenizer: Tokenizer, texts: Sequence[Text], *, special: bool = True
    ) -> list[Encoding]:
        try:
            return list(tokenizer.encode_batch(list(texts), add_special_tokens=special))
        except Exception as error:
            raise self._error(
                f"A text cannot become tokens: {_first_line(error)}.",
                hint="Texts must be valid Unicode strings, without lone surrogates.",
                reason="request",
                provider="onnx",
            ) from error

    def __repr__(self) -> str:
        return f"OnnxModel({self.folder.name!r}, max_length={self.max_length})"


def _size(text: Text) -> int:
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])


def _padded(rows: Sequence[Sequence[int]], fill: int, longest: int) -> Ids:
    table = np.full((len(rows), longest), fill, dtype=np.int64)
    for row, values in enumerate(rows):
        table[row, : len(values)] = values
    return table


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:200].rstrip(".")


def _tokenizer(folder: OnnxFolder, max_length: int | None, strategy: str = "longest_first") -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise _missing("tokenizers") from error
    try:
        made = Tokenizer.from_file(str(folder.tokenizer))
        if max_length is None:
            made.no_truncation()
        else:
            made.enable_truncation(max_length, strategy=strategy)
    except Exception as error:
        raise ConfigError(
            f"{folder.tokenizer} cannot be read: {_first_line(error)}.", hint="Export the model again."
        ) from error
    return made


def _session(folder: OnnxFolder, threads: int) -> _Session:
    try:
        runtime = import_module("onnxruntime")
    except ImportError as error:
        raise _missing("onnxruntime") from error
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # Waiting threads would otherwise burn the cores that other work needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        made = runtime.InferenceSession(str(folder.graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ConfigError(
            f"{folder.graph} is no model that onnxruntime can open: {_first_line(error)}.",
            hint="Export it again; a file tracked by Git LFS must be pulled first.",
        ) from error
    return cast("_Session", made)


def _missing(package: str) -> MissingExtra:
    return MissingExtra(
        f"ONNX models need the package `{package}`, which is not installed.",
        hint='Run: pip install "svr-retrievers[onnx]"',
    )


def _checked_inputs(folder: OnnxFolder, nodes: Sequence[_Node]) -> dict[str, Whole]:
    """Input names with their number type. Raises ConfigError for a graph that wants something else than tokens."""
    known = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}
    strange = [
        f"{node.name} ({node.type})" for node in nodes if node.name not in known or node.type not in NUMBERS
    ]
    if strange or "input_ids" not in {node.name for node in nodes}:
        raise ConfigError(
            f"{folder.graph} reads {', '.join(strange) or 'no input_ids'}, which is not made from text.",
            hint=f"A graph is fed {', '.join(sorted(known))} of whole numbers: export an encoder, not a decoder.",
        )
    fixed = [str(node.shape) for node in nodes if any(isinstance(size, int) for size in node.shape)]
    if fixed:
        raise ConfigError(
            f"{folder.graph} takes inputs of one fixed size only: {fixed[0]}.",
            hint="Export it with dynamic axes (optimum-cli does so by default).",
        )
    return {node.name: NUMBERS[node.type] for node in nodes}
