"""The vectors of a batch: given ones checked, stored ones used again, the rest embedded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from svr_retrievers import documents as checks
from svr_retrievers.concurrency import off_loop
from svr_retrievers.documents import Draft
from svr_retrievers.errors import DocumentProblem, InputError, ProviderFailed
from svr_retrievers.ingest.marks import chunk_id
from svr_retrievers.ingest.placement import Wanted
from svr_retrievers.ingest.planning import Plan, vector_of
from svr_retrievers.ingest.records import told
from svr_retrievers.ingest.refusing import Refusing
from svr_retrievers.ingest.report import Tally
from svr_retrievers.ingest.target import IDS_AT_ONCE, Target
from svr_retrievers.ingest.work import Row
from svr_retrievers.model import Vector

HOPELESS = 20
"""After so many refused texts and no other answer it is not the texts that the provider refuses."""


@dataclass(slots=True)
class Ready:
    """Rows with their vectors, in the order of their documents; `vectors` is None where the server embeds."""

    rows: list[Row]
    vectors: Vector | None

    def standing(self) -> Ready:
        """Without the rows of documents that were refused meanwhile."""
        kept = [at for at, row in enumerate(self.rows) if not row.work.refused]
        if len(kept) == len(self.rows):
            return self
        vectors = None if self.vectors is None else self.vectors[kept]
        return Ready([self.rows[at] for at in kept], vectors)


class Vectors:
    """Makes the rows of a plan ready to be written."""

    def __init__(
        self, target: Target, wanted: Wanted, namespace: str, refusing: Refusing, tally: Tally
    ) -> None:
        self._target, self._wanted, self._namespace = target, wanted, namespace
        self._refusing, self._tally = refusing, tally
        self._answers = self._rejections = 0

    async def ready(self, plan: Plan) -> Ready:
        """Raises ProviderFailed when the embedder fails for another reason than a text."""
        rows, draft = plan.write, Draft()
        array, missing = await off_loop(len(rows), self._checked, rows, draft)
        self._refuse(rows, draft)
        misplaced = Draft()
        await off_loop(len(plan.untouched), self._check_places, plan.untouched, misplaced)
        self._refuse(plan.untouched, misplaced)
        plan.unchanged -= sum(row.work.refused for row in plan.untouched)
        if self._target.server_embeds:
            return Ready(rows, None).standing()
        missing = [at for at in missing if not rows[at].work.refused]
        missing = await self._reuse(plan, array, missing) if missing else []
        await self._embed(rows, array, missing)
        found = Draft()
        refused = [at for at, row in enumerate(rows) if row.work.refused]
        checks.check_vectors(array, [row.id for row in rows], self._target.config, found, leave=refused)
        self._refuse(rows, found)
        return Ready(rows, array).standing()

    def _checked(self, rows: Sequence[Row], problems: Draft) -> tuple[Vector, list[int]]:
        """What `add()` would refuse, before anything is paid for or deleted."""
        config = self._target.config
        documents = [row.document for row in rows]
        self._check_places(rows, problems)
        if self._target.server_embeds:
            problems.problems += _texts_problems(rows)
            problems.problems += checks.draft(documents, config, self._namespace).problems
            return np.empty((len(rows), 0), dtype=np.float32), []
        problems.problems += checks.draft(documents, config, self._namespace).problems
        return checks.given_vectors(documents, None, config, problems)

    def _check_places(self, rows: Sequence[Row], problems: Draft) -> None:
        for at, row in enumerate(rows):
            if row.work.wanted is None:
                continue
            try:
                self._wanted.check(
                    row.work.wanted, self._target.partitions, row.work.namespace, row.id, row.metadata
                )
            except InputError as error:
                problems.refuse(at, row.id, "partition", told(error))

    def _refuse(self, rows: Sequence[Row], draft: Draft) -> None:
        for problem in draft.problems:
            self._refusing.refuse_work(
                rows[problem.index].work, "document", f"{problem.argument}: {problem.message}"
            )

    async def _reuse(self, plan: Plan, array: Vector, missing: list[int]) -> list[int]:
        """Fills in vectors of texts that the document had before, wherever in it; returns those still missing."""
        keys = list(
            dict.fromkeys([plan.reusable[k] for at in missing if (k := plan.write[at].key) in plan.reusable])
        )
        needy = {plan.write[at].work for at in missing if plan.write[at].key not in plan.reusable}
        for work, first, end in plan.shortened:
            if work in needy:
                keys += [
                    (work.namespace, chunk_id(work.id, n))
                    for n in range(first, min(end, first + IDS_AT_ONCE))
                ]
        stored = await self._target.rows(keys, with_vectors=True) if keys else {}
        known = {
            entry: row.vector for key, row in stored.items() if (entry := vector_of(key, row)) is not None
        }
        left: list[int] = []
        for at in missing:
            row = plan.write[at]
            vector = known.get((row.work.namespace, row.work.id, row.mark.text))
            if vector is None:
                left.append(at)
            else:
                array[at] = vector
        self._tally.add(reused=len(missing) - len(left))
        return left

    async def _embed(self, rows: Sequence[Row], array: Vector, missing: Sequence[int]) -> None:
        """Each text once, however many rows have it."""
        if self._target.embedder is None:
            for at in missing:
                self._refusing.refuse_work(
                    rows[at].work, "vector", "It has no vector, and there is no embedder."
                )
            return
        places: dict[str, list[int]] = {}
        for at in missing:
            places.setdefault(rows[at].document.text, []).append(at)
        async for texts, made in self._embedded(list(places)):
            for number, text in enumerate(texts):
                for at in places[text]:
                    if isinstance(made, ProviderFailed):
                        self._refusing.refuse_work(rows[at].work, made.code, told(made))
                    else:
                        array[at] = made[number]

    async def _embedded(self, texts: list[str]) -> AsyncIterator[tuple[list[str], Vector | ProviderFailed]]:
        """Vectors of texts, or the refusal of one; texts that are refused together are tried in halves."""
        waiting = [texts] if texts else []
        while waiting:
            some = waiting.pop()
            try:
                made = await self._target.embed(some)
            except ProviderFailed as error:
                if error.reason != "request":
                    raise
                if len(some) > 1:
                    waiting += [some[len(some) // 2 :], some[: len(some) // 2]]
                    continue
                self._rejected(error)
                yield some, error
                continue
            checks.one_vector(made[0], self._target.config.dimensions, "the embedder's vector")
            self._answers += 1
            self._tally.add(embedded=len(some))
            yield some, made

    def _rejected(self, error: ProviderFailed) -> None:
        """Raises the error where nothing but refusals has come so far."""
        self._rejections += 1
        if not self._answers and self._rejections >= HOPELESS:
            raise error


def _texts_problems(rows: Sequence[Row]) -> Iterator[DocumentProblem]:
    for at, row in enumerate(rows):
        if row.document.vector is not None:
            yield DocumentProblem(
                at, row.id, "vector", "the server embeds this collection; leave the vector out."
            )
