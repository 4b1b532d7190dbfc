"""Accounts at Voyage AI."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, cast

from pydantic import SecretStr

from svr_retrievers.errors import EmbeddingFailed, ProviderFailed
from svr_retrievers.providers.arguments import check_address
from svr_retrievers.providers.calling import Account, RetryPolicy
from svr_retrievers.providers.keys import KeyFilter, find_key, fingerprint
from svr_retrievers.providers.limits import Limits, shared_limits
from svr_retrievers.providers.sdk import Sdk, need_sdk
from svr_retrievers.providers.timing import REAL, Timing
from svr_retrievers.providers.usage import Meter

VARIABLES = ("VOYAGE_API_KEY",)
_SDK_LOG = logging.getLogger("voyage")


class Embeddings(Protocol):
    embeddings: Sequence[Sequence[float]]
    total_tokens: int


class RankedDocument(Protocol):
    index: int
    relevance_score: float


class Ranking(Protocol):
    results: Sequence[RankedDocument]
    total_tokens: int


class VoyageClient:
    """The SDK's client with one pool of connections: by itself it opens a new connection for each request."""

    def __init__(self, key: SecretStr, base_url: str | None) -> None:
        import aiohttp
        import voyageai
        from voyageai.client_async import AsyncClient

        self._client = AsyncClient(
            api_key=key.get_secret_value(), base_url=base_url, max_retries=0, timeout=None
        )
        self._current = voyageai.aiosession
        self._session = aiohttp.ClientSession()
        self._filter = KeyFilter(key)
        _SDK_LOG.addFilter(self._filter)

    @contextmanager
    def _pooled(self) -> Iterator[None]:
        token = self._current.set(self._session)
        try:
            yield
        finally:
            self._current.reset(token)

    async def embed(
        self,
        texts: Sequence[str],
        *,
        model: str,
        input_type: str | None,
        truncation: bool,
        output_dtype: str | None = None,
        output_dimension: int | None = None,
    ) -> Embeddings:
        with self._pooled():
            made = await self._client.embed(
                list(texts),
                model=model,
                input_type=input_type,
                truncation=truncation,
                output_dtype=output_dtype,
                output_dimension=output_dimension,
            )
        return cast("Embeddings", made)

    async def rerank(self, query: str, texts: Sequence[str], *, model: str, truncation: bool) -> Ranking:
        with self._pooled():
            made = await self._client.rerank(query, list(texts), model=model, truncation=truncation)
        return cast("Ranking", made)

    async def aclose(self) -> None:
        _SDK_LOG.removeFilter(self._filter)
        await self._session.close()


def voyage_account(
    api_key: str | SecretStr | None = None,
    *,
    base_url: str | None = None,
    purpose: str,
    limits: Limits | None = None,
    requests_per_minute: float = 2000,
    tokens_per_minute: float = 3_000_000,
    retry: RetryPolicy | None = None,
    meter: Meter | None = None,
    error: type[ProviderFailed] = EmbeddingFailed,
    timing: Timing = REAL,
) -> Account[VoyageClient]:
    """Without `limits`, all accounts with the same key and purpose share those of the lowest paid tier.

    Raises:
        ConfigError: when there is no key; MissingExtra when the SDK is not installed.
    """
    check_address(base_url)
    need_sdk("voyageai", "voyage", "Voyage AI")
    key = find_key("Voyage AI", api_key, VARIABLES)

    def build() -> VoyageClient:
        return VoyageClient(key, base_url)

    def own() -> Limits:
        return Limits(
            requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute, timing=timing
        )

    shared = shared_limits("voyage", base_url or "", fingerprint(key), purpose, timing=timing, make=own)
    return Account(
        "Voyage AI",
        Sdk(build, VoyageClient.aclose),
        key=key,
        retry=retry,
        limits=limits if limits is not None else shared,
        meter=meter,
        error=error,
        key_hint="Check VOYAGE_API_KEY or api_key, and that the key may use this model.",
        timing=timing,
    )
