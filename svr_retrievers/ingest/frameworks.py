"""Documents of LangChain and nodes of LlamaIndex as records, known by what they hold: neither is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from svr_retrievers.errors import InputError


@runtime_checkable
class LangChainDocument(Protocol):
    """What LangChain's `Document` holds."""

    id: str | None
    page_content: str
    metadata: dict[str, object]


@runtime_checkable
class LlamaIndexNode(Protocol):
    """What LlamaIndex' `Document` and `TextNode` hold. An `embedding` becomes the vector."""

    id_: str
    text: str
    metadata: dict[str, object]
    embedding: list[float] | None


def is_framework_document(value: object) -> bool:
    return isinstance(value, LangChainDocument | LlamaIndexNode)


def record_of(value: object) -> Mapping[str, object] | None:
    """The fields of a document of theirs; None for anything else. Raises InputError for one without an id."""
    if isinstance(value, LangChainDocument):
        if not value.id:
            raise InputError(
                "It is a LangChain document without an id, by which the next run would know it.",
                hint="Document(id=..., page_content=...), e.g. with its source and its number.",
            )
        return {"id": value.id, "text": value.page_content, "metadata": value.metadata}
    if isinstance(value, LlamaIndexNode):
        made: dict[str, object] = {"id": value.id_, "text": value.text, "metadata": value.metadata}
        return made if value.embedding is None else {**made, "vector": value.embedding}
    return None
