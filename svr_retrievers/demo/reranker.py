"""The small cross-encoder that this package brings: for demos and tests, without a download."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from svr_retrievers.reranking.cross_encoder import CrossEncoderReranker

NAME = "svr-small-cross-encoder"


def demo_reranker(*, threads: int | None = None) -> CrossEncoderReranker:
    """Trained on Python's manual, in English; about 8 MB. `cross_encoder/README.md` says what it can and cannot do.

    Raises:
        MissingExtra: onnxruntime or tokenizers is not installed: `pip install "svr-retrievers[onnx]"`.
    """
    folder = Path(str(files("svr_retrievers.demo") / "cross_encoder"))
    return CrossEncoderReranker(folder, name=NAME, threads=threads)
