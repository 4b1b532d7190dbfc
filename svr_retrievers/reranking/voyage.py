"""Voyage AI's rerankers, over its own SDK."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydantic import SecretStr

from svr_retrievers.errors import RerankFailed
from svr_retrievers.providers.arguments import check_model
from svr_retrievers.providers.calling import RetryPolicy
from svr_retrievers.providers.limits import Limits
from svr_retrievers.providers.timing import REAL, Timing
from svr_retrievers.providers.usage import Meter
from svr_retrievers.providers.voyage import VoyageClient, voyage_account
from svr_retrievers.reranking.hosted import HostedReranker, Ranked, Room

DOCUMENTS: Final = 1000
_TOKENS: Final = {"rerank-2-lite": 300_000, "rerank-1": 100_000, "rerank-lite-1": 300_000}
_CONTEXT: Final = {"rerank-2": 16_000, "rerank-2-lite": 8_000, "rerank-1": 8_000, "rerank-lite-1": 4_000}
_PRICES: Final = {
    "rerank-3": 0.05,
    "rerank-3-lite": 0.02,
    "rerank-2.5": 0.05,
    "rerank-2.5-lite": 0.02,
    "rerank-2": 0.05,
    "rerank-2-lite": 0.02,
}


class VoyageReranker(HostedReranker[VoyageClient]):
    """Scores from 0 to 1 by `rerank-2.5`, or `rerank-2.5-lite` and other models of Voyage AI.

    The key is `api_key` or VOYAGE_API_KEY. One request holds up to 1,000 documents and the model's tokens; longer
    lists are split. A document longer than the model's context is cut by Voyage (`truncate=False`: refused).
    The query may begin with an instruction, which rerank-2.5 follows. Without `limits`, all Voyage rerankers of
    the process with this key share those of the lowest paid tier. `price_per_million_tokens` (USD), which `usage`
    counts costs by, is the list price unless it is given.

    Raises:
        ConfigError: there is no key.
        MissingExtra: the SDK is not installed.
    """

    def __init__(
        self,
        model: str = "rerank-2.5",
        *,
        api_key: str | SecretStr | None = None,
        base_url: str | None = None,
        truncate: bool = True,
        max_documents: int = DOCUMENTS,
        max_tokens: int | None = None,
        limits: Limits | None = None,
        retry: RetryPolicy | None = None,
        price_per_million_tokens: float | None = None,
        timing: Timing = REAL,
    ) -> None:
        check_model("model", model)
        account = voyage_account(
            api_key,
            base_url=base_url,
            purpose=f"rerank {'lite' if 'lite' in model else 'full'}",
            limits=limits,
            requests_per_minute=2000,
            tokens_per_minute=4_000_000 if "lite" in model else 2_000_000,
            retry=retry,
            meter=Meter(_PRICES.get(model) if price_per_million_tokens is None else price_per_million_tokens),
            error=RerankFailed,
            timing=timing,
        )
        tokens = _TOKENS.get(model, 600_000) if max_tokens is None else max_tokens
        super().__init__(account, model, Room(max_documents, tokens, _CONTEXT.get(model, 32_000)))
        self._truncate = truncate

    async def _ask(self, client: VoyageClient, query: str, texts: Sequence[str]) -> Ranked:
        made = await client.rerank(query, texts, model=self.model, truncation=self._truncate)
        return Ranked([(each.index, each.relevance_score) for each in made.results], made.total_tokens)
