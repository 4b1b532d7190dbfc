"""Row 14: against embedded stores that keep documents, at recall 0.97 or more."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from svr_retrievers.bench import ours, peers
from svr_retrievers.bench.lab import Lab
from svr_retrievers.bench.peers import Peer, PeerUnavailable, peer
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.bench.rows import accuracy
from svr_retrievers.bench.study import GOAL
from svr_retrievers.bench.timing import Ask, Series, interleave
from svr_retrievers.model import JsonValue

OURS = "routed"
STORES = ("lancedb", "chroma")
LANCE_SETTINGS = ((2, 1), (4, 1), (4, 2), (8, 1), (8, 2), (8, 4), (16, 4), (32, 8))
FILTERED_QUERIES = 200
TUNED_ON = 100


def measure(lab: Lab) -> Finding:
    """Ours: the cheapest setting that reaches recall 0.97 on the tuning queries (as in row 5), and with the 1 %
    filter the default. LanceDB (IVF_HNSW_SQ) is swept to the same recall the same way, without and with the
    filter; Chroma has its defaults with ef_search 100. They run in processes of their own and time themselves.
    """
    arena = lab.main
    peers.write_data(lab.folder, arena.corpus, len(arena.corpus.rows))
    absent: dict[str, str] = {}
    notes: list[str] = []
    with ExitStack() as stack:
        found: dict[str, Peer] = {}
        for name in STORES:
            lab.say(f"filling {name}")
            try:
                found[name] = stack.enter_context(peer(name, lab.peers_python, lab.folder))
            except PeerUnavailable as error:
                absent[name] = str(error)
        series: list[dict[str, Series]] = []
        for filtered in (False, True):
            if "lancedb" in found:
                notes.append(_tuned(lab, found["lancedb"], filtered=filtered))
            series.append(_asked(lab, found, filtered=filtered))
    return _finding(lab, series[0], series[1], absent, notes)


def _asked(lab: Lab, found: Mapping[str, Peer], *, filtered: bool) -> dict[str, Series]:
    arena = lab.main
    systems: dict[str, Ask] = {name: one.asker(filtered=filtered) for name, one in found.items()}
    systems[OURS] = (
        ours.asker(arena.routed, arena.corpus.queries, field=peers.FILTERED)
        if filtered
        else accuracy.chosen(lab)
    )
    asked = arena.testing[:FILTERED_QUERIES] if filtered else arena.testing
    return interleave(systems, asked, seed=lab.seed)


def _tuned(lab: Lab, lance: Peer, *, filtered: bool) -> str:
    """Every setting on some tuning queries; the fastest that reaches the goal stays."""
    truth = lab.main.truth(peers.FILTERED if filtered else None)
    good: dict[tuple[int, int], float] = {}
    for probes, refine in LANCE_SETTINGS:
        lance.call("tune", probes=probes, refine=refine)
        ask = {"lancedb": lance.asker(filtered=filtered)}
        series = interleave(ask, lab.main.tuning[:TUNED_ON], seed=lab.seed)["lancedb"]
        if series.recall(truth) >= GOAL:
            good[probes, refine] = series.p50
    probes, refine = min(good, key=lambda s: good[s]) if good else LANCE_SETTINGS[-1]
    lance.call("tune", probes=probes, refine=refine)
    told = f"LanceDB{', 1 % filter' if filtered else ''}: {probes} probes, refine factor {refine}"
    return told if good else f"{told}; no setting reached {GOAL}"


def _finding(
    lab: Lab,
    plain: Mapping[str, Series],
    filtered: Mapping[str, Series],
    absent: dict[str, str],
    notes: list[str],
) -> Finding:
    truth, truth_filtered = lab.main.truth(), lab.main.truth(peers.FILTERED)
    wanted = (
        ("lancedb", plain, "times faster than LanceDB", 5.0),
        ("lancedb", filtered, "times faster than LanceDB, 1 % filter", 10.0),
        ("chroma", filtered, "times faster than Chroma, 1 % filter", 50.0),
        ("chroma", plain, "times faster than Chroma", None),
    )
    checks = [
        Check("recall", plain[OURS].recall(truth), least=GOAL),
        Check("recall, 1 % filter", filtered[OURS].recall(truth_filtered), least=GOAL),
    ]
    checks += [
        Check(what, series[name].p50 / series[OURS].p50, least=least)
        for name, series, what, least in wanted
        if name in series
    ]
    checks += [
        Check(f"recall of {name}{told}", series[name].recall(answers))
        for series, answers, told in ((plain, truth, ""), (filtered, truth_filtered, ", 1 % filter"))
        for name in STORES
        if name in series
    ]
    medians: dict[str, JsonValue] = {name: one.to_json(truth) for name, one in plain.items()}
    medians |= {f"{name}, 1 % filter": one.to_json(truth_filtered) for name, one in filtered.items()}
    return Finding(checks, medians, notes, absent)
