"""Retrievers, the tool for agents and a whole chain: real retrieval, a scripted model."""

from __future__ import annotations

import asyncio
import threading
from datetime import datetime
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnablePassthrough
from langchain_core.tools import create_retriever_tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_svr import SVRRetriever
from pydantic import BaseModel, ValidationError

from svr_retrievers import by_field, by_time
from svr_retrievers.errors import FilterError
from svr_retrievers.filters.parse import _ON_FIELDS, _ON_FILTERS


def ids(documents: list[Document]) -> list[str | None]:
    return [d.id for d in documents]


SEARCH_TYPES = [
    {"search_type": "similarity", "search_kwargs": {"k": 2}},
    {"search_type": "mmr", "search_kwargs": {"k": 2, "fetch_k": 3, "lambda_mult": 1.0}},
    {"search_type": "similarity_score_threshold", "search_kwargs": {"k": 2, "score_threshold": 0.0}},
]


@pytest.mark.parametrize("how", SEARCH_TYPES)
async def test_as_retriever_works_with_each_search_type(animals: Any, how: Any) -> None:
    retriever = animals.as_retriever(**how)
    found = retriever.invoke("the cow gives milk")
    assert found[0].id == "cow"
    assert len(found) == 2
    assert await retriever.ainvoke("the cow gives milk") == found
    assert ids(retriever.invoke("the cow gives milk", filter={"kind": "pet"})) in (
        ["cat", "dog"],
        ["dog", "cat"],
    )
    assert retriever.tags == ["SVRVectorStore", "WordEmbeddings"]


@pytest.mark.parametrize("how", SEARCH_TYPES)
async def test_the_own_retriever_gives_the_same(animals: Any, how: Any) -> None:
    own = SVRRetriever(vectorstore=animals, search_type=how["search_type"], **how["search_kwargs"])
    expected = animals.as_retriever(**how).invoke("the cow gives milk")
    assert own.invoke("the cow gives milk") == await own.ainvoke("the cow gives milk") == expected
    assert len(own.invoke("the cow gives milk", k=3)) == 3
    assert len(await own.ainvoke("the cow gives milk", k=1)) == 1


def test_a_high_threshold_leaves_only_what_is_relevant(animals: Any) -> None:
    own = SVRRetriever(vectorstore=animals, search_type="similarity_score_threshold", score_threshold=0.99)
    assert ids(own.invoke("the cow gives milk")) == ["cow"]
    assert len(own.invoke("the cow gives milk", score_threshold=0.01)) == 4


async def test_a_filter_of_a_call_narrows_the_retrievers_own(animals: Any) -> None:
    own = SVRRetriever(vectorstore=animals, k=9, filter={"kind": "pet"})
    assert set(ids(own.invoke("the"))) == {"cat", "dog"}
    assert own.invoke("the", filter={"kind": "farm"}) == []
    assert await own.ainvoke("the", filter={"$or": [{"kind": "farm"}, {"legs": 2}]}) == []
    assert set(ids(own.invoke("the", filter={"legs": {"$in": [2, 4]}}))) == {"cat", "dog"}
    assert set(ids(own.invoke("the", filter={}))) == {"cat", "dog"}


@pytest.mark.parametrize("name", ["namespace", "search_type", "filtr", "fetch_k", "score_threshold"])
async def test_a_call_cannot_set_what_it_must_not(animals: Any, name: str) -> None:
    own = SVRRetriever(vectorstore=animals)
    with pytest.raises(TypeError, match=f"'{name}'"):
        own.invoke("x", **{name: 1})
    with pytest.raises(TypeError, match=f"'{name}'"):
        await own.ainvoke("x", **{name: 1})


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": 0},
        {"fetch_k": 0},
        {"filtr": {}},
        {"search_type": "hybird"},
        {"lambda_mult": 2.0},
        {"score_threshold": 0.5},
        {"search_type": "similarity_score_threshold"},
    ],
)
def test_a_retriever_that_makes_no_sense_is_refused(store: Any, wrong: Any) -> None:
    with pytest.raises(ValidationError):
        SVRRetriever(vectorstore=store, **wrong)


def test_the_retriever_searches_its_namespace(make_store: Any) -> None:
    store = make_store()
    store.add_texts(["mine"], ids=["1"])
    store.add_texts(["theirs"], ids=["2"], namespace="theirs")
    assert ids(SVRRetriever(vectorstore=store).invoke("x")) == ["1"]
    assert ids(SVRRetriever(vectorstore=store, namespace="theirs").invoke("x")) == ["2"]


async def test_batches_and_callbacks_work(animals: Any) -> None:
    class Seen(BaseCallbackHandler):
        found: int = 0

        def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
            self.found += len(documents)

    seen = Seen()
    own = SVRRetriever(vectorstore=animals, k=1)
    answers = await own.abatch(["cat sofa", "hen egg"], {"callbacks": [seen]})
    assert [ids(a) for a in answers] == [["cat"], ["hen"]]
    assert own.batch(["cat sofa", "hen egg"]) == answers
    assert seen.found == 2
    assert own._get_ls_params()["ls_vector_store_provider"] == "SVRVectorStore"
    assert own._get_ls_params()["ls_embedding_provider"] == "WordEmbeddings"


def call(**arguments: Any) -> Any:
    return {"name": "animals", "args": arguments, "id": "1", "type": "tool_call"}


async def test_the_tool_returns_content_and_the_documents(animals: Any) -> None:
    tool = animals.as_tool(name="animals", description="Facts about animals.", k=1, with_details=True)
    assert (tool.name, tool.description) == ("animals", "Facts about animals.")
    for message in (tool.invoke(call(query="cow milk")), await tool.ainvoke(call(query="cow milk"))):
        assert isinstance(message, ToolMessage)
        assert message.content == "the cow gives milk"
        assert ids(message.artifact) == ["cow"]
        assert 0 < message.artifact[0].metadata["svr_score"] <= 1


async def test_the_tool_takes_a_number_and_a_filter(animals: Any) -> None:
    tool = SVRRetriever(vectorstore=animals, filter={"legs": 4}).as_tool(name="animals")
    message = await tool.ainvoke(call(query="the", k=3, filter={"kind": {"$ne": "pet"}}))
    assert ids(message.artifact) == ["cow"]
    assert len(tool.invoke(call(query="the", k=2)).artifact) == 2
    nothing = tool.invoke(call(query="the", filter={"kind": "fish"}))
    assert (nothing.content, nothing.artifact) == ("No document matches.", [])


async def test_a_models_wrong_filter_comes_back_as_a_lesson(animals: Any) -> None:
    tool = animals.as_tool(name="animals", description="Animals.")
    for message in (
        tool.invoke(call(query="x", filter={"legs": {"$gtee": 2}})),
        await tool.ainvoke(call(query="x", filter={"legs": {"$gtee": 2}})),
    ):
        assert message.status == "error"
        assert "$gtee" in message.content
    with pytest.raises(FilterError):
        SVRRetriever(vectorstore=animals).invoke("x", filter={"legs": {"$gtee": 2}})


def test_the_tool_tells_the_model_what_it_can_ask(make_store: Any) -> None:
    tool = make_store(filter_fields={"year": int, "tags": list[str]}).as_tool(name="t", description="d")
    schema = tool.get_input_schema().model_json_schema()["properties"]
    assert set(tool.args) == set(schema) == {"query", "k", "filter"}
    assert "year (int)" in schema["filter"]["description"]
    assert "$gte" in schema["filter"]["description"]
    assert tool.tool_call_schema.model_json_schema()["required"] == ["query"]


def test_the_tool_names_every_operator_and_the_partition_keys(make_store: Any) -> None:
    scheme = by_field("topic").then(by_time("made", every="year"))
    fields = {"made": datetime, "tags": list[str]}
    tool = make_store(filter_fields=fields, partition_by=scheme).as_tool(name="t", description="d")
    told = tool.args["filter"]["description"]
    assert "Fields: made (datetime, partition key), tags (list[str]), topic (partition key)." in told
    assert {*_ON_FIELDS, *_ON_FILTERS} <= set(told.partition("Fields")[0].replace(".", "").split())


def test_the_tool_of_an_opened_collection_names_its_partition_keys(make_store: Any) -> None:
    make_store(partition_by=by_field("topic")).add_texts(["x"], [{"topic": "a"}])
    later = make_store()
    assert later.collection is not None
    assert "topic (partition key)" in later.as_tool(name="t", description="d").args["filter"]["description"]


class BlockingOnly:
    """An embedding without `aembed_*`; it remembers the threads it was called from."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.threads: set[int] = set()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.threads.add(threading.get_ident())
        return self.inner.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        self.threads.add(threading.get_ident())
        return self.inner.embed_query(text)


async def test_an_embedding_without_async_methods_works_beside_the_event_loop(
    make_store: Any, embedding: Any
) -> None:
    plain = BlockingOnly(embedding)
    store = make_store(embedding=plain)
    notes = [Document("the cow gives milk", id="cow"), Document("the hen lays an egg", id="hen")]
    assert await store.aadd_documents(notes) == ["cow", "hen"]
    for how in SEARCH_TYPES:
        assert (await store.as_retriever(**how).ainvoke("the cow gives milk"))[0].id == "cow"
    assert ids(await SVRRetriever(vectorstore=store, k=1).ainvoke("an egg")) == ["hen"]
    tool = store.as_tool(name="animals", description="Animals.", k=1)
    assert ids((await tool.ainvoke(call(query="cow milk"))).artifact) == ["cow"]
    assert plain.threads
    assert threading.get_ident() not in plain.threads


def test_the_tool_can_be_offered_to_a_model(animals: Any) -> None:
    offered = convert_to_openai_tool(animals.as_tool(name="animals", description="Facts about animals."))
    assert offered["function"]["name"] == "animals"
    assert set(offered["function"]["parameters"]["properties"]) == {"query", "k", "filter"}


def test_a_field_may_be_set_at_run_time(animals: Any) -> None:
    own = SVRRetriever(vectorstore=animals, k=3).configurable_fields(k=ConfigurableField(id="count"))
    assert len(own.invoke("the")) == 3
    assert len(own.invoke("the", {"configurable": {"count": 1}})) == 1


def test_the_tool_may_be_narrowed_to_the_query(animals: Any) -> None:
    class Only(BaseModel):
        query: str

    tool = SVRRetriever(vectorstore=animals, k=1).as_tool(Only, name="animals", description="d")
    assert set(tool.args) == {"query"}
    assert ids(tool.invoke(call(query="cow milk")).artifact) == ["cow"]
    with pytest.raises(TypeError, match="args_schema"):
        SVRRetriever(vectorstore=animals).as_tool(arg_types={"query": str})


async def test_langchains_own_retriever_tool_works_and_keeps_scores(animals: Any) -> None:
    retriever = animals.as_retriever(search_kwargs={"k": 1, "with_details": True})
    tool = create_retriever_tool(retriever, "animals", "Animals.", response_format="content_and_artifact")
    for message in (tool.invoke(call(query="cow milk")), await tool.ainvoke(call(query="cow milk"))):
        assert message.content == "the cow gives milk"
        assert message.artifact[0].metadata["svr_relevance"] > 0


def rag(retriever: Any, prompts: list[str]) -> Any:
    """Question -> retrieved context -> prompt -> model -> text; keeps the prompts that the model saw."""

    def remember(prompt: Any) -> Any:
        prompts.append(prompt.to_string())
        return prompt

    prompt = ChatPromptTemplate.from_template("Context:\n{context}\nQuestion: {question}")
    model = GenericFakeChatModel(messages=iter([AIMessage("Milk."), AIMessage("Milk.")]))
    joined = retriever | (lambda documents: "\n".join(d.page_content for d in documents))
    source = {"context": joined, "question": RunnablePassthrough()}
    return source | prompt | RunnableLambda(remember) | model | StrOutputParser()


async def test_a_rag_chain_answers_from_what_was_retrieved(animals: Any) -> None:
    prompts: list[str] = []
    chain = rag(SVRRetriever(vectorstore=animals, k=1), prompts)
    assert chain.invoke("what gives the cow") == "Milk."
    assert await chain.ainvoke("what gives the cow") == "Milk."
    assert len(prompts) == 2
    assert all("the cow gives milk" in p and "postman" not in p for p in prompts)


async def test_a_rag_chain_streams(animals: Any) -> None:
    chain = rag(animals.as_retriever(search_kwargs={"k": 1}), [])
    assert "".join([part async for part in chain.astream("cow")]) == "Milk."


async def test_many_questions_at_once(animals: Any) -> None:
    own = SVRRetriever(vectorstore=animals, k=1)
    answers = await asyncio.gather(*(own.ainvoke(q) for q in ["cat sofa", "hen egg", "cow milk"] * 5))
    assert [ids(a) for a in answers] == [["cat"], ["hen"], ["cow"]] * 5
