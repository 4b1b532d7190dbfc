"""One run: reading, looking up and embedding, and writing at the same time, with little in between."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from svr_retrievers.concurrency import beside, off_loop
from svr_retrievers.ingest.checkpoint import Checkpoint
from svr_retrievers.ingest.intake import CHARACTERS_AT_ONCE, Intake
from svr_retrievers.ingest.options import Options
from svr_retrievers.ingest.placement import Wanted
from svr_retrievers.ingest.planning import Plan, keys_to_look_up, plan
from svr_retrievers.ingest.progress import OnProgress
from svr_retrievers.ingest.records import Source
from svr_retrievers.ingest.refusing import Refusing
from svr_retrievers.ingest.report import IngestReport, Tally
from svr_retrievers.ingest.target import Target
from svr_retrievers.ingest.vectors import Ready, Vectors
from svr_retrievers.ingest.work import Batch, Work
from svr_retrievers.ingest.writing import Writing


@dataclass(slots=True, eq=False)
class _Slot:
    """A batch on its way; set free, in order, once it is planned and embedded."""

    batch: Batch
    made: tuple[Plan, Ready] | None = None
    done: anyio.Event = field(default_factory=anyio.Event)


class Flow:
    """Keeps at most `concurrency` batches between the reading and the writing.

    Batches are planned and embedded side by side, but written in the order they were read. A document of which
    an earlier batch still holds anything waits until that is written: what was looked up would be out of date.
    """

    def __init__(
        self, target: Target, options: Options, checkpoint: Checkpoint | None, on_progress: OnProgress
    ) -> None:
        self.tally = Tally()
        self._target, self._options = target, options
        self._checkpoint, self._on_progress = checkpoint, on_progress
        wanted = Wanted(target.config.scheme, target.config.fields)
        refusing = Refusing(options, self.tally)
        self._refusing = refusing
        self._intake = Intake(options, wanted, refusing, self.tally, checkpoint.read() if checkpoint else 0)
        self._vectors = Vectors(target, wanted, options.namespace, refusing, self.tally)
        self._writing = Writing(target, refusing, self.tally)
        self._started = time.monotonic()
        self._claimed: set[tuple[str, str]] = set()
        self._under_way = 0
        self._written = anyio.Event()

    def report(self) -> IngestReport:
        return self.tally.report(time.monotonic() - self._started)

    async def run(self, source: Source) -> IngestReport:
        """Raises what stopped it; what the source itself raised, after what came before that was written."""
        send, receive = anyio.create_memory_object_stream[_Slot](self._options.concurrency - 1)
        async with receive, anyio.create_task_group() as tasks:
            tasks.start_soon(self._write_all, receive)
            async with send:
                await self._read_all(source, send, tasks)
        if self._intake.broken is not None:
            raise self._intake.broken
        if self._checkpoint is not None:
            self._checkpoint.done()
        report = self.report()
        await beside(self._on_progress, report)
        return report

    async def _read_all(self, source: Source, send: MemoryObjectSendStream[_Slot], tasks: TaskGroup) -> None:
        batch = Batch()
        async with aclosing(self._intake.works(source)) as parts:
            async for works in parts:
                for work in works:
                    claims = set(work.claims())
                    if not self._claimed.isdisjoint(claims):
                        batch = await self._send(batch, send, tasks)
                        await self._all_written()
                    self._claimed |= claims
                    batch = await self._fill(batch, work, send, tasks)
        await self._send(batch, send, tasks)

    async def _fill(
        self, batch: Batch, work: Work, send: MemoryObjectSendStream[_Slot], tasks: TaskGroup
    ) -> Batch:
        """Distributes the document's rows over this batch and, if need be, further ones."""
        start = 0
        while True:
            start += batch.take(work, start, self._options.batch_size - batch.size)
            if batch.full(self._options.batch_size, CHARACTERS_AT_ONCE):
                batch = await self._send(batch, send, tasks)
            if start >= work.size:
                return batch

    async def _send(self, batch: Batch, send: MemoryObjectSendStream[_Slot], tasks: TaskGroup) -> Batch:
        """Hands the batch on, as soon as there is room for it; returns a new one."""
        if not batch.begun and not batch.parts:
            return batch
        slot = _Slot(batch)
        self._under_way += 1
        await send.send(slot)
        tasks.start_soon(self._prepare, slot)
        return Batch()

    async def _prepare(self, slot: _Slot) -> None:
        await off_loop(slot.batch.size, slot.batch.put_together)
        stored = await self._target.rows(keys_to_look_up(slot.batch))
        made = await off_loop(slot.batch.size, plan, slot.batch, stored, self._options.mode)
        for work, (code, message) in made.refused.items():
            self._refusing.refuse_work(work, code, message)
        slot.made = made, await self._vectors.ready(made)
        slot.done.set()

    async def _write_all(self, receive: MemoryObjectReceiveStream[_Slot]) -> None:
        async for slot in receive:
            await slot.done.wait()
            assert slot.made is not None
            await self._writing.write(*slot.made)
            await self._settle(slot.batch)

    async def _settle(self, batch: Batch) -> None:
        for work in batch.ended:
            self._claimed.difference_update(work.claims())
        if self._checkpoint is not None and batch.ended:
            await beside(self._checkpoint.save, batch.position)
        self._under_way -= 1
        self._written.set()
        await beside(self._on_progress, self.report())

    async def _all_written(self) -> None:
        while self._under_way:
            self._written = anyio.Event()
            await self._written.wait()
