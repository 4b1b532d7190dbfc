"""Accounts at OpenAI, or at a server that speaks its API."""

from __future__ import annotations

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
    from openai import AsyncOpenAI

VARIABLES = ("OPENAI_API_KEY",)


def openai_account(
    api_key: str | SecretStr | None = None,
    *,
    base_url: str | None = None,
    purpose: str,
    limits: Limits | None = None,
    requests_per_minute: float = 3000,
    tokens_per_minute: float = 1_000_000,
    retry: RetryPolicy | None = None,
    meter: Meter | None = None,
    error: type[ProviderFailed] = EmbeddingFailed,
    timing: Timing = REAL,
) -> Account[AsyncOpenAI]:
    """Without `limits`, all accounts with the same key and purpose share those of the lowest paid tier.

    Raises:
        ConfigError: when there is no key; MissingExtra when the SDK is not installed.
    """
    check_address(base_url)
    need_sdk("openai", "openai", "OpenAI")
    key = find_key("OpenAI", api_key, VARIABLES)

    def build() -> AsyncOpenAI:
        from openai import AsyncOpenAI

        return AsyncOpenAI(api_key=key.get_secret_value(), base_url=base_url, max_retries=0, timeout=None)

    def own() -> Limits:
        return Limits(
            requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute, timing=timing
        )

    shared = shared_limits("openai", base_url or "", fingerprint(key), purpose, timing=timing, make=own)
    return Account(
        "OpenAI",
        Sdk(build, _close),
        key=key,
        retry=retry,
        limits=limits if limits is not None else shared,
        meter=meter,
        error=error,
        key_hint="Check OPENAI_API_KEY or api_key, and that the key may use this model.",
        timing=timing,
    )


async def _close(client: AsyncOpenAI) -> None:
    await client.close()
