"""Row 3: the framework adapters against the frameworks' own PostgreSQL stores."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module

from svr_retrievers.bench import ours, peers
from svr_retrievers.bench.data import LIMIT
from svr_retrievers.bench.lab import Lab
from svr_retrievers.bench.peers import PeerUnavailable, peer
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.bench.rows.ingest import ReadyEmbeddings
from svr_retrievers.bench.sizes import DIMENSIONS
from svr_retrievers.bench.timing import Ask, interleave

LANGCHAIN, LLAMA_INDEX = "ours through LangChain", "ours through LlamaIndex"
THEIRS = ("langchain-postgres", "llama-index")


def measure(lab: Lab) -> Finding:
    """Search by vector through each store's public call, default ef_search of 40, the same rows under the same
    kind of index (HNSW, m 16, ef_construction 64) in the same server. The peers run in a process of their own
    and time themselves. Everyone returns ten documents with text and metadata.
    """
    peers.write_data(lab.folder, lab.corpus, len(lab.corpus.rows))
    systems: dict[str, Ask] = {LANGCHAIN: _langchain(lab), LLAMA_INDEX: _llama_index(lab)}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        for name in THEIRS:
            lab.say(f"filling {name}")
            try:
                table = "svr_bench_" + name.replace("-", "_")
                opened = peer(name, lab.peers_python, lab.folder, url=lab.url, table=table, filled=True)
                systems[name] = stack.enter_context(opened).asker()
            except PeerUnavailable as error:
                missing[name] = str(error)
        series = interleave(systems, lab.testing, seed=lab.seed)
    truth = lab.truth()
    checks = [Check(f"p50 {name}, ms", series[name].p50) for name in (LANGCHAIN, LLAMA_INDEX)]
    for name in THEIRS:
        if name in series:
            checks.append(
                Check(f"times faster than {name}", series[name].p50 / series[LANGCHAIN].p50, least=4.0)
            )
            recall = series[LANGCHAIN].recall(truth) - series[name].recall(truth)
            checks.append(Check(f"recall above {name}", recall, least=-0.01))
    if "llama-index" in series:
        ratio = series["llama-index"].p50 / series[LLAMA_INDEX].p50
        checks.append(Check("LlamaIndex adapter: times faster than llama-index", ratio))
    return Finding(checks, {name: one.to_json(truth) for name, one in series.items()}, missing=missing)


def _langchain(lab: Lab) -> Ask:
    module = import_module("langchain_svr")
    store = module.SVRVectorStore(ReadyEmbeddings(), collection=lab.single.name, client=lab.client)
    lists = ours.lists_of(lab.corpus.queries.vectors)

    def ask(query: int) -> Sequence[int]:
        return [int(d.id) for d in store.similarity_search_by_vector(lists[query], k=LIMIT)]

    return ask


def _llama_index(lab: Lab) -> Ask:
    module = import_module("llama_index.vector_stores.svr")
    types = import_module("llama_index.core.vector_stores.types")
    store = module.SVRVectorStore(collection=lab.single.name, dimensions=DIMENSIONS, client=lab.client)
    lists = ours.lists_of(lab.corpus.queries.vectors)

    def ask(query: int) -> Sequence[int]:
        asked = types.VectorStoreQuery(query_embedding=lists[query], similarity_top_k=LIMIT)
        return [int(doc_id) for doc_id in store.query(asked).ids]

    return ask
