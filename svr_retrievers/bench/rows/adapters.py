"""Row 3: the framework adapters against the frameworks' own PostgreSQL stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module

from svr_retrievers.bench import ours, peers
from svr_retrievers.bench.data import LIMIT
from svr_retrievers.bench.lab import Lab
from svr_retrievers.bench.peers import PeerUnavailable, peer
from svr_retrievers.bench.postgres import floor
from svr_retrievers.bench.postgres.server import drop_tables_of_peers
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.bench.rows.ingest import ReadyEmbeddings
from svr_retrievers.bench.timing import Ask, Series, interleave

CLIENT, FLOOR = "ours, plain client", "raw prepared query"
LANGCHAIN, LLAMA_INDEX = "ours through LangChain", "ours through LlamaIndex"
THEIRS = ("langchain-postgres", "llama-index")
SAME_RECALL = 0.01


def measure(lab: Lab) -> Finding:
    """Search by vector through each store's public call, default ef_search of 40, the same rows under the same
    kind of index (HNSW, m 16, ef_construction 64) in the same server. The peers run in a process of their own
    and time themselves. Everyone returns ten documents with text and metadata. The plain client and the raw
    prepared query on our table are asked in the same turn.
    """
    peers.write_data(lab.folder, lab.main.corpus, len(lab.main.corpus.rows))
    queries, where = lab.main.corpus.queries, floor.physical(lab.url, lab.single.name)
    systems: dict[str, Ask] = {
        FLOOR: floor.asker(lab.url, where, queries),
        CLIENT: ours.asker(lab.single, queries),
        LANGCHAIN: _langchain(lab),
        LLAMA_INDEX: _llama_index(lab),
    }
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        for name in THEIRS:
            lab.say(f"filling {name}")
            try:
                table = "svr_bench_" + name.replace("-", "_")
                opened = peer(name, lab.peers_python, lab.folder, url=lab.url, table=table, filled=True)
                systems[name] = stack.enter_context(opened).asker()
            except PeerUnavailable as error:
                absent[name] = str(error)
        series = interleave(systems, lab.main.testing, seed=lab.seed)
    drop_tables_of_peers(lab.url)
    truth = lab.main.truth()
    checks = [check for name in THEIRS if name in series for check in _against(name, series, truth)]
    checks += [Check(f"p50 {name}, ms", series[name].p50) for name in systems if name not in THEIRS]
    return Finding(checks, {name: one.to_json(truth) for name, one in series.items()}, absent=absent)


def _against(name: str, series: Mapping[str, Series], truth: Sequence[set[int]]) -> list[Check]:
    theirs, mine = series[name], series[LANGCHAIN]
    return [
        Check(f"times faster than {name}", theirs.p50 / mine.p50, least=4.0),
        Check(f"recall above {name}", mine.recall(truth) - theirs.recall(truth), least=-SAME_RECALL),
        Check(f"through LlamaIndex: times faster than {name}", theirs.p50 / series[LLAMA_INDEX].p50),
    ]


def _langchain(lab: Lab) -> Ask:
    module = import_module("langchain_svr")
    store = module.SVRVectorStore(ReadyEmbeddings(), collection=lab.single.name, client=lab.client)
    lists = ours.lists_of(lab.main.corpus.queries.vectors)

    def ask(query: int) -> Sequence[int]:
        return [int(d.id) for d in store.similarity_search_by_vector(lists[query], k=LIMIT)]

    return ask


def _llama_index(lab: Lab) -> Ask:
    module = import_module("llama_index.vector_stores.svr")
    types = import_module("llama_index.core.vector_stores.types")
    store = module.SVRVectorStore(
        collection=lab.single.name, dimensions=lab.main.dimensions, client=lab.client
    )
    lists = ours.lists_of(lab.main.corpus.queries.vectors)

    def ask(query: int) -> Sequence[int]:
        asked = types.VectorStoreQuery(query_embedding=lists[query], similarity_top_k=LIMIT)
        return [int(doc_id) for doc_id in store.query(asked).ids]

    return ask
