"""What was asked of a provider, counted, and what it costs by the list price."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from svr_retrievers.providers.arguments import check_number
from svr_retrievers.providers.forking import begins_anew


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Counts since an object was made. `requests` are HTTP requests, of which `retries` repeated another.

    `tokens` are those that the provider reported (`estimated_tokens` where it reports none). `cost_usd` is None
    where no price is known. `from_cache` are the texts that needed no request.
    """

    requests: int = 0
    retries: int = 0
    failures: int = 0
    texts: int = 0
    from_cache: int = 0
    tokens: int = 0
    estimated_tokens: int = 0
    waited_seconds: float = 0.0
    cost_usd: float | None = None

    def __str__(self) -> str:
        cost = f", {self.cost_usd:.6f} USD" if self.cost_usd is not None else ""
        return (
            f"{self.texts:,} texts ({self.from_cache:,} from the cache), {self.requests:,} requests "
            f"({self.retries:,} repeated), {self.tokens + self.estimated_tokens:,} tokens{cost}"
        )


class Meter:
    """Adds up, from any thread."""

    def __init__(self, price_per_million_tokens: float | None = None) -> None:
        if price_per_million_tokens is not None:
            check_number("price_per_million_tokens", price_per_million_tokens, zero=True)
        self.price = price_per_million_tokens
        self.begin_anew()
        begins_anew(self)
        self._usage = Usage(cost_usd=0.0 if price_per_million_tokens is not None else None)

    def begin_anew(self) -> None:
        self._lock = threading.Lock()

    @property
    def usage(self) -> Usage:
        return self._usage

    def request(self, *, repeated: bool = False, waited_seconds: float = 0.0) -> None:
        with self._lock:
            u = self._usage
            self._usage = replace(
                u,
                requests=u.requests + 1,
                retries=u.retries + repeated,
                waited_seconds=u.waited_seconds + waited_seconds,
            )

    def failure(self) -> None:
        with self._lock:
            self._usage = replace(self._usage, failures=self._usage.failures + 1)

    def texts(self, count: int, *, from_cache: int = 0) -> None:
        with self._lock:
            u = self._usage
            self._usage = replace(u, texts=u.texts + count, from_cache=u.from_cache + from_cache)

    def tokens(self, reported: int | None, estimated: int = 0, *, price: float | None = None) -> None:
        """What an answer cost; `price` (USD for a million tokens) where it is not the meter's own."""
        counted = estimated if reported is None else reported
        each = self.price if price is None else price
        with self._lock:
            u = self._usage
            self._usage = replace(
                u,
                tokens=u.tokens + (reported or 0),
                estimated_tokens=u.estimated_tokens + (estimated if reported is None else 0),
                cost_usd=None
                if each is None or u.cost_usd is None
                else u.cost_usd + counted * each / 1_000_000,
            )
