"""Calls a provider's SDK: in turn by the limits, repeated where that helps, with one kind of error at the end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, cast

from pydantic import SecretStr

from svr_retrievers.errors import InputError, MissingExtra, ProviderFailed, ProviderReason, SVRError
from svr_retrievers.providers.arguments import check_kind, check_number
from svr_retrievers.providers.failures import Failure, read_failure
from svr_retrievers.providers.home import waited
from svr_retrievers.providers.keys import scrubbed
from svr_retrievers.providers.limits import Limits
from svr_retrievers.providers.sdk import Sdk
from svr_retrievers.providers.timing import REAL, Timing
from svr_retrievers.providers.usage import Meter

try:
    from tenacity import AsyncRetrying, RetryCallState, retry_if_result
except ImportError as missing:
    raise MissingExtra(
        "Calling a provider needs the package `tenacity`, which is not installed.",
        hint='Run: pip install "svr-retrievers[providers]"',
    ) from missing

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
        if not isinstance(self.attempts, int) or isinstance(self.attempts, bool) or self.attempts < 1:
            raise InputError(f"attempts must be a whole number from 1 on; it is {self.attempts!r}.")
        for name in ("base_seconds", "max_wait_seconds", "retry_after_cap_seconds"):
            check_number(name, getattr(self, name), zero=True)
        for name in ("timeout_seconds", "deadline_seconds"):
            check_number(name, getattr(self, name))

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
        check_kind("retry", retry, RetryPolicy)
        check_kind("limits", limits, Limits)
        self.provider = provider
        self.retry = retry or RetryPolicy()
        self.limits = limits or Limits()
        self.meter = meter or Meter()
        self.sdk = sdk
        self.timing = timing
        self._key = key
        self._error = error
        self._key_hint = key_hint

    async def call(self, attempt: Callable[[C], Awaitable[T]], *, inputs: int = 1, tokens: int = 0) -> T:
        """What `attempt(client)` returns: one HTTP request, made again where the policy says so.

        `inputs` and `tokens` (an estimate) are what the limits count for each request.

        Raises:
            ProviderFailed: or the account's own subclass of it, with `reason`, `status` and `attempts`.
        """
        call = _Call(self, attempt, inputs, tokens)
        outcome = await call.made()
        if not isinstance(outcome, Failure):
            return outcome
        self.meter.failure()
        raise self._failed(outcome, call.attempts)

    def blocking(self, attempt: Callable[[C], Awaitable[T]], *, inputs: int = 1, tokens: int = 0) -> T:
        """As `call`, from a thread: the request runs on the common loop, this thread waits for it."""
        return waited(self.call(attempt, inputs=inputs, tokens=tokens))

    async def aclose(self) -> None:
        """Closes the connections; a later call opens new ones."""
        await self.sdk.aclose()

    def close(self) -> None:
        """As `aclose`, blocking."""
        waited(self.sdk.aclose())

    def read(self, error: Exception) -> Failure:
        """What an SDK's exception tells, without the key: a traceback may show it among the locals of a frame."""
        failure = read_failure(error, wall=self.timing.wall())
        return replace(failure, message=scrubbed(failure.message, self._key))

    def _failed(self, failure: Failure, attempts: int) -> ProviderFailed:
        """The error to raise. It carries no cause: the SDKs' exceptions hold requests, and those the key."""
        status = f" (HTTP {failure.status})" if failure.status is not None else ""
        after = f" after {attempts} attempts" if attempts > 1 else ""
        hints = {**_HINTS, "key": self._key_hint}
        return self._error(
            f"{self.provider} {_WHAT[failure.reason]}{status}{after}: {failure.message.rstrip('.')}.",
            hint=hints[failure.reason],
            reason=failure.reason,
            provider=self.provider,
            status=failure.status,
            attempts=attempts,
        )

    def __repr__(self) -> str:
        return f"Account({self.provider!r}, {self.limits!r}, {self.meter.usage})"


_WHAT: Mapping[ProviderReason, str] = {
    "key": "refused the API key",
    "limited": "took no more requests",
    "unavailable": "could not be reached or is out of order",
    "timeout": "did not answer in time",
    "answer": "answered with something that makes no sense",
    "request": "refused the request",
    "failed": "could not be asked",
}
_HINTS: Mapping[ProviderReason, str] = {
    "limited": "Set limits=... to what your account may use, or RetryPolicy(attempts=..., deadline_seconds=...).",
    "unavailable": "Try again later; check base_url and the network if it stays so.",
    "timeout": "Try again later, with smaller batches, or with a larger RetryPolicy(timeout_seconds=...).",
    "answer": "Check that base_url leads to this provider's API.",
    "request": "Check the model's name, its options and the texts.",
    "failed": "This is the SDK's own error; check its version and the options.",
}


class _Call(Generic[C, T]):
    """One call with its repetitions, driven by tenacity."""

    def __init__(
        self, account: Account[C], attempt: Callable[[C], Awaitable[T]], inputs: int, tokens: int
    ) -> None:
        self.attempts = 0
        self._account = account
        self._attempt = attempt
        self._inputs = inputs
        self._tokens = tokens
        self._deadline = 0.0
        self._last: Failure | None = None

    async def made(self) -> T | Failure:
        timing = self._account.timing
        retrying = AsyncRetrying(
            retry=retry_if_result(_may_succeed_again),
            stop=self._over,
            wait=self._pause,
            sleep=timing.sleep,
            before_sleep=self._tell,
            retry_error_callback=_last,
        )
        outcome: T | Failure = await retrying(self._once)
        return outcome

    async def _once(self) -> T | Failure:
        account, clock = self._account, self._account.timing.clock
        waited_seconds = await account.limits.take(inputs=self._inputs, tokens=self._tokens)
        if self._last is None:
            self._deadline = clock() + account.retry.deadline_seconds
        elif clock() > self._deadline:
            return replace(self._last, again=False)
        account.meter.request(repeated=self.attempts > 0, waited_seconds=waited_seconds)
        self.attempts += 1
        try:
            return await account.sdk.use(self._attempt, account.retry.timeout_seconds)
        except ProviderFailed as error:
            error.provider, error.attempts = account.provider, self.attempts
            account.meter.failure()
            raise
        except SVRError:
            raise
        except Exception as error:  # noqa: BLE001  # each SDK has its own tree, and lets others through
            self._last = account.read(error)
            return self._last

    def _over(self, state: RetryCallState) -> bool:
        ends = self._account.timing.clock() + state.upcoming_sleep
        return self.attempts >= self._account.retry.attempts or ends > self._deadline

    def _pause(self, state: RetryCallState) -> float:
        failure = _failure(state)
        policy, draw = self._account.retry, self._account.timing.draw
        seconds = policy.wait_seconds(self.attempts, failure.retry_after, draw())
        if failure.retry_after is not None:
            self._account.limits.hold(seconds)
        return seconds

    def _tell(self, state: RetryCallState) -> None:
        failure = _failure(state)
        log.info(
            "%s: %s%s; attempt %d of %d follows in %.2f s",
            self._account.provider,
            failure.reason,
            f" (HTTP {failure.status})" if failure.status is not None else "",
            self.attempts + 1,
            self._account.retry.attempts,
            state.upcoming_sleep,
        )


def _may_succeed_again(outcome: object) -> bool:
    return isinstance(outcome, Failure) and outcome.again


def _failure(state: RetryCallState) -> Failure:
    outcome = _last(state)
    assert isinstance(outcome, Failure)
    return outcome


def _last(state: RetryCallState) -> object:
    assert state.outcome is not None
    return cast("object", state.outcome.result())
