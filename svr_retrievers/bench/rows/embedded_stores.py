"""Row 14: against stores that run inside the asking process, at recall 0.97 or more."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from svr_retrievers.bench import ours, peers
from svr_retrievers.bench.lab import Lab
from svr_retrievers.bench.peers import Peer, PeerUnavailable, peer
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.bench.rows import accuracy
from svr_retrievers.bench.timing import Ask, Series, interleave
from svr_retrievers.model import JsonValue

OURS = "routed"
GOAL = 0.97
STORES = ("lancedb", "chroma", "hnswlib", "faiss")
LANCE_SETTINGS = ((4, 1), (4, 4), (8, 4), (16, 4), (32, 8))
OPTIONAL = ("hnswlib", "faiss")


def measure(lab: Lab) -> Finding:
    """Ours: the cheapest setting that reaches recall 0.97 on the tuning queries (as in row 5), and with the 1 %
    filter the default. LanceDB (IVF_HNSW_SQ) is swept to the same recall the same way; Chroma has its defaults
    with ef_search 100. hnswlib and faiss return row numbers only, without documents: they are shown, not
    competed with. The stores run in processes of their own and time themselves.
    """
    rows = min(len(lab.corpus.rows), lab.size.peers)
    peers.write_data(lab.folder, lab.corpus, rows)
    missing: dict[str, str] = {}
    notes: list[str] = []
    with ExitStack() as stack:
        found: dict[str, Peer] = {}
        for name in STORES:
            lab.say(f"filling {name}")
            try:
                found[name] = stack.enter_context(peer(name, lab.peers_python, lab.folder))
            except PeerUnavailable as error:
                if name in OPTIONAL:
                    notes.append(f"{name} not measured: {error}")
                else:
                    missing[name] = str(error)
        if "lancedb" in found:
            notes.append(_tuned(lab, found["lancedb"]))
        plain = _plain(lab, found)
        filtered = _filtered(lab, found)
    return _finding(lab, plain, filtered, missing, notes)


def _plain(lab: Lab, found: Mapping[str, Peer]) -> dict[str, Series]:
    systems: dict[str, Ask] = {name: one.asker() for name, one in found.items()}
    systems[OURS] = _ours(lab)
    return interleave(systems, lab.testing, seed=lab.seed)


def _filtered(lab: Lab, found: Mapping[str, Peer]) -> dict[str, Series]:
    systems: dict[str, Ask] = {
        name: one.asker(filtered=True) for name, one in found.items() if name not in OPTIONAL
    }
    systems[OURS] = ours.asker(lab.routed, lab.corpus.queries, field=peers.FILTERED)
    return interleave(systems, lab.testing[:200], seed=lab.seed)


def _ours(lab: Lab) -> Ask:
    """The setting that row 5 chose."""
    return accuracy.chosen(lab)


def _tuned(lab: Lab, lance: Peer) -> str:
    truth = lab.truth()
    for probes, refine in LANCE_SETTINGS:
        lance.call("tune", probes=probes, refine=refine)
        series = interleave({"lancedb": lance.asker()}, lab.tuning[:100], seed=lab.seed)["lancedb"]
        if series.recall(truth) >= GOAL:
            return f"LanceDB: {probes} probes, refine factor {refine}"
    return f"LanceDB: {probes} probes, refine factor {refine}; no setting reached {GOAL}"


def _finding(
    lab: Lab,
    plain: Mapping[str, Series],
    filtered: Mapping[str, Series],
    missing: dict[str, str],
    notes: list[str],
) -> Finding:
    truth, truth_filtered = lab.truth(), lab.truth(peers.FILTERED)
    checks = [
        Check("recall", plain[OURS].recall(truth), least=GOAL),
        Check("recall, 1 % filter", filtered[OURS].recall(truth_filtered), least=GOAL),
    ]
    wanted = (
        ("lancedb", plain, "times faster than LanceDB", 5.0),
        ("lancedb", filtered, "times faster than LanceDB, 1 % filter", 10.0),
        ("chroma", filtered, "times faster than Chroma, 1 % filter", 50.0),
    )
    checks += [
        Check(what, series[name].p50 / series[OURS].p50, least=least)
        for name, series, what, least in wanted
        if name in series
    ]
    medians: dict[str, JsonValue] = {name: one.to_json(truth) for name, one in plain.items()}
    medians |= {f"{name}, 1 % filter": one.to_json(truth_filtered) for name, one in filtered.items()}
    return Finding(checks, medians, notes, missing)
