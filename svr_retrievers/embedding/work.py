"""One call to the embedding service: what the cache has, what others are at, and the rest in batches."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from svr_retrievers.concurrency import beside, first_error
from svr_retrievers.embedding.cache import EmbeddingCache, frozen
from svr_retrievers.embedding.flights import Flight, Flights, Slots, landed
from svr_retrievers.embedding.model import EmbeddingModel, Kind
from svr_retrievers.errors import EmbeddingFailed, ProviderFailed
from svr_retrievers.model import Vector

_TOO_BIG = re.compile(
    r"\btokens?\b|too (large|long|many|big)|maximum|exceed|batch size|context length", re.IGNORECASE
)
_REFUSED = frozenset({400, 413, 422})
_NAMED = 5


class Service(Protocol):
    """What a call needs of the service."""

    model: EmbeddingModel
    cache: EmbeddingCache | None
    concurrency: int
    flights: Flights
    slots: Slots

    def keys(self, texts: Sequence[str], kind: Kind) -> list[bytes]: ...

    def batches(self, texts: Sequence[str]) -> Iterator[list[int]]: ...


class Work:
    """The texts of one call and how far they are."""

    def __init__(self, service: Service, texts: Sequence[str], kind: Kind) -> None:
        self._service = service
        self._kind: Kind = kind
        self._keys = service.keys(texts, kind)
        self._texts = dict(zip(self._keys, texts, strict=True))
        self._vectors: dict[bytes, Vector] = {}
        self._open: set[bytes] = set()
        self._failed: list[tuple[list[bytes], ProviderFailed]] = []
        self._asked = 0

    async def done(self) -> list[Vector]:
        """The vectors, in the order of the texts. Raises EmbeddingFailed."""
        while missing := [key for key in self._texts if key not in self._vectors]:
            await self._look_up(missing)
            mine, theirs = self._service.flights.board(key for key in missing if key not in self._vectors)
            await self._lead(mine)
            for key, flight in theirs.items():
                if not self._failed:
                    await self._follow(key, flight)
            if self._failed:
                raise self._failure()
        self._service.model.meter.texts(len(self._keys), from_cache=len(self._keys) - self._asked)
        return [self._vectors[key] for key in self._keys]

    async def _look_up(self, keys: Sequence[bytes]) -> None:
        cache = self._service.cache
        if cache is None:
            return
        found = cache.get_many(keys) if cache.disk is None else await beside(cache.get_many, keys)
        self._vectors |= found

    async def _follow(self, key: bytes, flight: Flight) -> None:
        try:
            vector = await landed(flight)
        except ProviderFailed as error:
            self._failed.append(([key], error))
            return
        if vector is not None:
            self._vectors[key] = vector

    async def _lead(self, mine: Sequence[bytes]) -> None:
        """Embeds what is this call's to embed; whatever happens, nobody is left waiting for it."""
        self._open = set(mine)
        try:
            self._land(self._service.cache.in_memory(mine) if self._service.cache is not None else {})
            keys = [key for key in mine if key in self._open]
            batches = self._service.batches([self._texts[key] for key in keys])
            with first_error():
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self._service.concurrency, len(keys))):
                        group.create_task(self._worker(keys, batches))
        finally:
            self._service.flights.give_up(self._open)

    async def _worker(self, keys: Sequence[bytes], batches: Iterator[list[int]]) -> None:
        for batch in batches:
            if self._failed:
                return
            await self._batch([keys[index] for index in batch])

    async def _batch(self, keys: list[bytes]) -> None:
        texts = [self._texts[key] for key in keys]
        try:
            async with self._service.slots.one():
                made = await self._service.model.embed(texts, self._kind)
        except ProviderFailed as error:
            if len(keys) > 1 and _is_too_big(error):
                await self._batch(keys[: len(keys) // 2])
                await self._batch(keys[len(keys) // 2 :])
                return
            self._fail(keys, error)
            return
        self._asked += len(keys)
        await self._keep({key: frozen(vector) for key, vector in zip(keys, made.vectors, strict=True)})

    async def _keep(self, vectors: Mapping[bytes, Vector]) -> None:
        cache = self._service.cache
        if cache is not None:
            if cache.disk is None:
                cache.put_many(vectors)
            else:
                await beside(cache.put_many, vectors)
        self._land(vectors)

    def _land(self, vectors: Mapping[bytes, Vector]) -> None:
        for key, vector in vectors.items():
            self._vectors[key] = vector
            self._open.discard(key)
            self._service.flights.land(key, vector)

    def _fail(self, keys: list[bytes], error: ProviderFailed) -> None:
        self._failed.append((keys, error))
        self._open.difference_update(keys)
        self._service.flights.fail(keys, error)

    def _failure(self) -> EmbeddingFailed:
        """The first failure, with the positions of all texts that failed."""
        keys = {key for some, _ in self._failed for key in some}
        positions = [index for index, key in enumerate(self._keys) if key in keys]
        return _placed(self._failed[0][1], positions, len(self._keys))


def _is_too_big(error: ProviderFailed) -> bool:
    return error.status in _REFUSED and (error.status == 413 or bool(_TOO_BIG.search(error.message)))


def _placed(error: ProviderFailed, positions: Sequence[int], total: int) -> EmbeddingFailed:
    """A new error for this caller: the same one may concern another caller's texts too."""
    shown = ", ".join(map(str, positions[:_NAMED])) + (", ..." if len(positions) > _NAMED else "")
    where = f" It concerns {len(positions):,} of {total:,} texts: number {shown}." if total > 1 else ""
    placed = EmbeddingFailed(
        error.message + where,
        hint=error.hint,
        reason=error.reason,
        provider=error.provider,
        status=error.status,
        attempts=error.attempts,
    )
    placed.texts = tuple(positions)
    placed.__cause__ = error.__cause__
    return placed
