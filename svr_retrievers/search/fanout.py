"""Searching groups of partitions at once: one deadline, bounded concurrency, a chosen failure policy."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import anyio

from svr_retrievers.backends.protocol import Page, StaleMap
from svr_retrievers.errors import (
    DeadlineExceeded,
    InputError,
    NotFound,
    PartitionFailed,
    SVRError,
    UsageError,
)
from svr_retrievers.model import OnFailure

Shard = tuple[int, ...]


@dataclass(slots=True)
class Answers:
    """What came back: pages of the shards that answered, and why the others did not."""

    pages: list[Page] = field(default_factory=list)
    failed: dict[Shard, Exception] = field(default_factory=dict)
    late: list[Shard] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        return all(page.exact for page in self.pages)

    @property
    def waiting(self) -> int:
        return sum(page.waiting for page in self.pages)


async def fan_out(
    shards: Sequence[Shard],
    ask: Callable[[Shard], Awaitable[Page]],
    *,
    timeout_seconds: float,
    concurrency: int,
    on_failure: OnFailure,
    path_of: Callable[[int], str],
) -> Answers:
    """Asks every shard and waits for all, at most `concurrency` at a time.

    With `fail`, the first failure cancels the rest and raises PartitionFailed, which names the
    partitions, or DeadlineExceeded. With `partial`, what answered in time is returned with the rest
    listed; when nothing answered at all, it raises as `fail` does. A stale map, a wrong argument, a
    dropped collection or a closed client is raised under either policy: no answer could be right.
    """
    answers = Answers()
    limiter = anyio.Semaphore(concurrency)
    fatal: list[Exception] = []
    answered: set[Shard] = set()

    async def one(shard: Shard, scope: anyio.CancelScope) -> None:
        async with limiter:
            try:
                page = await ask(shard)
                answers.pages.append(page)
                answered.add(shard)
            except (StaleMap, InputError, NotFound, UsageError) as error:
                fatal.append(error)
                scope.cancel()
            except DeadlineExceeded:
                if on_failure == "fail":
                    scope.cancel()
            except Exception as error:  # noqa: BLE001 - the policy decides what a failure means
                answers.failed[shard] = error
                if on_failure == "fail":
                    scope.cancel()

    with contextlib.suppress(TimeoutError), anyio.fail_after(timeout_seconds):
        async with anyio.create_task_group() as group:
            for shard in shards:
                group.start_soon(one, shard, group.cancel_scope)
    if fatal:
        raise fatal[0]
    answers.late = [s for s in shards if s not in answered and s not in answers.failed]
    _settle(answers, shards, timeout_seconds, on_failure, path_of)
    return answers


def _settle(
    answers: Answers,
    shards: Sequence[Shard],
    timeout_seconds: float,
    on_failure: OnFailure,
    path_of: Callable[[int], str],
) -> None:
    """Raises what the policy says must be raised."""
    if len(answers.pages) == len(shards):
        return
    if answers.failed and (on_failure == "fail" or not answers.pages):
        raise failure(answers.failed, len(shards), path_of)
    if on_failure == "fail" or not answers.pages:
        raise late([p for shard in answers.late for p in shard], timeout_seconds, path_of)


def late(partitions: Sequence[int], seconds: float | None, path_of: Callable[[int], str]) -> DeadlineExceeded:
    """The error that says which partitions did not answer in time."""
    missing = [path_of(p) for p in partitions]
    named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    return DeadlineExceeded(
        f"The search of {named} did not end within {seconds or 0:g} s.",
        hint="Raise timeout_seconds, or take what there is with on_failure='partial'.",
    )


def failure(failed: dict[Shard, Exception], shards: int, path_of: Callable[[int], str]) -> SVRError:
    """The error that says which partitions failed and why; the cause itself where there was only one shard."""
    cause = next(iter(failed.values()))
    if shards == 1 and isinstance(cause, SVRError):
        return cause
    paths = [path_of(p) for group in failed for p in group]
    error = PartitionFailed(
        f"Searching {', '.join(paths[:3])}{' and more' if len(paths) > 3 else ''} failed: {cause}",
        partitions=paths,
        hint="Take what the other partitions hold with on_failure='partial'.",
    )
    error.__cause__ = cause
    return error
