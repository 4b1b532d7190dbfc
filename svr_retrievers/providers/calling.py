"""Calls a provider's SDK: in turn by the limits, repeated where that helps, with one kind of error at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import SecretStr

from svr_retrievers.errors import InputError, MissingExtra, ProviderFailed, SVRError
from svr_retrievers.providers.failures import Failure, read_failure
from svr_retrievers.providers.home import waited
from svr_retrievers.providers.keys import scrubbed
from svr_retrievers.providers.limits import Limits
from svr_retrievers.providers.sdk import Sdk
from svr_retrievers.providers.timing import REAL, Timing
from svr_retrievers.providers.usage import Meter

C = TypeVar("C")
T = TypeVar("T")
log = logging.getLogger("svr_retrievers.providers")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how long. `attempts` counts all calls, the first included; the SDK's own retries are off.

    Repeated are time-outs, lost connections and the statuses 408, 409, 425, 429 and 5xx (501 and 505 are not).
    Before a repetition the provider's Retry-After is waited for, at most `retry_after_cap_seconds`; without one a
    random time up to `base_seconds`, doubled for each failure, at most `max_wait_seconds`. No repetition starts
    later than `deadline_seconds` after the first call; `timeout_seconds` limits a single call.
    """

    attempts: int = 5
    base_seconds: float = 0.5
    max_wait_seconds: float = 20.0
    retry_after_cap_seconds: float = 60.0
    timeout_seconds: float = 60.0
    deadline_seconds: float = 180.0

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or self.attempts < 1:
            raise InputError(f"attempts must be a whole number from 1 on; it is {self.attempts!r}.")
        for name in ("base_seconds", "max_wait_seconds", "retry_after_cap_seconds"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must not be negative; it is {getattr(self, name)!r}.")
        for name in ("timeout_seconds", "deadline_seconds"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive; it is {getattr(self, name)!r}.")

    def wait_seconds(self, failed: int, retry_after: float | None, draw: float) -> float:
        """How long to wait after the `failed`-th failure; `draw` is a random number from [0, 1)."""
        if retry_after is not None:
            return min(retry_after, self.retry_after_cap_seconds)
        return draw * min(self.max_wait_seconds, self.base_seconds * 2.0 ** min(failed - 1, 60))


class Account(Generic[C]):
    """An account at a provider: the SDK's client, its key, and how calls to it are made.

    Usable from every thread and event loop, all at once. `error` is what failures are raised as.
    """

    def __init__(
        self,
        provider: str,
        sdk: Sdk[C],
        *,
        key: SecretStr | None = None,
        retry: RetryPolicy | None = None,
        limits: Limits | None = None,
        meter: Meter | None = None,
        error: type[ProviderFailed] = ProviderFailed,
        key_hint: str = "Check the API key.",
        timing: Timing = REAL,
    ) -> None:
        self.provider = provider
        self.retry = retry or RetryPolicy()
        self.limits = limits or Limits()
        self.meter = meter or Meter()
        self._sdk = sdk
        self._key = key
        self._error = error
        self._key_hint = key_hint
        self._timing = timing

    async def call(
        self, attempt: Callable[[C], Awaitable[T]], *, inputs: int = 1, tokens: int = 0
    ) -> T:
        """What `attempt(client)` returns: one HTTP request, made again where the policy says so.

        `inputs` and `tokens` (an estimate) are what the limits count for each request.

        Raises:
            ProviderFailed: or the account's own subclass of it, with `reason`, `status` and `attempts`.
        """
        failed = 0
        deadline: float | None = None
        while True:
            waited_seconds = await self.limits.take(inputs=inputs, tokens=tokens)
            self.meter.request(repeated=failed > 0, waited_seconds=waited_seconds)
            if deadline is None:
                deadline = self._timing.clock() + self.retry.deadline_seconds
            try:
                return await self._sdk.use(attempt, self.retry.timeout_seconds)
            except (SVRError, asyncio.CancelledError):
                raise
            except Exception as error:  # noqa: BLE001  # every SDK has its own tree, and lets others' through
                failure = read_failure(error, wall=self._timing.wall())
            failed += 1
            wait = self._wait(failure, failed, deadline)
            if wait is None:
                self.meter.failure()
                raise self._failed(failure, failed)
            await self._timing.sleep(wait)

    def blocking(self, attempt: Callable[[C], Awaitable[T]], *, inputs: int = 1, tokens: int = 0) -> T:
        """As `call`, from a thread: the request runs on the common loop, this thread waits for it."""
        return waited(self.call(attempt, inputs=inputs, tokens=tokens))

    async def aclose(self) -> None:
        """Closes the connections; a later call opens new ones."""
        await self._sdk.aclose()

    def close(self) -> None:
        """As `aclose`, blocking."""
        waited(self._sdk.aclose())
