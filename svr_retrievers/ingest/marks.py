"""What the pipeline notes in every row's metadata, from which a later run sees what is there already. PURE."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from svr_retrievers.model import Document, JsonValue, VectorLike

KEY = "svr_ingest"
"""The one metadata key that is the pipeline's own."""
MAX_CHUNKS = 1_000_000


@dataclass(frozen=True, slots=True)
class Mark:
    """Which document a row is of, which chunk of it, and from what it was made.

    `number` counts the chunks from 0 and is None for a document stored whole. `count` stands on chunk 0 alone: no
    row of the document has a number from there on. `text` is the hash of what the vector stands for, `content`
    that of everything else.
    """

    document: str
    number: int | None
    count: int | None
    text: str
    content: str

    def to_json(self) -> dict[str, JsonValue]:
        made: dict[str, JsonValue] = {"document": self.document, "text": self.text, "content": self.content}
        if self.number is not None:
            made["number"] = self.number
        if self.count is not None:
            made["count"] = self.count
        return made

    @classmethod
    def of(cls, stored: Document) -> Self | None:
        """The mark of a stored row; None where it has none, or one that no pipeline wrote."""
        body = stored.metadata.get(KEY)
        if not isinstance(body, Mapping):
            return None
        document, text, content = body.get("document"), body.get("text"), body.get("content")
        number, count = _number(body.get("number")), _number(body.get("count"))
        if not (isinstance(document, str) and isinstance(text, str) and isinstance(content, str)):
            return None
        if stored.id != (document if number is None else chunk_id(document, number)) or (number == 0) != bool(
            count
        ):
            return None
        return cls(document, number, count, text, content)


def _number(value: object) -> int | None:
    return (
        value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_CHUNKS else None
    )


def chunk_id(document: str, number: int) -> str:
    return f"{document}#{number}"


def text_hash(text: str, vector: VectorLike | None = None) -> str:
    """Of a text that is embedded; of the text with its vector where that was given."""
    made = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    if vector is not None:
        made.update(b"\0vector\0")
        made.update(_numbers(vector))
    return made.hexdigest()


def _numbers(vector: VectorLike) -> bytes:
    try:
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(vector, dtype=np.float32).tobytes()
    except (TypeError, ValueError, OverflowError):
        return b"?"  # refused when it is written


def content_hash(metadata: Mapping[str, JsonValue], count: int | None) -> str:
    body = json.dumps([metadata, count], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.blake2b(body.encode(), digest_size=16).hexdigest()
