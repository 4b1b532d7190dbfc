"""What the models behind an API have in common: a name, a space, a price, and an account that calls them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import Generic, TypeVar

from svr_retrievers.embedding.model import Batching, DType, Facts, Kind, Made, check_dimensions, checked
from svr_retrievers.embedding.model import estimated_tokens as estimated
from svr_retrievers.errors import InputError
from svr_retrievers.providers.calling import Account
from svr_retrievers.providers.usage import Meter
from svr_retrievers.spaces import VectorSpace

C = TypeVar("C")

CONCURRENCY = 4
"""Requests under way at once: more hardly helps below the providers' limits, and makes their refusals likelier."""
BATCH_TEXTS = 256
"""Texts a request, where the provider allows more: answers stay below a few MB and arrive within seconds."""


class ApiModel(ABC, Generic[C]):
    """A subclass makes the request; the rest is here. `names` are the models for documents and for queries."""

    concurrency = CONCURRENCY

    def __init__(
        self,
        provider: str,
        names: Mapping[Kind, str],
        *,
        known: Mapping[str, Facts],
        batching: Batching,
        meter: Meter,
        prices: Mapping[Kind, float | None],
        dimensions: int | None = None,
        dtype: DType = "float32",
        inputs: str = "",
        normalized: bool = False,
    ) -> None:
        facts = known.get(names["document"])
        for name in names.values():
            check_dimensions(name, known.get(name), dimensions)
        if not isinstance(dtype, str) or dtype not in {"float32", "int8", "binary"}:
            raise InputError(f"dtype must be float32, int8 or binary, not {dtype!r}.")
        self.label = f"{provider}/{names['document']}"
        self.token = token_hex()
        self.names = names
        self.batching = batching
        self.meter = meter
        self.dtype: DType = dtype
        self.requested = dimensions
        self._prices = prices
        self._provider = provider
        self._family = facts.family if facts is not None and facts.family else names["document"]
        self._inputs = inputs
        self._normalized = normalized and dtype == "float32"
        self._space: VectorSpace | None = None
        length = dimensions or (facts.dimensions if facts is not None else None)
        if length is not None:
            self.learn(length)

    account: Account[C]

    @property
    def space(self) -> VectorSpace | None:
        return self._space

    @property
    def asked(self) -> bool:
        return True

    def learn(self, dimensions: int) -> None:
        if self._space is None:
            self._space = VectorSpace(
                self._provider,
                self._family,
                dimensions,
                normalized=self._normalized,
                inputs=self._inputs,
                dtype=self.dtype,
            )

    def inputs(self, kind: Kind) -> str:
        return f"{kind}:{self.names[kind]}" if self._inputs or self.names[kind] != self._family else ""

    async def embed(self, texts: Sequence[str], kind: Kind) -> Made:
        guess, space = sum(map(estimated, texts)), self._space

        async def attempt(client: C) -> Made:
            made = await self.request(client, texts, kind)
            return Made(checked(made.vectors, len(texts), space.dimensions if space else None), made.tokens)

        made = await self.account.call(attempt, inputs=len(texts), tokens=guess)
        self.meter.tokens(made.tokens, guess, price=self._prices[kind])
        return made

    @abstractmethod
    async def request(self, client: C, texts: Sequence[str], kind: Kind) -> Made:
        """One HTTP request. Raises what the SDK raises."""

    async def aclose(self) -> None:
        await self.account.aclose()
