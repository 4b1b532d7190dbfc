"""Compares what rankings are worth on the same questions: vectors, words, and their fusions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from svr_retrievers.blocking import Collection
from svr_retrievers.evaluation.known_items import KnownItem, of_kind
from svr_retrievers.evaluation.measures import mean, ndcg, recall, reciprocal_rank
from svr_retrievers.reranking.protocol import AsyncReranker, Reranker
from svr_retrievers.search.hybrid import Fusion

DEPTH: Final = 10
Ask = Callable[[str], Sequence[str]]
"""A question's text to the ids of the answer, best first."""


@dataclass(frozen=True, slots=True)
class Score:
    """The means over some questions, each at a depth of 10."""

    recall: float
    reciprocal_rank: float
    ndcg: float


@dataclass(frozen=True, slots=True)
class Compared:
    """One way to search: its scores by kind of question, and over all of them under `all`."""

    name: str
    scores: Mapping[str, Score]


def ways(collection: Collection, reranker: Reranker | AsyncReranker | None = None) -> dict[str, Ask]:
    """The ways to search a collection that are compared, the rankings by themselves first."""

    def fused(fusion: Fusion) -> Ask:
        return lambda text: collection.hybrid(text=text, limit=DEPTH, fusion=fusion).ids

    found: dict[str, Ask] = {
        "vectors": lambda text: collection.search(text=text, limit=DEPTH).ids,
        "words": lambda text: collection.keywords(text=text, limit=DEPTH).ids,
        **{f"hybrid, {fusion}": fused(fusion) for fusion in get_args(Fusion)},
    }
    if reranker is not None:
        found["hybrid, rrf, reranked"] = lambda text: (
            collection.hybrid(text=text, limit=DEPTH, reranker=reranker).ids
        )
    return found


def compare(ways: Mapping[str, Ask], items: Sequence[KnownItem]) -> list[Compared]:
    """Asks every way every question."""
    return [Compared(name, _scores(ask, items)) for name, ask in ways.items()]


def _scores(ask: Ask, items: Sequence[KnownItem]) -> dict[str, Score]:
    answers = {item.text: ask(item.text) for item in items}
    kinds = {kind: of_kind(items, kind) for kind in dict.fromkeys(item.kind for item in items)}
    return {kind: _score(chosen, answers) for kind, chosen in {**kinds, "all": items}.items()}


def _score(items: Sequence[KnownItem], answers: Mapping[str, Sequence[str]]) -> Score:
    pairs = [(answers[item.text], item.relevant) for item in items]
    return Score(
        mean([recall(ids, relevant, DEPTH) for ids, relevant in pairs]),
        mean([reciprocal_rank(ids, relevant, DEPTH) for ids, relevant in pairs]),
        mean([ndcg(ids, relevant, DEPTH) for ids, relevant in pairs]),
    )


def table(compared: Sequence[Compared], *, questions: int, documents: int) -> str:
    """The comparison in Markdown: nDCG by kind of question, and all three measures over all of them."""
    kinds = [kind for kind in (compared[0].scores if compared else ()) if kind != "all"]
    head = ["", *(f"nDCG@{DEPTH}, by {kind}" for kind in kinds)]
    head += [f"nDCG@{DEPTH}", f"MRR@{DEPTH}", f"recall@{DEPTH}"]
    rows = [_cells(each, kinds) for each in compared]
    lines = [f"{questions} questions, {documents:,} documents", "", _line(head), _line(["---"] * len(head))]
    return "\n".join([*lines, *map(_line, rows)])


def _cells(each: Compared, kinds: Sequence[str]) -> list[str]:
    whole = each.scores["all"]
    numbers = [*(each.scores[kind].ndcg for kind in kinds), whole.ndcg, whole.reciprocal_rank, whole.recall]
    return [each.name, *(f"{number:.3f}" for number in numbers)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
