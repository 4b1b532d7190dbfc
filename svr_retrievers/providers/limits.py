"""Rate limits: token buckets that every task, thread and event loop of the process draws from."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from svr_retrievers.errors import InputError
from svr_retrievers.providers.arguments import check_number
from svr_retrievers.providers.forking import begins_anew
from svr_retrievers.providers.timing import REAL, Timing

_ENOUGH = 1e-6
"""What may be missing from a bucket for it to count as full enough: waits are computed in floating point."""

_LOOK_AGAIN_SECONDS = 0.001
"""How long someone in line waits at least who woke before the one ahead."""


class Bucket:
    """`per_second` units flow in, at most `burst` stand in it, and each taker waits its turn for what it needs.

    First come, first served. Over any span of `s` seconds at most `burst + s * per_second` units are taken,
    whichever threads and loops the takers are on. Whoever is cancelled while waiting takes nothing. A request
    for more than `burst` waits until the bucket is full, and leaves it in debt.
    """

    def __init__(self, per_second: float, burst: float, *, timing: Timing = REAL) -> None:
        if not (per_second > 0 and burst > 0):
            raise InputError("A rate limit needs a positive rate and a positive burst.")
        self.per_second = per_second
        self.burst = burst
        self._timing = timing
        self._level = burst
        self._read_at = timing.clock()
        self.begin_anew()
        begins_anew(self)

    def begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._line: deque[_Place] = deque()

    async def take(self, units: float = 1.0) -> float:
        """Waits until the units may be used; the seconds waited."""
        start = self._timing.clock()
        place = _Place(units)
        with self._lock:
            self._line.append(place)
        try:
            while (wait := self._step(place)) > 0:
                await self._timing.sleep(wait)
        except BaseException:
            with self._lock:
                if not place.served:
                    self._line.remove(place)
            raise
        return self._timing.clock() - start

    def hold(self, seconds: float) -> None:
        """Lets nothing out for so long: a provider asked for a pause, which concerns everyone."""
        with self._lock:
            self._flow()
            self._level = min(self._level, 1.0 - max(seconds, 0.0) * self.per_second)

    def _step(self, place: _Place) -> float:
        """Zero when the place at the head of the line was served; else how long to wait before asking again."""
        with self._lock:
            self._flow()
            ahead = 0.0
            for other in self._line:
                if other is place:
                    break
                ahead += other.units
            if ahead:
                return max((ahead + place.units - self._level) / self.per_second, _LOOK_AGAIN_SECONDS)
            missing = min(place.units, self.burst) - self._level
            if missing > _ENOUGH:
                return missing / self.per_second
            self._level -= place.units
            place.served = True
            self._line.popleft()
            return 0.0

    def _flow(self) -> None:
        now = self._timing.clock()
        self._level = min(self.burst, self._level + (now - self._read_at) * self.per_second)
        self._read_at = now


class _Place:
    """A place in a bucket's line."""

    __slots__ = ("served", "units")

    def __init__(self, units: float) -> None:
        self.units = units
        self.served = False


class Limits:
    """What one account may use each minute; None is without limit. Providers count in these three ways.

    Give the same object to all that use the account, and they share its buckets, from any thread and event loop.
    What `burst_seconds` of the rate allow may be used at once after a quiet time. Counted is every HTTP request,
    repeated ones included; tokens are estimates made before the request.
    """

    def __init__(
        self,
        *,
        requests_per_minute: float | None = None,
        inputs_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        burst_seconds: float = 1.0,
        timing: Timing = REAL,
    ) -> None:
        check_number("burst_seconds", burst_seconds)
        per_minute = {
            "tokens": tokens_per_minute,
            "inputs": inputs_per_minute,
            "requests": requests_per_minute,
        }
        self._burst_seconds = burst_seconds
        self.per_minute = {name: rate for name, rate in per_minute.items() if rate is not None}
        for name, rate in self.per_minute.items():
            check_number(f"{name}_per_minute", rate)
        self._buckets = {
            name: Bucket(rate / 60, max(1.0, rate * burst_seconds / 60), timing=timing)
            for name, rate in self.per_minute.items()
        }

    async def take(self, *, inputs: float = 1.0, tokens: float = 0.0) -> float:
        """Waits until one request with so many inputs and tokens may go out; the seconds waited."""
        units = {"tokens": tokens, "inputs": inputs, "requests": 1.0}
        waited = 0.0
        for name, bucket in self._buckets.items():
            if units[name] > 0:
                waited += await bucket.take(units[name])
        return waited

    def hold(self, seconds: float) -> None:
        """Lets no request out for so long."""
        for bucket in self._buckets.values():
            bucket.hold(seconds)

    def __reduce__(self) -> tuple[Callable[[], Limits], tuple[()]]:
        """A pickle holds the rates; where it arrives the buckets are full, and that process's own."""
        made = partial(
            Limits,
            requests_per_minute=self.per_minute.get("requests"),
            inputs_per_minute=self.per_minute.get("inputs"),
            tokens_per_minute=self.per_minute.get("tokens"),
            burst_seconds=self._burst_seconds,
        )
        return made, ()

    def __repr__(self) -> str:
        shown = [f"{rate:,.0f} {name}" for name, rate in reversed(self.per_minute.items())]
        return f"Limits({', '.join(shown)} a minute)" if shown else "Limits(none)"


_shared_lock = threading.Lock()
_shared: dict[tuple[str, ...], Limits] = {}


def shared_limits(*account: str, timing: Timing, make: Callable[[], Limits]) -> Limits:
    """One object for each provider, account and purpose: what is made separately with one key shares it.

    Where time is not the real one, each has its own.
    """
    if timing is not REAL:
        return make()
    with _shared_lock:
        if account not in _shared:
            _shared[account] = make()
        return _shared[account]
