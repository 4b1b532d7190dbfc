"""Taking in the documents of an adopted collection, some at a time, and telling of those that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

import numpy as np

from svr_retrievers import documents as checks
from svr_retrievers import placing
from svr_retrievers.backends.adopting import Adopting, TakenIn, Untaken
from svr_retrievers.backends.protocol import Batch, StaleMap
from svr_retrievers.collection.state import MAP_RETRIES
from svr_retrievers.collection.writing import CollectionWrites
from svr_retrievers.documents import Draft
from svr_retrievers.errors import BatchError, DocumentProblem
from svr_retrievers.model import DEFAULT_NAMESPACE, Adopted

MOST_PROBLEMS = 1_000
"""Problems that are kept; the rest are counted."""


class CollectionAdoption(CollectionWrites):
    """What an adopted collection does besides."""

    _told: Adopted | None = None

    @property
    def adopted(self) -> Adopted | None:
        """What the adoption that opened this collection has taken in; None where it was opened otherwise."""
        return self._told

    async def _take_in_all(
        self, source: Adopting, *, fail: bool, progress: Callable[[int, int], None] | None
    ) -> None:
        """Every document of the source that is not of the collection yet.

        Raises BatchError at the first ones that cannot be, where it is to fail; those before stay taken in.
        """
        total = await source.count_untaken(self._ref) if progress is not None else 0
        seen = taken = refused = 0
        problems: list[DocumentProblem] = []
        async with aclosing(source.untaken(self._ref)) as parts:
            async for part in parts:
                found, done = await self._take_in(source, part, seen, fail=fail)
                seen += len(part.keys)
                taken, refused = taken + done, refused + len(found)
                problems += found[: MOST_PROBLEMS - len(problems)]
                self._told = Adopted(taken, refused, tuple(problems))
                if progress is not None:
                    progress(seen, max(seen, total))
        self._told = Adopted(taken, refused, tuple(problems))

    async def _take_in(
        self, source: Adopting, part: Untaken, first: int, *, fail: bool
    ) -> tuple[list[DocumentProblem], int]:
        """What cannot be taken in of a part that begins as document number `first`, and how many were."""
        batch, places, draft = self._checked(part)
        if fail and draft.problems:
            raise _failed(draft, first)
        done = await self._marked(source, batch, [part.keys[at] for at in places]) if len(batch) else None
        for at, fault in done.refused.items() if done is not None else ():
            _refuse(draft, part, places[at], fault)
        if fail and draft.problems:
            raise _failed(draft, first)
        return _numbered(draft, first), done.taken if done is not None else 0

    def _checked(self, part: Untaken) -> tuple[Batch, list[int], Draft]:
        """Those that can be taken in, their positions in the part, and the problems of the others."""
        config = self._ref.config
        sound = [at for at in range(len(part.keys)) if at not in part.faults]
        documents = [part.documents[at] for at in sound]
        draft = checks.draft(
            documents, config, config.source.namespace if config.source else DEFAULT_NAMESPACE
        )
        vectors = [document.vector for document in documents]
        array = np.asarray(vectors, dtype=np.float32).reshape(len(documents), self.dimensions)
        early = {problem.index for problem in draft.problems}
        checks.check_vectors(array, [document.id for document in documents], config, draft, leave=early)
        late = {problem.index for problem in draft.problems}
        drafted = [at for at in range(len(sound)) if at not in early]
        kept = [(row, at) for row, at in enumerate(drafted) if at not in late]
        rows, picked = [row for row, _ in kept], [at for _, at in kept]
        batch = Batch(
            [draft.namespaces[row] for row in rows],
            [draft.ids[row] for row in rows],
            [draft.texts[row] for row in rows],
            [draft.metadatas[row] for row in rows],
            [draft.typed[row] for row in rows],
            array[picked],
        )
        draft.problems = [
            DocumentProblem(sound[p.index], p.id, p.argument, p.message) for p in draft.problems
        ]
        for at, fault in part.faults.items():
            _refuse(draft, part, at, fault)
        return batch, [sound[at] for at in picked], draft

    async def _marked(self, source: Adopting, batch: Batch, keys: list[object]) -> TakenIn:
        for attempt in range(MAP_RETRIES):
            try:
                view, places = await placing.ensure_places(self._backend, self._ref, self._view, batch)
                self._adopt(view)
                done = await source.take_in(self._ref, view.map, batch, keys, places)
            except StaleMap:
                await self._catch_up(attempt)
                continue
            await self._after_write(view, done.written, batch.vectors)
            return done
        raise self._conflict()


def _numbered(draft: Draft, first: int) -> list[DocumentProblem]:
    """The problems in order, with the positions of the documents in all that were read."""
    return [
        DocumentProblem(first + p.index, p.id, p.argument, p.message)
        for p in sorted(draft.problems, key=lambda p: p.index)
    ]


def _failed(draft: Draft, first: int) -> BatchError:
    error = BatchError(_numbered(draft, first))
    error.hint = "What was taken in before stays so. Mend them and adopt again, or use on_problem='report'."
    return error


def _refuse(draft: Draft, part: Untaken, at: int, fault: str) -> None:
    argument, _, message = fault.partition(": ")
    draft.refuse(at, part.documents[at].id, argument, message)
