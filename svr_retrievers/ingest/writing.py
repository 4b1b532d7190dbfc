"""Carries out what was planned for a batch, in the order in which a killed run leaves nothing behind that is lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice

from svr_retrievers.errors import BatchError
from svr_retrievers.ingest.marks import Mark
from svr_retrievers.ingest.planning import Plan, chunk_ids
from svr_retrievers.ingest.refusing import Refusing
from svr_retrievers.ingest.report import Tally
from svr_retrievers.ingest.target import IDS_AT_ONCE, Target
from svr_retrievers.ingest.vectors import Ready
from svr_retrievers.ingest.work import Work

Ids = tuple[Work, Iterator[str]]
PROBED = 64


class Writing:
    """Writes batches one after the other."""

    def __init__(self, target: Target, refusing: Refusing, tally: Tally) -> None:
        self._target, self._refusing, self._tally = target, refusing, tally

    async def write(self, plan: Plan, ready: Ready) -> None:
        """First the chunks go that a document no longer has, while its chunk 0 still says that there are so many.

        Then the rows come, chunk 0 never after the others. Then what the document left in its other form goes, which
        every run would find again by its id.
        """
        shortened = [s for s in plan.shortened if not s[0].refused]
        await self._delete([(w, chunk_ids(w.id, first, end)) for w, first, end in shortened])
        await self._delete_beyond({work: end for work, _, end in shortened})
        await self._add(ready)
        replaced = [(w, end) for w, end in plan.replaced if not w.refused]
        await self._delete_beyond(dict(replaced))
        forms = [(w, chunk_ids(w.id, 0, end)) for w, end in replaced]
        forms += [(w, iter((w.id,))) for w in plan.whole if not w.refused]
        await self._delete(forms)
        self._tally.add(unchanged=plan.unchanged)

    async def _delete_beyond(self, ends: Mapping[Work, int]) -> None:
        """What overlapping runs may have left from there on, until `PROBED` numbers in a row are not there."""
        while ends:
            blocks = [(work, chunk_ids(work.id, end, end + PROBED)) for work, end in ends.items()]
            found = await self._delete(blocks)
            ends = {work: ends[work] + PROBED for work in found}

    async def _delete(self, ids: list[Ids]) -> set[Work]:
        """In one call a namespace, for as many documents as there are; returns those of which there was a row."""
        together: defaultdict[str, list[Ids]] = defaultdict(list)
        for work, some in ids:
            together[work.namespace].append((work, some))
        gone: set[Work] = set()
        for namespace, each in together.items():
            rest = ((row, work) for work, some in each for row in some)
            while some_rows := dict(islice(rest, IDS_AT_ONCE)):
                own = await self._own(namespace, some_rows)
                self._tally.add(deleted=await self._target.delete(namespace, own))
                gone.update(some_rows[row] for row in own)
        return gone

    async def _own(self, namespace: str, rows: Mapping[str, Work]) -> list[str]:
        """Of row ids with their documents those that hold a row of it: what has such an id may be another's."""
        stored = await self._target.rows((namespace, row) for row in rows)
        marks = {row: Mark.of(stored[namespace, row]) for row in rows if (namespace, row) in stored}
        return [row for row, mark in marks.items() if mark is not None and mark.document == rows[row].id]

    async def _add(self, ready: Ready) -> None:
        """All rows in one call; without the documents that the store still refuses, as often as it does."""
        left = ready.standing()
        while left.rows:
            try:
                made = await self._target.add([row.document for row in left.rows], left.vectors)
            except BatchError as error:
                for problem in error.problems:
                    message = f"{problem.argument}: {problem.message}"
                    self._refusing.refuse_work(left.rows[problem.index].work, "document", message)
                before, left = len(left.rows), left.standing()
                if len(left.rows) == before:
                    raise
                continue
            self._tally.add(written=len(made), replaced=made.updated)
            return
