"""The store under LlamaIndex's own index, retriever, pipeline, query engine, tools and memory."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.indices.vector_store.retrievers import VectorIndexAutoRetriever
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.memory import VectorMemoryBlock
from llama_index.core.node_parser import TokenTextSplitter
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import ImageNode, IndexNode, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.tools import QueryEngineTool
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, MetadataInfo, VectorStoreInfo

from svr_retrievers import by_field


def texts(found: Any) -> list[str]:
    return [each.node.get_content() for each in found]


def all_texts(store: Any) -> list[str]:
    return sorted(node.get_content() for node in store.get_nodes())


def document(id: str, text: str, **metadata: Any) -> Document:
    return Document(id_=id, text=text, metadata=metadata, excluded_embed_metadata_keys=list(metadata))


@pytest.fixture
def index(store: Any, embed_model: Any) -> Any:
    made = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
    made.insert(document("cats", "the cat sleeps on the sofa", kind="pet"))
    made.insert(document("hens", "the hen lays an egg", kind="farm"))
    return made


async def test_an_index_over_the_store_inserts_and_retrieves(index: Any) -> None:
    retriever = index.as_retriever(similarity_top_k=1)
    assert texts(retriever.retrieve("an egg")) == ["the hen lays an egg"]
    assert texts(await retriever.aretrieve("a sofa")) == ["the cat sleeps on the sofa"]
    assert retriever.retrieve("an egg")[0].score == pytest.approx(0.63, abs=0.2)


def test_an_index_made_from_nodes_is_found_by_the_next_process(make_store: Any, embed_model: Any) -> None:
    context = StorageContext.from_defaults(vector_store=make_store())
    nodes = [TextNode(id_=str(i), text=f"word{i}") for i in range(5)]
    VectorStoreIndex(nodes, storage_context=context, embed_model=embed_model)
    again = VectorStoreIndex.from_vector_store(make_store(), embed_model=embed_model)
    assert texts(again.as_retriever(similarity_top_k=1).retrieve("word3")) == ["word3"]


async def test_an_index_built_and_changed_asynchronously(store: Any, embed_model: Any) -> None:
    index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
    await index.ainsert_nodes([TextNode(id_="1", text="one"), TextNode(id_="2", text="two")])
    await index.ainsert(document("d", "three"))
    await index.adelete_nodes(["1"])
    assert all_texts(store) == ["three", "two"]
    await index.adelete_ref_doc("d")
    assert all_texts(store) == ["two"]


def test_index_and_image_nodes_hide_no_text_nodes(index: Any) -> None:
    index.insert_nodes([
        IndexNode(id_="pointer", text="see the other sofa", index_id="x"),
        ImageNode(id_="image", text="picture of a sofa", image="aGVsbG8="),
    ])  # fmt: skip
    assert index.as_retriever()._node_ids == ["pointer", "image"]
    found = index.as_retriever(similarity_top_k=9).retrieve("sofa")
    assert len(found) == 4
    assert {type(each.node) for each in found} == {TextNode, IndexNode, ImageNode}


def test_an_index_that_also_keeps_nodes_itself_sees_what_others_add(
    store: Any, make_node: Any, embed_model: Any
) -> None:
    context = StorageContext.from_defaults(vector_store=store)
    mine = [TextNode(id_="mine", text="mine")]
    index = VectorStoreIndex(
        mine, storage_context=context, embed_model=embed_model, store_nodes_override=True
    )
    store.add([make_node("theirs", "theirs")])
    assert sorted(texts(index.as_retriever(similarity_top_k=5).retrieve("x"))) == ["mine", "theirs"]


def test_a_retriever_follows_an_index_node_to_what_it_points_to(store: Any, embed_model: Any) -> None:
    inner = VectorStoreIndex([TextNode(text="the answer inside")], embed_model=embed_model)
    pointer = IndexNode(id_="p", text="pointer to the inside", index_id="inner")
    index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
    index.insert_nodes([pointer])
    retriever = index.as_retriever()
    retriever.object_map = {"inner": inner.as_retriever()}
    assert texts(retriever.retrieve("inside")) == ["the answer inside"]


def test_a_document_is_deleted_and_refreshed_with_all_its_nodes(store: Any, embed_model: Any) -> None:
    splitter = TokenTextSplitter(chunk_size=20, chunk_overlap=0, tokenizer=str.split)
    long = " ".join(f"Sentence number {i} of the long text." for i in range(20))
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex.from_documents(
        [document("long", long), document("short", "short one")],
        storage_context=context,
        embed_model=embed_model,
        transformations=[splitter],
    )
    assert len(store.get_nodes()) > 3
    index.delete_ref_doc("long")
    assert all_texts(store) == ["short one"]
    changed = [document("short", "short two"), document("new", "new one")]
    assert index.refresh_ref_docs(changed) == [True, True]
    assert index.refresh_ref_docs(changed) == [False, False]
    assert all_texts(store) == ["new one", "short two"]
    index.update_ref_doc(document("new", "newer one"))
    assert all_texts(store) == ["newer one", "short two"]


def test_a_retriever_passes_filters_documents_and_options_on(make_store: Any, embed_model: Any) -> None:
    store = make_store(partition_by=by_field("kind"))
    index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
    for id_, kind in (("a", "pet"), ("b", "pet"), ("c", "farm")):
        index.insert(document(id_, f"text {id_}", kind=kind))
    pets = MetadataFilters(filters=[MetadataFilter(key="kind", value="pet")])
    top = {"similarity_top_k": 9}
    assert sorted(texts(index.as_retriever(filters=pets, **top).retrieve("text"))) == ["text a", "text b"]
    assert texts(index.as_retriever(doc_ids=["b"], **top).retrieve("text")) == ["text b"]
    only = index.as_retriever(vector_store_kwargs={"partitions": ["kind=farm"]}, **top)
    assert texts(only.retrieve("text")) == ["text c"]
    varied = index.as_retriever(
        vector_store_query_mode="mmr", vector_store_kwargs={"mmr_threshold": 0.0, "mmr_prefetch_k": 3}, **top
    )
    assert len(varied.retrieve("text a")) == 3
    with pytest.raises(TypeError, match="partition;"):
        index.as_retriever(vector_store_kwargs={"partition": "x"}).retrieve("text")


def test_a_retriever_in_another_mode_is_told_what_is_supported(index: Any) -> None:
    for mode in ("sparse", "semantic_hybrid"):
        with pytest.raises(ValueError, match=f"hybrid, not {mode}. text_search ranks by words"):
            index.as_retriever(vector_store_query_mode=mode, alpha=0.0).retrieve("cat")


def pipeline(store: Any, embed_model: Any, strategy: DocstoreStrategy) -> IngestionPipeline:
    return IngestionPipeline(
        transformations=[TokenTextSplitter(tokenizer=str.split), embed_model],
        vector_store=store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=strategy,
    )


def test_an_ingestion_pipeline_upserts_changed_documents(store: Any, embed_model: Any) -> None:
    made = pipeline(store, embed_model, DocstoreStrategy.UPSERTS)
    made.run(documents=[document("1", "one"), document("2", "two")])
    made.run(documents=[document("1", "one"), document("2", "TWO"), document("3", "three")])
    assert all_texts(store) == ["TWO", "one", "three"]


async def test_an_ingestion_pipeline_upserts_and_deletes_asynchronously(store: Any, embed_model: Any) -> None:
    made = pipeline(store, embed_model, DocstoreStrategy.UPSERTS_AND_DELETE)
    await made.arun(documents=[document("1", "one"), document("2", "two")])
    await made.arun(documents=[document("2", "TWO")])
    assert all_texts(store) == ["TWO"]


def test_a_pipeline_without_a_splitter_keeps_documents_as_documents(store: Any, embed_model: Any) -> None:
    IngestionPipeline(transformations=[embed_model], vector_store=store).run(
        documents=[document("1", "whole", a=1)]
    )
    [node] = store.get_nodes()
    assert (type(node), node.text, node.metadata) == (Document, "whole", {"a": 1})


async def test_a_query_engine_answers_from_the_store(index: Any) -> None:
    engine = index.as_query_engine(llm=MockLLM(), similarity_top_k=1)
    assert "the hen lays an egg" in str(engine.query("an egg"))
    answer = await engine.aquery("an egg")
    assert texts(answer.source_nodes) == ["the hen lays an egg"]


async def test_the_store_as_a_tool_for_agents(index: Any, store: Any, embed_model: Any) -> None:
    tool = store.as_tool(
        embed_model=embed_model, name="animals", description="About animals.", similarity_top_k=1
    )
    assert (tool.metadata.name, tool.metadata.description) == ("animals", "About animals.")
    called = tool.call("an egg")
    assert "the hen lays an egg" in called.content
    assert called.raw_output[0].score > 0.3
    assert texts((await tool.acall("the cat on a sofa")).raw_output) == ["the cat sleeps on the sofa"]
    pets = MetadataFilters(filters=[MetadataFilter(key="kind", value="pet")])
    narrow = store.as_tool(embed_model=embed_model, name="pets", description="d", filters=pets)
    assert texts(narrow.call("an egg").raw_output) == ["the cat sleeps on the sofa"]


async def test_a_query_engine_tool_over_the_store(index: Any) -> None:
    engine = RetrieverQueryEngine.from_args(index.as_retriever(similarity_top_k=1), llm=MockLLM())
    tool = QueryEngineTool.from_defaults(engine, name="animals", description="d")
    assert "the hen lays an egg" in tool.call("an egg").content
    assert "the hen lays an egg" in (await tool.acall("an egg")).content


def test_retrievers_fuse(index: Any) -> None:
    halves = [index.as_retriever(similarity_top_k=1), index.as_retriever(similarity_top_k=2)]
    fused = QueryFusionRetriever(
        halves, num_queries=1, mode="reciprocal_rerank", llm=MockLLM(), use_async=False
    )
    assert texts(fused.retrieve("an egg"))[0] == "the hen lays an egg"


def test_an_auto_retriever_filters_by_what_its_model_writes(index: Any) -> None:
    class Writer(MockLLM):
        def predict(self, *_: Any, **__: Any) -> str:
            return '{"query": "an egg", "filters": [{"key": "kind", "value": "pet", "operator": "=="}]}'

    info = VectorStoreInfo(
        content_info="animals",
        metadata_info=[MetadataInfo(name="kind", type="str", description="pet or farm")],
    )
    retriever = VectorIndexAutoRetriever(index, vector_store_info=info, llm=Writer())
    assert texts(retriever.retrieve("eggs of pets")) == ["the cat sleeps on the sofa"]


async def test_a_memory_block_remembers_each_session_in_the_store(store: Any, embed_model: Any) -> None:
    for session in ("one", "two"):
        message = ChatMessage(
            role="user", content=f"the cat of {session}", additional_kwargs={"session_id": session}
        )
        await VectorMemoryBlock(vector_store=store, embed_model=embed_model).aput(
            [message], from_short_term_memory=True
        )
    asked = [ChatMessage(role="user", content="which cat")]
    for session, remembered in (("one", "of one"), ("two", "of two"), ("three", "")):
        block = VectorMemoryBlock(vector_store=store, embed_model=embed_model, similarity_top_k=5)
        found = await block.aget(asked, session_id=session)
        assert remembered in found
        assert found.count("<message") == bool(remembered)


def test_an_index_persists_without_writing_the_store(index: Any, tmp_path: Any) -> None:
    index.storage_context.persist(str(tmp_path))
    assert index.vector_store.persist("anywhere") is None
    assert "sofa" not in "".join(file.read_text() for file in tmp_path.glob("*vector_store*"))


def test_a_mock_embedding_serves_too(make_store: Any) -> None:
    store = make_store(collection="mock", dimensions=8)
    index = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(8))
    index.insert(document("1", "text"))
    assert texts(index.as_retriever().retrieve("text")) == ["text"]
