"""Rerankers behind an API: long lists go in several requests within the provider's limits, and come back as one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, Self, TypeVar

import anyio

from svr_retrievers.concurrency import first_error
from svr_retrievers.errors import InputError
from svr_retrievers.names import check_text
from svr_retrievers.providers.calling import Account
from svr_retrievers.providers.home import waited
from svr_retrievers.providers.usage import Usage

C = TypeVar("C")

AT_ONCE: Final = 4
"""Requests of one list in flight; more would use up an account's minute for one query."""
_BYTES_A_TOKEN: Final = 4


@dataclass(frozen=True, slots=True)
class Room:
    """What one request may hold. Tokens are those that providers count: the query's once for each document.

    Of query and document together `document_tokens` are read at most.
    """

    documents: int
    tokens: int | None = None
    document_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("documents", "tokens", "document_tokens"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(f"The {name} of a request must be a whole number from 1 on, not {value!r}.")

    def counted(self, query: str, text: str) -> int:
        """An estimate that real texts stay below: no tokenizer takes one token for less than two bytes of them."""
        tokens = len(query.encode()) // 2 + len(text.encode()) // 2 + 2
        return tokens if self.document_tokens is None else min(tokens, self.document_tokens)

    def split(self, query: str, texts: Sequence[str]) -> Iterator[range]:
        """Positions of the texts, in order, as many a request as it holds; one that fills it alone goes alone."""
        start, used = 0, 0
        for at, text in enumerate(texts):
            more = self.counted(query, text)
            full = at - start >= self.documents or (self.tokens is not None and used + more > self.tokens)
            if full and at > start:
                yield range(start, at)
                start, used = at, 0
            used += more
        if start < len(texts):
            yield range(start, len(texts))


@dataclass(frozen=True, slots=True)
class Ranked:
    """A provider's answer: positions in the request with their scores, in any order, and the tokens it billed."""

    scores: Sequence[tuple[object, object]]
    tokens: int | None


class HostedReranker(ABC, Generic[C]):
    """What the rerankers behind APIs share. Usable from every thread and event loop, all at once.

    Scores are for one query: higher is better, and those of different queries or models do not compare.
    """

    def __init__(self, account: Account[C], model: str, room: Room) -> None:
        self._account = account
        self.model = model
        self._room = room

    @property
    def name(self) -> str:
        return f"{self._account.provider} {self.model}"

    @property
    def usage(self) -> Usage:
        """What was asked since this object was made, and what it costs where a price is known."""
        return self._account.meter.usage

    async def arerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """One score per text, in the order given, from as many requests as the provider's limits ask for.

        Raises:
            RerankFailed: one of the requests failed, after all its repetitions; the others are given up.
        """
        _check(query, texts)
        parts = list(self._room.split(query, texts))
        made: list[list[float]] = [[] for _ in parts]
        if len(parts) == 1:
            return await self._part(query, texts)
        slots = anyio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with slots:
                made[number] = await self._part(query, [texts[at] for at in parts[number]])

        with first_error():
            async with anyio.create_task_group() as group:
                for number in range(len(parts)):
                    group.start_soon(one, number)
        return [score for part in made for score in part]

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """As `arerank`, blocking this thread."""
        return waited(self.arerank(query, texts))

    async def aclose(self) -> None:
        """Closes the connections; a later call opens new ones."""
        await self._account.aclose()

    def close(self) -> None:
        self._account.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, {self._account.limits!r})"

    async def _part(self, query: str, texts: Sequence[str]) -> list[float]:
        size = len(query.encode()) * len(texts) + sum(len(text.encode()) for text in texts)
        estimate = size // _BYTES_A_TOKEN + 1
        ask = partial(self._scores, query=query, texts=texts, estimate=estimate)
        made = await self._account.call(ask, inputs=len(texts), tokens=estimate)
        self._account.meter.texts(len(texts))
        return made

    async def _scores(self, client: C, query: str, texts: Sequence[str], estimate: int) -> list[float]:
        answer = await self._ask(client, query, texts)
        self._account.meter.tokens(answer.tokens, estimate)
        return _in_order(answer.scores, len(texts))

    @abstractmethod
    async def _ask(self, client: C, query: str, texts: Sequence[str]) -> Ranked:
        """One request with the SDK."""


def _check(query: str, texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise InputError("texts must be a list of texts, not one text.", hint="Wrap it: [text].")
    if not check_text(query, "query").strip():
        raise InputError("A reranker needs a query that is not empty.")
    for text in texts:
        check_text(text, "texts")


def _in_order(scores: Sequence[tuple[object, object]], count: int) -> list[float]:
    """Scores by position. Raises ValueError, which callers report as a senseless answer."""
    found: dict[int, float] = {}
    for at, score in scores:
        if type(at) is not int or not 0 <= at < count or at in found:
            raise ValueError(f"it scored document {at!r} of {count}")
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise ValueError(f"it gave document {at} the score {score!r}")
        found[at] = float(score)
    if len(found) < count:
        raise ValueError(f"it scored {len(found)} of {count} documents")
    return [found[at] for at in range(count)]
