"""What every store promises about events: each committed one once, none skipped, in order, kept until dealt with."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import replace
from typing import Generic, TypeVar, cast

import pytest

from svr_retrievers.control.protocol import Event, RecordedEvent, Work
from svr_retrievers.errors import ConsumerNotFound, EventsPruned, InputError
from svr_retrievers.testing.control_base import (
    BAD_TEXTS,
    ControlSuite,
    event,
    everything,
    ids,
    open_transaction,
)
from svr_retrievers.testing.control_operations import DETAILS

Tx = TypeVar("Tx")
WRITERS, ROUNDS = 5, 12


class Undo(Exception):
    """Makes a transaction of a test end without being committed."""


class Mill(Generic[Tx]):
    """Writers with a subject each and one that they share, in whose order they take turns."""

    def __init__(self, work: Work[Tx]) -> None:
        self.work = work
        self.committed: list[Event] = []
        self.running = True
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        await asyncio.gather(*(self._write(n) for n in range(WRITERS)))
        self.running = False

    async def _write(self, writer: int) -> None:
        chance = random.Random(writer)  # noqa: S311 - the same every time is what is wanted
        for number in range(ROUNDS):
            await self._alone(event(f"w{writer}", number), chance.randrange(6), undo=chance.random() < 0.2)
            async with self._turn:
                shared = event("shared", number)
                await self.work.outbox.append([shared])
                self.committed.append(shared)

    async def _alone(self, own: Event, pause: int, *, undo: bool) -> None:
        async def write(transaction: Tx) -> None:
            await self.work.outbox.append([own], within=transaction)
            for _ in range(pause):
                await self.work.leases.held("nobody's")
            if undo:
                raise Undo

        with contextlib.suppress(Undo):
            await self.work.transact(write)
            self.committed.append(own)

    async def follow(self) -> list[RecordedEvent]:
        seen: list[RecordedEvent] = []
        while True:
            last = not self.running
            batch = await self.work.outbox.read(after=seen[-1].position if seen else 0, limit=4)
            seen += batch
            if last and not batch:
                return seen
            await asyncio.sleep(0)


class OutboxConformance(ControlSuite[Tx]):
    async def test_what_is_appended_is_what_is_read(self, work: Work[Tx]) -> None:
        given = [Event("a", "x.made", DETAILS), Event("$b", "x.made", id="mine"), Event("a", "x.gone", {})]
        await work.outbox.append(given)

        found = await work.outbox.read(after=0)

        assert [each.event for each in found] == given
        assert [repr(each.event.data) for each in found] == [repr(each.data) for each in given]
        assert [each.position for each in found] == [1, 2, 3]
        assert all(each.at.tzinfo is not None for each in found)
        assert await work.outbox.read(after=0) == found
        assert await work.outbox.read(after=2) == found[2:]
        assert await work.outbox.read(after=1, limit=1) == found[1:2]
        assert await work.outbox.read(after=3) == []

    async def test_nothing_appended_is_nothing(self, work: Work[Tx]) -> None:
        await work.outbox.append([])
        assert await work.outbox.read(after=0) == []

    async def test_an_id_is_one_event(self, work: Work[Tx]) -> None:
        first, second = event(number=1), event(number=2)
        await work.outbox.append([first, first])
        await work.outbox.append([second, first, replace(first, type="test.other")])

        assert [each.event for each in await everything(work)] == [first, second]

    async def test_one_event_appended_by_many_at_once_is_one(self, work: Work[Tx]) -> None:
        same = event()
        await asyncio.gather(*(work.outbox.append([same]) for _ in range(8)))

        assert [each.event for each in await everything(work)] == [same]

    async def test_what_is_not_committed_is_not_there(self, work: Work[Tx]) -> None:
        async def undone(transaction: Tx) -> None:
            await work.outbox.append([event()], within=transaction)
            raise Undo

        with pytest.raises(Undo):
            await work.transact(undone)
        assert await everything(work) == []

    async def test_a_long_transaction_holds_up_nobody_and_is_not_skipped(self, work: Work[Tx]) -> None:
        early, late, last = event("s", 1), event("s", 2), event("t", 3)

        async with open_transaction(work, lambda tx: work.outbox.append([early], within=tx)) as outcome:
            await work.outbox.append([late])
            seen = await everything(work)
            assert ids(seen) == [late.id]
            await work.outbox.append([last])

        assert outcome.exception() is None
        after = await everything(work, after=seen[-1].position)
        assert sorted(ids(after)) == sorted([early.id, last.id])
        assert await everything(work) == seen + after

    async def test_who_saw_a_commit_comes_after_it(self, work: Work[Tx]) -> None:
        """A transaction that began first, but appended after another was committed: its event is the later one."""
        other, own = event("s", 1), event("s", 2)
        begun, go = asyncio.Event(), asyncio.Event()

        async def slow(transaction: Tx) -> None:
            await work.outbox.append([event("elsewhere")], within=transaction)
            begun.set()
            await go.wait()
            await work.outbox.append([own], within=transaction)

        task = asyncio.create_task(work.transact(slow))
        await begun.wait()
        await work.outbox.append([other])
        go.set()
        await task

        assert [e.event.id for e in await everything(work) if e.event.subject == "s"] == [other.id, own.id]

    async def test_the_order_of_a_transaction_is_kept(self, work: Work[Tx]) -> None:
        events = [event("s", n) for n in range(30)]

        async def write(transaction: Tx) -> None:
            for start in range(0, 30, 6):
                await work.outbox.append(events[start : start + 6], within=transaction)

        await work.transact(write)

        assert ids(await everything(work)) == [each.id for each in events]

    async def test_interleaved_transactions_lose_and_double_nothing(self, work: Work[Tx]) -> None:
        """Writers whose transactions take various times, some undone, beside readers that never look back."""
        mill = Mill(work)

        _, one, two = await asyncio.gather(mill.run(), mill.follow(), mill.follow())

        assert one == two
        assert [each.position for each in one] == list(range(1, len(mill.committed) + 1))
        assert sorted(ids(one)) == sorted(each.id for each in mill.committed)
        for subject in {each.subject for each in mill.committed}:
            expected = [each.id for each in mill.committed if each.subject == subject]
            assert [e.event.id for e in one if e.event.subject == subject] == expected

    async def test_consumers_have_their_own_positions(self, work: Work[Tx]) -> None:
        await work.outbox.append([event(number=n) for n in range(4)])
        await work.outbox.read(after=0)
        assert [await work.outbox.subscribe(name) for name in ("a", "b")] == [0, 0]

        await work.outbox.acknowledge("a", 3)
        await work.outbox.acknowledge("a", 2)
        await work.outbox.acknowledge("b", 1)

        assert [await work.outbox.subscribe(name) for name in ("a", "b")] == [3, 1]

    async def test_acknowledging_is_part_of_the_consumers_transaction(self, work: Work[Tx]) -> None:
        await work.outbox.append([event()])
        await work.outbox.read(after=0)
        await work.outbox.subscribe("a")

        async def undone(transaction: Tx) -> None:
            await work.outbox.acknowledge("a", 1, within=transaction)
            raise Undo

        with pytest.raises(Undo):
            await work.transact(undone)
        assert await work.outbox.subscribe("a") == 0
        await work.transact(lambda tx: work.outbox.acknowledge("a", 1, within=tx))
        assert await work.outbox.subscribe("a") == 1

    async def test_pruning_waits_for_every_consumer(self, work: Work[Tx]) -> None:
        await work.outbox.append([event(number=n) for n in range(6)])
        found = await work.outbox.read(after=0)
        for name, position in (("a", 5), ("b", 2)):
            await work.outbox.subscribe(name)
            await work.outbox.acknowledge(name, position)

        assert await self.prune(work) == 2
        assert await work.outbox.read(after=2) == found[2:]
        await work.outbox.unsubscribe("b")
        assert await self.prune(work, limit=2) == 2
        assert await self.prune(work, limit=2) == 1
        assert await self.prune(work) == 0
        assert await work.outbox.read(after=5) == found[5:]

    async def prune(self, work: Work[Tx], limit: int = 1_000) -> int:
        return await work.outbox.prune(keep_seconds=0, limit=limit)

    async def test_young_events_are_kept(self, work: Work[Tx]) -> None:
        await work.outbox.append([event()])
        await work.outbox.read(after=0)

        assert await work.outbox.prune(keep_seconds=1000) == 0
        assert len(await work.outbox.read(after=0)) == 1

    async def test_unread_events_are_kept(self, work: Work[Tx]) -> None:
        await work.outbox.append([event()])

        assert await self.prune(work) == 0
        assert len(await work.outbox.read(after=0)) == 1

    async def test_pruned_events_are_announced_not_skipped(self, work: Work[Tx]) -> None:
        await work.outbox.append([event(number=n) for n in range(4)])
        await work.outbox.read(after=0)
        await work.outbox.subscribe("a")
        await work.outbox.acknowledge("a", 3)
        await self.prune(work)

        for after in (0, 2):
            with pytest.raises(EventsPruned) as raised:
                await work.outbox.read(after=after)
            assert raised.value.pruned == 3
        assert len(await work.outbox.read(after=3)) == 1
        assert await work.outbox.subscribe("new") == 3
        await work.outbox.append([event()])
        assert [each.position for each in await work.outbox.read(after=3)] == [4, 5]

    async def test_positions_that_nobody_has_had_are_refused(self, work: Work[Tx]) -> None:
        await work.outbox.append([event()])
        await work.outbox.subscribe("a")
        await work.outbox.read(after=0)

        with pytest.raises(InputError, match="position 2"):
            await work.outbox.read(after=2)
        with pytest.raises(InputError, match="position 2"):
            await work.outbox.acknowledge("a", 2)
        assert await work.outbox.subscribe("a") == 0

    async def test_unknown_consumers(self, work: Work[Tx]) -> None:
        with pytest.raises(ConsumerNotFound):
            await work.outbox.acknowledge("nobody", 0)
        with pytest.raises(ConsumerNotFound):
            await work.outbox.unsubscribe("nobody")

    async def test_subscribing_many_times_at_once_is_once(self, work: Work[Tx]) -> None:
        assert await asyncio.gather(*(work.outbox.subscribe("a") for _ in range(8))) == [0] * 8
        await work.outbox.unsubscribe("a")
        with pytest.raises(ConsumerNotFound):
            await work.outbox.unsubscribe("a")

    async def test_bad_texts_of_events_are_refused(self, work: Work[Tx]) -> None:
        for wrong in BAD_TEXTS:
            text = cast("str", wrong)
            with pytest.raises(InputError, match="subject"):
                Event(text, "t")
            with pytest.raises(InputError, match="type"):
                Event("s", text)
            with pytest.raises(InputError, match="id"):
                Event("s", "t", id=text)
            with pytest.raises(InputError, match="consumer"):
                await work.outbox.subscribe(text)
            with pytest.raises(InputError, match="consumer"):
                await work.outbox.acknowledge(text, 0)

    async def test_bad_numbers_are_refused(self, work: Work[Tx]) -> None:
        for number in (-1, 1.5, True, "1", None, 2**63):
            wrong = cast("int", number)
            with pytest.raises(InputError, match="after"):
                await work.outbox.read(after=wrong)
            with pytest.raises(InputError, match="position"):
                await work.outbox.acknowledge("a", wrong)
        for limit in (0, -1, 10_001):
            with pytest.raises(InputError, match="limit"):
                await work.outbox.read(after=0, limit=limit)
            with pytest.raises(InputError, match="limit"):
                await work.outbox.prune(keep_seconds=0, limit=limit)
        with pytest.raises(InputError, match="keep_seconds"):
            await work.outbox.prune(keep_seconds=-1)
        with pytest.raises(InputError, match="number of events"):
            await work.outbox.append([event()] * 10_001)
