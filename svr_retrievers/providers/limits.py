"""Rate limits: token buckets that every task, thread and event loop of the process draws from."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from svr_retrievers.errors import InputError
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
        self._lock = threading.Lock()
        self._level = burst
        self._read_at = timing.clock()
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What an account may use each minute; None is without limit. Providers count in these three ways."""

    requests_per_minute: float | None = None
    inputs_per_minute: float | None = None
    tokens_per_minute: float | None = None
    burst_seconds: float = 1.0

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "inputs_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} must be positive, or None for no limit; it is {value!r}.")
        if not self.burst_seconds > 0:
            raise InputError(f"burst_seconds must be positive; it is {self.burst_seconds!r}.")


class Limits:
    """The buckets of one account. Give the same object to all that use the account, and they share them.

    `burst_seconds` of the rate may be used at once after a quiet time. Counted is every HTTP request,
    repeated ones included; tokens are estimates made before the request.
    """

    def __init__(self, rates: Rates | None = None, *, timing: Timing = REAL) -> None:
        self.rates = rates or Rates()
        r = self.rates
        self._requests = self._bucket(r.requests_per_minute, timing)
        self._inputs = self._bucket(r.inputs_per_minute, timing)
        self._tokens = self._bucket(r.tokens_per_minute, timing)

    def _bucket(self, per_minute: float | None, timing: Timing) -> Bucket | None:
        if per_minute is None:
            return None
        burst = max(1.0, per_minute * self.rates.burst_seconds / 60)
        return Bucket(per_minute / 60, burst, timing=timing)

    async def take(self, *, inputs: float = 1.0, tokens: float = 0.0) -> float:
        """Waits until one request with so many inputs and tokens may go out; the seconds waited."""
        waited = 0.0
        wanted = ((self._tokens, tokens), (self._inputs, inputs), (self._requests, 1.0))
        for bucket, units in wanted:
            if bucket is not None and units > 0:
                waited += await bucket.take(units)
        return waited

    def hold(self, seconds: float) -> None:
        """Lets no request out for so long."""
        for bucket in self._buckets():
            bucket.hold(seconds)

    def _buckets(self) -> Sequence[Bucket]:
        return [one for one in (self._requests, self._inputs, self._tokens) if one is not None]

    def __repr__(self) -> str:
        r = self.rates
        named = {"requests": r.requests_per_minute, "inputs": r.inputs_per_minute, "tokens": r.tokens_per_minute}
        shown = [f"{value:,.0f} {name}" for name, value in named.items() if value is not None]
        return f"Limits({', '.join(shown)} a minute)" if shown else "Limits(none)"


_shared_lock = threading.Lock()
_shared: dict[tuple[str, str, Rates], Limits] = {}


def shared_limits(provider: str, account: str, rates: Rates) -> Limits:
    """One object for each provider, account and rates: embedders made separately with one key share it."""
    with _shared_lock:
        return _shared.setdefault((provider, account, rates), Limits(rates))
