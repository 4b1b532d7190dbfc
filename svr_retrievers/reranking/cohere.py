"""Cohere's rerankers, over its own SDK."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypedDict

from pydantic import SecretStr

from svr_retrievers.errors import RerankFailed
from svr_retrievers.providers.arguments import check_model
from svr_retrievers.providers.calling import RetryPolicy
from svr_retrievers.providers.cohere import ONCE, CohereClient, cohere_account
from svr_retrievers.providers.limits import Limits
from svr_retrievers.providers.timing import REAL, Timing
from svr_retrievers.providers.usage import Meter
from svr_retrievers.reranking.hosted import HostedReranker, Ranked, Room

DOCUMENTS: Final = 1000
"""Cohere takes up to 10,000, and advises against more than these."""


class _Cut(TypedDict, total=False):
    max_tokens_per_doc: int


class CohereReranker(HostedReranker[CohereClient]):
    """Scores from 0 to 1 by `rerank-v3.5`, or `rerank-v4.0-pro`, `rerank-v4.0-fast` and other models of Cohere.

    The key is `api_key`, CO_API_KEY or COHERE_API_KEY. One request holds up to 1,000 documents; longer lists are
    split. Of each document the first `max_tokens_per_doc` tokens are read (Cohere's default: 4,096). Without
    `limits`, all Cohere rerankers of the process with this key share those of a production key. Cohere bills
    by searches of up to 100 documents, which `search_units` counts, so `usage` knows no cost.

    Raises:
        ConfigError: there is no key.
        MissingExtra: the SDK is not installed.
    """

    def __init__(
        self,
        model: str = "rerank-v3.5",
        *,
        api_key: str | SecretStr | None = None,
        base_url: str | None = None,
        max_tokens_per_doc: int | None = None,
        max_documents: int = DOCUMENTS,
        limits: Limits | None = None,
        retry: RetryPolicy | None = None,
        timing: Timing = REAL,
    ) -> None:
        check_model("model", model)
        account = cohere_account(
            api_key,
            base_url=base_url,
            purpose="rerank",
            limits=limits,
            requests_per_minute=1000,
            inputs_per_minute=None,
            retry=retry,
            meter=Meter(),
            error=RerankFailed,
            timing=timing,
        )
        super().__init__(account, model, Room(max_documents))
        self._cut: _Cut = {} if max_tokens_per_doc is None else {"max_tokens_per_doc": max_tokens_per_doc}
        self.search_units = 0.0

    async def _ask(self, client: CohereClient, query: str, texts: Sequence[str]) -> Ranked:
        made = await client.api.rerank(
            model=self.model, query=query, documents=list(texts), request_options=ONCE, **self._cut
        )
        self.search_units += _units(made)
        return Ranked([(each.index, each.relevance_score) for each in made.results], None)


def _units(made: object) -> float:
    """What an answer is billed at, where it says so: a bill that cannot be read spoils no ranking."""
    billed = getattr(getattr(made, "meta", None), "billed_units", None)
    units = getattr(billed, "search_units", None)
    return float(units) if isinstance(units, int | float) else 0.0
