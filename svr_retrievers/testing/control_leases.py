"""What every store promises about leases: one holder at a time, rising tokens, and no write by a stale holder."""

from __future__ import annotations

import asyncio
from typing import TypeVar, cast

import pytest

from svr_retrievers.control.protocol import Lease, Work
from svr_retrievers.errors import InputError, LeaseLost, SVRError
from svr_retrievers.testing.control_base import (
    BAD_TEXTS,
    LONG,
    SHORT,
    ControlSuite,
    claimed,
    event,
    everything,
    expired,
    open_transaction,
)

Tx = TypeVar("Tx")
RACERS, ROUNDS = 40, 5


class LeasesConformance(ControlSuite[Tx]):
    async def test_one_holder_at_a_time(self, work: Work[Tx]) -> None:
        lease = await claimed(work, "job", "a")

        assert (lease.name, lease.holder, lease.ttl_seconds) == ("job", "a", LONG)
        assert lease.expires_at.tzinfo is not None
        assert await work.leases.claim("job", "b", LONG) is None
        assert await work.leases.claim("job", "a", LONG) is None
        assert await work.leases.held("job") == lease
        assert await work.leases.held("other job") is None

    async def test_names_do_not_touch_each_other(self, work: Work[Tx]) -> None:
        names = [
            "a",
            "A",
            "a ",
            "a.b",
            "$a",
            "$$NOW",
            "ä",
            "a\u0308",
            "'; drop table leases; --",
            "%s",
            "{leases}",
        ]
        leases = [await claimed(work, name, f"holder of {name}") for name in names]

        assert [lease.token for lease in leases] == [1] * len(names)
        assert [(await work.leases.held(name)) for name in names] == leases

    async def test_a_holder_is_text_and_nothing_else(self, work: Work[Tx]) -> None:
        for holder in ("$expires_at", "$$ROOT", "{}", "a" * 1000, "\u202e"):
            lease = await claimed(work, holder, holder)
            assert lease.holder == holder
            assert await work.leases.held(holder) == lease

    async def test_racers_have_one_winner_a_round(self, work: Work[Tx]) -> None:
        tokens = []
        for _ in range(ROUNDS):
            answers = await asyncio.gather(*(work.leases.claim("race", f"r{n}", LONG) for n in range(RACERS)))
            winners = [lease for lease in answers if lease is not None]
            assert len(winners) == 1
            assert await work.leases.held("race") == winners[0]
            assert await work.leases.release(winners[0])
            tokens.append(winners[0].token)

        assert tokens == sorted(set(tokens))

    async def test_racers_for_new_names_have_one_winner_each(self, work: Work[Tx]) -> None:
        for name in (f"new {n}" for n in range(3 * ROUNDS)):
            answers = await asyncio.gather(
                *(work.leases.claim(name, f"r{n}", LONG) for n in range(RACERS // 2))
            )
            assert [lease.token for lease in answers if lease is not None] == [1]

    async def test_racers_for_an_expired_lease_have_one_winner(self, work: Work[Tx]) -> None:
        old = await expired(work, "race")

        answers = await asyncio.gather(*(work.leases.claim("race", f"r{n}", LONG) for n in range(RACERS)))

        winners = [lease for lease in answers if lease is not None]
        assert len(winners) == 1
        assert winners[0].token > old.token

    async def test_tokens_rise_through_release_and_expiry(self, work: Work[Tx]) -> None:
        leases = [await claimed(work, "job", "a", SHORT)]
        leases.append(await claimed(work, "job", "b"))
        assert await work.leases.release(leases[-1])
        leases.append(await claimed(work, "job", "a"))

        assert [lease.token for lease in leases] == sorted({lease.token for lease in leases})

    async def test_renewing_gives_the_whole_time_again(self, work: Work[Tx]) -> None:
        lease = await claimed(work, "job", seconds=LONG)
        renewed = await work.leases.renew(lease)

        assert renewed.token == lease.token
        assert renewed.expires_at >= lease.expires_at
        assert await work.leases.held("job") == renewed
        assert (await work.leases.renew(lease)).token == lease.token

    async def test_an_expired_lease_is_lost_before_anybody_takes_it(self, work: Work[Tx]) -> None:
        lease = await expired(work, "job")
        operation = await work.operations.create("split", collection="c", cause="x")

        await self.refused_everywhere(work, lease)
        with pytest.raises(LeaseLost):
            await work.operations.advance(operation, step="two", fence=lease)
        assert await work.operations.get(operation.number) == operation

    async def test_a_released_lease_is_lost(self, work: Work[Tx]) -> None:
        lease = await claimed(work, "job")

        assert await work.leases.release(lease)
        assert not await work.leases.release(lease)
        assert await work.leases.held("job") is None
        await self.refused_everywhere(work, lease)

    async def test_a_woken_holder_harms_nobody(self, work: Work[Tx]) -> None:
        old = await expired(work, "job")
        new = await claimed(work, "job", "new")

        await self.refused_everywhere(work, old)
        assert await work.leases.held("job") == new
        assert await work.leases.renew(new)

    async def test_the_same_holder_again_is_another_holder(self, work: Work[Tx]) -> None:
        old = await expired(work, "job")
        await claimed(work, "job", old.holder)

        await self.refused_everywhere(work, old)

    async def refused_everywhere(self, work: Work[Tx], lease: Lease) -> None:
        with pytest.raises(LeaseLost):
            await work.leases.renew(lease)
        assert not await work.leases.release(lease)

        async def write(transaction: Tx) -> None:
            await work.leases.fence(lease, within=transaction)
            await work.outbox.append([event()], within=transaction)

        with pytest.raises(LeaseLost) as raised:
            await work.transact(write)
        assert raised.value.code == "lease_lost"
        assert raised.value.hint
        assert await everything(work) == []

    async def test_a_lease_that_never_was_is_lost(self, work: Work[Tx]) -> None:
        real = await claimed(work, "other")
        await self.refused_everywhere(work, Lease("job", "a", real.token, LONG, real.expires_at))

    async def test_a_fence_holds_until_the_transaction_ends(self, work: Work[Tx]) -> None:
        """Nobody claims a lease under a transaction that is committed afterwards."""
        lease = await claimed(work, "job", "old", 0.5)

        async def write(transaction: Tx) -> None:
            await work.leases.fence(lease, within=transaction)
            await work.outbox.append([event()], within=transaction)

        async with open_transaction(work, write) as outcome:
            meanwhile = await work.leases.claim("job", "new", LONG)
            while meanwhile is None and await work.leases.held("job") is not None:
                meanwhile = await work.leases.claim("job", "new", LONG)
            if meanwhile is None:
                meanwhile = await work.leases.claim("job", "new", LONG)

        committed = outcome.exception() is None
        assert committed == bool(await everything(work))
        assert not (committed and meanwhile is not None)
        assert isinstance(outcome.exception(), SVRError | None)
        assert (meanwhile or await claimed(work, "job", "new")).token > lease.token

    async def test_a_fence_lets_other_leases_be(self, work: Work[Tx]) -> None:
        lease, other = await claimed(work, "job"), await claimed(work, "other job")

        async with open_transaction(work, lambda tx: work.leases.fence(lease, within=tx)) as outcome:
            assert await work.leases.renew(other)
            assert await work.leases.claim("job", "b", LONG) is None
            assert await work.leases.claim("third job", "b", LONG)
            assert await work.leases.held("job") == lease

        assert outcome.exception() is None
        assert await work.leases.renew(lease)

    async def test_two_fenced_writes_of_one_holder_both_pass(self, work: Work[Tx]) -> None:
        lease = await claimed(work, "job")

        async def write(number: int) -> None:
            async def both(transaction: Tx) -> None:
                await work.leases.fence(lease, within=transaction)
                await work.outbox.append([event(number=number)], within=transaction)

            await work.transact(both)

        await asyncio.gather(*(write(n) for n in range(8)))

        assert sorted(str(e.event.data["number"]) for e in await everything(work)) == list("01234567")

    async def test_bad_times_are_refused(self, work: Work[Tx]) -> None:
        wrong: object
        for wrong in (0, -1, 0.001, 86_401, float("nan"), float("inf"), True, "60", None):
            with pytest.raises(InputError, match="ttl_seconds"):
                await work.leases.claim("job", "a", cast("float", wrong))
        assert await work.leases.held("job") is None

    async def test_bad_names_and_holders_are_refused(self, work: Work[Tx]) -> None:
        for text in BAD_TEXTS:
            with pytest.raises(InputError, match="name"):
                await work.leases.claim(cast("str", text), "a", LONG)
            with pytest.raises(InputError, match="holder"):
                await work.leases.claim("job", cast("str", text), LONG)
            with pytest.raises(InputError, match="name"):
                await work.leases.held(cast("str", text))
