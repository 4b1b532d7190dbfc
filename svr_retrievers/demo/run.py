"""The demo from start to end: prepare, ask, compare, show."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from svr_retrievers.demo import frameworks
from svr_retrievers.demo.compare import CaseResult, OnAsk, Where, cases, measure
from svr_retrievers.demo.corpus import Source
from svr_retrievers.demo.frameworks import Through
from svr_retrievers.demo.postgres_table import SharedTable
from svr_retrievers.demo.prepare import Options, Prepared, Progress, Stores, prepare
from svr_retrievers.demo.questions import Question, questions_for, shown_question
from svr_retrievers.demo.routed import RoutedWay
from svr_retrievers.embedding.local import WordLlamaEmbedder
from svr_retrievers.model import Explanation, PartitionMap, SearchResult

if TYPE_CHECKING:
    from svr_retrievers import SVRClient

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """One question, its routed answers, how they were found, and what the frameworks say."""

    question: Question
    where: Where
    result: SearchResult
    explanation: Explanation
    through: tuple[Through, ...]
    partitions: int


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that the report, the JSON and the picture are made of."""

    prepared: Prepared
    questions: int
    versions: Mapping[str, str]
    results: tuple[CaseResult, ...]
    partitions: PartitionMap
    answer: Answer
    seconds: Mapping[str, float]

    @property
    def documents(self) -> int:
        return len(self.prepared.truth.documents)

    def to_json(self) -> dict[str, object]:
        return {
            "corpus": {
                "name": self.prepared.corpus,
                "documents": self.documents,
                "files": self.prepared.files,
                "skipped": self.prepared.skipped,
                "dimensions": self.prepared.collection.dimensions,
            },
            "versions": {"python": platform.python_version(), **self.versions},
            "warm": self.prepared.warm,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "questions": self.questions,
            "cases": [_case_json(result) for result in self.results],
            "partitions": [
                {"path": p.path, "rows": p.stats.rows, "indexed": p.stats.indexed} for p in self.partitions
            ],
        }


def run(
    stores: Stores, source: Source, embedder: WordLlamaEmbedder, options: Options, progress: Progress
) -> Findings:
    started = time.perf_counter()
    prepared = prepare(stores, source, embedder, options, progress)
    began = time.perf_counter()
    with progress.step("Asking") as on_ask:
        results = compare(prepared, stores.table, options, on_ask) if prepared.comparable else ()
    asked = time.perf_counter() - began
    answer = _answered(stores.client, prepared, mine=options.path is not None)
    return Findings(
        prepared=prepared,
        questions=options.questions,
        versions=stores.table.versions(),
        results=tuple(results),
        partitions=prepared.collection.partitions,
        answer=answer,
        seconds={**prepared.seconds, "ask": asked, "total": time.perf_counter() - started},
    )


def compare(
    prepared: Prepared, table: SharedTable, options: Options, on_ask: OnAsk | None = None
) -> Sequence[CaseResult]:
    truth = prepared.truth
    questions = questions_for(truth.documents, options.questions, mine=options.path is not None)
    vectors = prepared.embedder.matrix([q.text for q in questions])
    with table.asker() as shared, table.asker(tuned=True) as tuned:
        ways = (shared, tuned, RoutedWay(prepared.collection))
        return measure(truth, cases(truth, questions, vectors), ways, on_ask)


def _answered(client: SVRClient, prepared: Prepared, *, mine: bool) -> Answer:
    collection = prepared.collection
    question = shown_question(prepared.truth.documents, mine=mine)
    where: dict[str, object] = {"category": question.category}
    narrowed = {"category": question.category}
    asking = frameworks.Asking(
        client, collection.name, prepared.embedder, collection.dimensions, question.text, narrowed, SHOWN
    )
    return Answer(
        question=question,
        where=narrowed,
        result=collection.search(text=question.text, filter=where, limit=SHOWN),
        explanation=collection.explain(text=question.text, filter=where, limit=SHOWN, analyze=True),
        partitions=len(collection.partitions),
        through=frameworks.ask_all(asking),
    )


def _case_json(result: CaseResult) -> dict[str, object]:
    return {
        **{k: v for k, v in asdict(result).items() if k != "ways"},
        "ways": {way.way: {k: v for k, v in asdict(way).items() if k != "way"} for way in result.ways},
    }
