"""Accounts at Cohere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pydantic import SecretStr

from svr_retrievers.errors import EmbeddingFailed, ProviderFailed
from svr_retrievers.providers.arguments import check_address
from svr_retrievers.providers.calling import Account, RetryPolicy
from svr_retrievers.providers.keys import find_key, fingerprint
from svr_retrievers.providers.limits import Limits, shared_limits
from svr_retrievers.providers.sdk import Sdk, need_sdk
from svr_retrievers.providers.timing import REAL, Timing
from svr_retrievers.providers.usage import Meter

if TYPE_CHECKING:
    import httpx
    from cohere import AsyncClientV2
    from cohere.core.request_options import RequestOptions

VARIABLES = ("CO_API_KEY", "COHERE_API_KEY")
ONCE: RequestOptions = {"max_retries": 0}
"""To be passed with every request: the SDK repeats by itself otherwise."""


class CohereClient:
    """The SDK's client (`api`) over a pool of connections that can be closed."""

    def __init__(self, key: SecretStr, base_url: str | None) -> None:
        import httpx
        from cohere import AsyncClientV2

        self._http: httpx.AsyncClient = httpx.AsyncClient(timeout=None, follow_redirects=True)  # noqa: S113
        self.api: AsyncClientV2 = AsyncClientV2(
            api_key=key.get_secret_value(),
            base_url=base_url or os.environ.get("CO_API_URL"),
            httpx_client=self._http,
            log_warning_experimental_features=False,
        )

    async def aclose(self) -> None:
        await self._http.aclose()


def cohere_account(
    api_key: str | SecretStr | None = None,
    *,
    base_url: str | None = None,
    purpose: str,
    limits: Limits | None = None,
    requests_per_minute: float | None = None,
    inputs_per_minute: float | None = 2000,
    retry: RetryPolicy | None = None,
    meter: Meter | None = None,
    error: type[ProviderFailed] = EmbeddingFailed,
    timing: Timing = REAL,
) -> Account[CohereClient]:
    """Without `limits`, all accounts with the same key and purpose share those of production keys.

    Raises:
        ConfigError: when there is no key; MissingExtra when the SDK is not installed.
    """
    check_address(base_url)
    need_sdk("cohere", "cohere", "Cohere")
    key = find_key("Cohere", api_key, VARIABLES)

    def build() -> CohereClient:
        return CohereClient(key, base_url)

    def own() -> Limits:
        return Limits(
            requests_per_minute=requests_per_minute, inputs_per_minute=inputs_per_minute, timing=timing
        )

    shared = shared_limits("cohere", base_url or "", fingerprint(key), purpose, timing=timing, make=own)
    return Account(
        "Cohere",
        Sdk(build, CohereClient.aclose),
        key=key,
        retry=retry,
        limits=limits if limits is not None else shared,
        meter=meter,
        error=error,
        key_hint="Check CO_API_KEY or api_key, and that the key may use this model.",
        timing=timing,
    )
