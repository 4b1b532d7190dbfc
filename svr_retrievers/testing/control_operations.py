"""What every store promises about operations: numbered, one a cause, compare-and-set, and all versions kept."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TypeVar, cast

import pytest

from svr_retrievers.control.protocol import Operation, State, Work
from svr_retrievers.errors import (
    Conflict,
    InputError,
    LeaseLost,
    OperationNotFound,
    OperationPending,
    UsageError,
)
from svr_retrievers.testing.control_base import (
    BAD_TEXTS,
    LONG,
    ControlSuite,
    claimed,
    event,
    everything,
    expired,
)
from svr_retrievers.values import JsonValue

Tx = TypeVar("Tx")
DETAILS: dict[str, JsonValue] = {
    "text": "$where ä \u202e '; --",
    "$set": {"a.b": [1, 1.0, 1e308, 5e-324, 2**70, -0.0, True, None, "", []]},
    "": {"nested": {"deeper": [{}]}},
    "_id": "mine",
    "__proto__": "x",
}
DEEP: JsonValue = []
for _ in range(100):
    DEEP = [DEEP]
BAD_DETAILS: list[object] = [
    [], "text", {1: 2}, {"a": float("nan")}, {"a": {"b": object}}, {"a": "\x00"}, {"\ud800": 1}, {"a": b"bytes"},
    {"a": "x" * 300_000}, {"a": {1, 2}}, {"deep": DEEP},
]  # fmt: skip


class OperationsConformance(ControlSuite[Tx]):
    async def make(self, work: Work[Tx], cause: str = "too large", collection: str = "c") -> Operation:
        return await work.operations.create("split", collection=collection, cause=cause, step="plan")

    async def test_what_is_created_is_what_is_read(self, work: Work[Tx]) -> None:
        made = await work.operations.create("split", collection="c", cause="x", step="plan", details=DETAILS)

        assert (made.kind, made.collection, made.cause, made.step) == ("split", "c", "x", "plan")
        assert (made.state, made.version, made.token) == (State.PENDING, 1, None)
        assert made.created_at == made.updated_at
        assert made.created_at.tzinfo is not None
        assert made.details == DETAILS
        assert repr(made.details["$set"]) == repr(DETAILS["$set"])
        assert await work.operations.get(made.number) == made

    async def test_numbers_rise(self, work: Work[Tx]) -> None:
        made = [await self.make(work, f"cause {n}") for n in range(5)]

        assert [each.number for each in made] == sorted({each.number for each in made})

    async def test_advancing_makes_versions_and_keeps_them(self, work: Work[Tx]) -> None:
        first = await self.make(work)
        second = await work.operations.advance(first, state=State.RUNNING)
        third = await work.operations.advance(second, step="copy", details={"copied": 5})
        last = await work.operations.advance(third, state=State.DONE)

        assert [v.version for v in (first, second, third, last)] == [1, 2, 3, 4]
        assert (second.state, second.step) == (State.RUNNING, "plan")
        assert (third.state, third.step, third.details) == (State.RUNNING, "copy", {"copied": 5})
        assert (last.state, last.step, last.details) == (State.DONE, "copy", {"copied": 5})
        assert {v.created_at for v in (second, third, last)} == {first.created_at}
        assert await work.operations.history(first.number) == [first, second, third, last]
        assert await work.operations.get(first.number) == last

    async def test_a_stale_version_is_refused(self, work: Work[Tx]) -> None:
        first = await self.make(work)
        second = await work.operations.advance(first, step="copy")

        with pytest.raises(Conflict, match="version 2, not 1") as raised:
            await work.operations.advance(first, step="other")
        assert raised.value.code == "conflict"
        assert await work.operations.get(first.number) == second
        assert len(await work.operations.history(first.number)) == 2

    async def test_of_many_writers_of_a_version_one_wins(self, work: Work[Tx]) -> None:
        first = await self.make(work)

        answers = await asyncio.gather(
            *(work.operations.advance(first, step=f"by {n}") for n in range(12)), return_exceptions=True
        )

        won = [each for each in answers if isinstance(each, Operation)]
        assert len(won) == 1
        assert all(isinstance(each, Conflict) for each in answers if each is not won[0])
        assert await work.operations.history(first.number) == [first, won[0]]

    @pytest.mark.parametrize("state", [State.DONE, State.FAILED, State.UNDONE])
    async def test_a_finished_operation_stays_as_it_is(self, work: Work[Tx], state: State) -> None:
        done = await work.operations.advance(await self.make(work), state=state)

        with pytest.raises(Conflict, match="finished"):
            await work.operations.advance(done, state=State.RUNNING)
        again = await self.make(work)
        assert again.number > done.number

    async def test_one_open_operation_a_cause(self, work: Work[Tx]) -> None:
        made = await self.make(work)
        for state in (None, State.RUNNING, State.PAUSED):
            made = await work.operations.advance(made, state=state)
            with pytest.raises(OperationPending) as raised:
                await self.make(work)
            assert raised.value.number == made.number

        others = [await self.make(work, "other cause"), await self.make(work, collection="d")]
        assert len({made.number, *(each.number for each in others)}) == 3

    async def test_of_many_that_create_for_a_cause_one_does(self, work: Work[Tx]) -> None:
        answers = await asyncio.gather(*(self.make(work) for _ in range(12)), return_exceptions=True)

        made = [each for each in answers if isinstance(each, Operation)]
        assert len(made) == 1
        refused = [each for each in answers if isinstance(each, OperationPending)]
        assert [each.number for each in refused] == [made[0].number] * 11

    async def test_a_fence_is_recorded(self, work: Work[Tx]) -> None:
        lease = await claimed(work, "c")
        made = await work.operations.create("split", collection="c", cause="x", fence=lease)
        second = await work.operations.advance(made, step="copy", fence=lease)
        third = await work.operations.advance(second, step="x")

        assert [v.token for v in await work.operations.history(made.number)] == [
            lease.token,
            lease.token,
            None,
        ]
        assert third.token is None

    async def test_a_stale_fence_writes_nothing(self, work: Work[Tx]) -> None:
        made = await self.make(work)
        old = await expired(work, "c")
        await claimed(work, "c", "new")

        with pytest.raises(LeaseLost):
            await work.operations.advance(made, step="copy", fence=old)
        with pytest.raises(LeaseLost):
            await work.operations.create("split", collection="c", cause="y", fence=old)
        assert await work.operations.find() == [made]
        assert await work.operations.history(made.number) == [made]

    async def test_finding(self, work: Work[Tx]) -> None:
        a, b, c = [await self.make(work, f"{n}", collection) for n, collection in enumerate("xyx")]
        b = await work.operations.advance(b, state=State.RUNNING)
        c = await work.operations.advance(c, state=State.DONE)

        find = work.operations.find
        assert await find() == [a, b, c]
        assert await find(collection="x") == [a, c]
        assert await find(states={State.PENDING, State.RUNNING}) == [a, b]
        assert await find(collection="x", states=[State.DONE]) == [c]
        assert await find(limit=2) == [a, b]
        assert await find(after=a.number, limit=1) == [b]
        assert await find(collection="nobody's") == []

    async def test_a_transaction_writes_all_or_nothing(self, work: Work[Tx]) -> None:
        made = await self.make(work)

        async def fails(transaction: Tx) -> None:
            await work.operations.advance(made, step="copy", within=transaction)
            await work.operations.create("merge", collection="c", cause="y", within=transaction)
            await work.outbox.append([event()], within=transaction)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await work.transact(fails)
        assert await work.operations.find() == [made]
        assert await everything(work) == []

        async def passes(transaction: Tx) -> Operation:
            second = await work.operations.advance(made, step="copy", within=transaction)
            await work.outbox.append([event()], within=transaction)
            return await work.operations.advance(second, step="switch", within=transaction)

        last = await work.transact(passes)
        assert (last.step, last.version) == ("switch", 3)
        assert await work.operations.find() == [last]
        assert len(await work.operations.history(made.number)) == 3
        assert len(await everything(work)) == 1

    async def test_a_transaction_that_is_over_takes_nothing_in(self, work: Work[Tx]) -> None:
        made, lease = await self.make(work), await claimed(work, "c")

        async def leak(transaction: Tx) -> Tx:
            return transaction

        over = await work.transact(leak)

        with pytest.raises(UsageError, match="within"):
            await work.operations.advance(made, step="copy", within=over)
        with pytest.raises(UsageError, match="within"):
            await work.outbox.append([event()], within=over)
        with pytest.raises(UsageError, match="within"):
            await work.leases.fence(lease, within=over)
        assert await work.operations.find() == [made]

    async def test_what_callers_do_to_their_copy_stays_with_them(self, work: Work[Tx]) -> None:
        details: dict[str, JsonValue] = {"list": [1]}
        made = await work.operations.create("split", collection="c", cause="x", details=details)
        details["list"] = []
        found = await work.operations.get(made.number)
        assert isinstance(found.details, dict)
        found.details["more"] = 1

        assert (await work.operations.get(made.number)).details == {"list": [1]}

    async def test_a_cancelled_call_is_done_or_not_done(self, work: Work[Tx]) -> None:
        """Cancelled after any number of turns of the event loop; what it held is free again at once."""
        lease, newest = await claimed(work, "c"), await self.make(work)
        for turns in range(40):
            call = asyncio.create_task(work.operations.advance(newest, step=f"{turns}", fence=lease))
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait({call})
            found = await work.operations.get(newest.number)
            assert call.cancelled() or found == call.result()
            assert (found.version, found.step) in {
                (newest.version, newest.step),
                (newest.version + 1, f"{turns}"),
            }
            assert len(await work.operations.history(newest.number)) == found.version
            newest = await work.operations.advance(found, step="after", fence=lease)
        assert await work.leases.release(lease)
        assert await work.leases.claim("c", "b", LONG)

    async def test_unknown_numbers(self, work: Work[Tx]) -> None:
        made = await self.make(work)
        stranger = replace(made, number=made.number + 1000)

        with pytest.raises(OperationNotFound):
            await work.operations.get(stranger.number)
        with pytest.raises(OperationNotFound):
            await work.operations.history(stranger.number)
        with pytest.raises(OperationNotFound):
            await work.operations.advance(stranger, step="copy")

    async def test_bad_texts_are_refused(self, work: Work[Tx]) -> None:
        create = work.operations.create
        for wrong in BAD_TEXTS:
            text = cast("str", wrong)
            with pytest.raises(InputError, match="kind"):
                await create(text, collection="c", cause="x")
            with pytest.raises(InputError, match="collection"):
                await create("split", collection=text, cause="x")
            with pytest.raises(InputError, match="cause"):
                await create("split", collection="c", cause=text)
        assert await work.operations.find() == []

    async def test_bad_details_are_refused(self, work: Work[Tx]) -> None:
        made = await self.make(work)
        for wrong in BAD_DETAILS:
            details = cast("dict[str, JsonValue]", wrong)
            with pytest.raises(InputError, match="details"):
                await work.operations.create("split", collection="c", cause="x", details=details)
            with pytest.raises(InputError, match="details"):
                await work.operations.advance(made, details=details)
        assert await work.operations.find() == [made]

    async def test_bad_numbers_and_states_are_refused(self, work: Work[Tx]) -> None:
        made = await self.make(work)
        with pytest.raises(InputError, match="limit"):
            await work.operations.find(limit=0)
        with pytest.raises(InputError, match="after"):
            await work.operations.find(after=-1)
        with pytest.raises(InputError, match="number"):
            await work.operations.get(2**63)
        unknown = cast("State", "nonsense")
        with pytest.raises(InputError, match="state"):
            await work.operations.find(states=[unknown])
        with pytest.raises(InputError, match="state"):
            await work.operations.advance(made, state=unknown)
        assert await work.operations.find(limit=10_000) == [made]

    async def test_an_operation_under_another_lease_goes_on(self, work: Work[Tx]) -> None:
        made, lease = await self.make(work), await claimed(work, "c")
        second = await work.operations.advance(made, step="copy", fence=lease)
        await work.leases.release(lease)
        successor = await work.leases.claim("c", "b", LONG)
        assert successor is not None

        third = await work.operations.advance(second, step="switch", fence=successor)

        assert third.token == successor.token
        assert third.token > lease.token
