"""A retriever as a tool for agents: query, number of results and filter in, texts and documents out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import StructuredTool, ToolException
from pydantic import BaseModel, Field, create_model

from svr_retrievers.errors import InputError

MOST_RESULTS = 100
"""A tool's answer goes into a prompt: more would crowd out the conversation."""

_OPERATORS = "$eq $ne $gt $gte $lt $lte $in $nin $exists $contains $all $like $ilike $and $or $nor $not"


def retriever_tool(
    retriever: BaseRetriever,
    *,
    name: str,
    description: str,
    args_schema: type[BaseModel] | None,
    fields: Mapping[str, type],
    partition_fields: Sequence[str],
    default_k: int,
) -> StructuredTool:
    def search(
        query: str, k: int | None = None, filter: dict[str, Any] | None = None, callbacks: Callbacks = None
    ) -> tuple[str, list[Document]]:
        try:
            return _answer(retriever.invoke(query, {"callbacks": callbacks}, k=k, filter=filter))
        except InputError as error:
            raise ToolException(str(error)) from error

    async def asearch(
        query: str, k: int | None = None, filter: dict[str, Any] | None = None, callbacks: Callbacks = None
    ) -> tuple[str, list[Document]]:
        try:
            return _answer(await retriever.ainvoke(query, {"callbacks": callbacks}, k=k, filter=filter))
        except InputError as error:
            raise ToolException(str(error)) from error

    return StructuredTool(
        name=name,
        description=description,
        func=search,
        coroutine=asearch,
        args_schema=args_schema or _arguments(_described(fields, partition_fields), default_k),
        response_format="content_and_artifact",
        handle_tool_error=True,
    )


def _answer(documents: list[Document]) -> tuple[str, list[Document]]:
    if not documents:
        return "No document matches.", []
    return "\n\n".join(document.page_content for document in documents), documents


def _described(fields: Mapping[str, type], partition_fields: Sequence[str]) -> str:
    """Each field with its type as far as it is declared; a model does well to name the partition keys."""
    notes = {name: [_type_name(kind)] for name, kind in fields.items()}
    for name in partition_fields:
        notes.setdefault(name, []).append("partition key")
    return ", ".join(f"{name} ({', '.join(said)})" for name, said in notes.items())


def _type_name(kind: type) -> str:
    """`str`, but `list[str]` in full."""
    return str(kind) if hasattr(kind, "__origin__") else kind.__name__


def _arguments(known: str, default_k: int) -> type[BaseModel]:
    filter_text = (
        'Condition on the metadata, e.g. {"year": {"$gte": 2020}, "lang": "en"}. '
        f"Operators: {_OPERATORS}.{f' Fields: {known}.' if known else ''}"
    )
    count = Field(
        description=f"How many documents to return; {default_k} if left out.", ge=1, le=MOST_RESULTS
    )
    arguments: dict[str, Any] = {
        "query": (Annotated[str, Field(description="What to look for, as a sentence or a few words.")], ...),
        "k": (Annotated[int | None, count], None),
        "filter": (Annotated[dict[str, Any] | None, Field(description=filter_text)], None),
    }
    return create_model("SVRSearchInput", **arguments)
