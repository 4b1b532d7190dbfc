"""Row P: engines inside the asking process, each at the cheapest setting that reaches recall 0.97. For information."""

from __future__ import annotations

from dataclasses import dataclass

from svr_retrievers.bench import ours, peers
from svr_retrievers.bench.lab import Lab
from svr_retrievers.bench.peers import Peer, PeerUnavailable, peer
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.bench.rows import accuracy
from svr_retrievers.bench.study import GOAL, cheapest
from svr_retrievers.bench.timing import interleave
from svr_retrievers.model import JsonValue

GRAPH = tuple({"ef": ef} for ef in (40, 100, 200, 400))
LISTS = tuple({"probes": probes} for probes in (1, 2, 4, 8, 16))
TUNED_ON = 60


@dataclass(frozen=True, slots=True)
class Engine:
    """How one engine is swept; whether it filters; whether it takes tenths of a second a query."""

    name: str
    settings: tuple[dict[str, int], ...] = ()
    filters: bool = False
    slow: bool = False


ENGINES = (
    Engine("hnswlib", GRAPH, filters=True),
    Engine("usearch", GRAPH),
    Engine("faiss-hnsw", GRAPH),
    Engine("faiss-ivf", LISTS),
    Engine("milvus-lite", ({"ef": 100},), filters=True, slow=True),
    Engine("qdrant-local", filters=True, slow=True),
)


def measure(lab: Lab) -> Finding:
    """hnswlib, usearch and faiss return row numbers only: no documents, no server, no second process. Milvus Lite
    and Qdrant's local mode return documents; both are asked fewer queries, for they take long over each. One
    engine after the other, each in turn with ours, which pays for the server and returns documents.
    """
    arena = lab.main
    peers.write_data(lab.folder, arena.corpus, len(arena.corpus.rows))
    medians: dict[str, JsonValue] = {}
    checks: list[Check] = []
    absent: dict[str, str] = {}
    for engine in ENGINES:
        lab.say(f"filling {engine.name}")
        try:
            with peer(engine.name, lab.peers_python, lab.folder) as opened:
                checks.append(_measured(lab, engine, opened, medians))
        except PeerUnavailable as error:
            absent[engine.name] = str(error)
    found = accuracy.study(lab)
    checks.append(Check("recall of ours", found.mine.recall(found.truth)))
    medians["ours"] = found.mine.to_json(found.truth)
    return Finding(checks, medians, absent=absent)


def _measured(lab: Lab, engine: Engine, opened: Peer, medians: dict[str, JsonValue]) -> Check:
    """Writes what was found into `medians`; how many times faster ours is."""
    arena = lab.main
    setting = _tuned(lab, engine, opened) if engine.settings else {}
    asked = arena.testing[: lab.size.slow_peers] if engine.slow else arena.testing
    series = interleave({"it": opened.asker(), "ours": accuracy.chosen(lab)}, asked, seed=lab.seed)
    told = series["it"].to_json(arena.truth())
    rate = len(arena.corpus.rows) / max(opened.opened_in, 1e-9)
    medians[engine.name] = told | dict(setting) | {"rows_per_second_with_index": round(rate)}
    if engine.filters:
        part = asked[: lab.size.slow_peers]
        own = ours.asker(arena.routed, arena.corpus.queries, field=peers.FILTERED)
        both = {"it": opened.asker(filtered=True), "ours": own}
        filtered = interleave(both, part, seed=lab.seed)
        medians[f"{engine.name}, 1 % filter"] = filtered["it"].to_json(arena.truth(peers.FILTERED))
    return Check(f"times faster than {engine.name}", series["it"].p50 / series["ours"].p50)


def _tuned(lab: Lab, engine: Engine, opened: Peer) -> dict[str, int]:
    if len(engine.settings) == 1:
        opened.call("tune", **engine.settings[0])
        return engine.settings[0]
    truth = lab.main.truth()
    recall: dict[str, float] = {}
    cost: dict[str, float] = {}
    for at, setting in enumerate(engine.settings):
        opened.call("tune", **setting)
        series = interleave({"it": opened.asker()}, lab.main.tuning[:TUNED_ON], seed=lab.seed)["it"]
        recall[str(at)], cost[str(at)] = series.recall(truth), series.p50
    best = engine.settings[int(cheapest(list(recall), recall, cost, GOAL))]
    opened.call("tune", **best)
    return best
