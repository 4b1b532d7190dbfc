"""OpenAI's embedding models, and those of servers that speak its API."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

from pydantic import SecretStr

from svr_retrievers.embedding.api import BATCH_TEXTS, ApiModel
from svr_retrievers.embedding.cache import EmbeddingCache
from svr_retrievers.embedding.model import Batching, Facts, Kind, Made, check_batch, decoded, wrong_answer
from svr_retrievers.embedding.service import EmbeddingService
from svr_retrievers.providers.arguments import check_model
from svr_retrievers.providers.calling import RetryPolicy
from svr_retrievers.providers.limits import Limits
from svr_retrievers.providers.openai import openai_account
from svr_retrievers.providers.timing import REAL, Timing
from svr_retrievers.providers.usage import Meter

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MOST_TEXTS = 2048
MOST_TOKENS = 300_000
KNOWN = {
    "text-embedding-3-small": Facts(1536, tuple(range(1, 1537)), 0.02),
    "text-embedding-3-large": Facts(3072, tuple(range(1, 3073)), 0.13),
    "text-embedding-ada-002": Facts(1536, (), 0.10),
}


class OpenAIEmbedder(EmbeddingService):
    """Embeds with a model of OpenAI, in batches, with limits, retries and a cache; vectors have length 1.

    `api_key` is OPENAI_API_KEY where it is not given, `base_url` OPENAI_BASE_URL. `dimensions` asks for shorter
    vectors, which the text-embedding-3 models can make. A request holds at most 256 texts (2,048 are the most) and
    300,000 estimated tokens. OpenAI never truncates: a text beyond the model's 8,192 tokens is refused. Documents
    and queries are embedded alike. `price_per_million_tokens` (USD) is the list price unless it is given.

    Raises:
        ConfigError: without a key; MissingExtra without the SDK; InputError for options the model does not have.
    """

    def __init__(
        self,
        model: str = "text-embedding-3-small",
        *,
        api_key: str | SecretStr | None = None,
        base_url: str | None = None,
        dimensions: int | None = None,
        cache: EmbeddingCache | bool = True,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        concurrency: int | None = None,
        limits: Limits | None = None,
        retry: RetryPolicy | None = None,
        price_per_million_tokens: float | None = None,
        timing: Timing = REAL,
    ) -> None:
        check_model("model", model)
        size = check_batch("OpenAI", batch_size, MOST_TEXTS)
        made = _OpenAIModel(model, dimensions, price_per_million_tokens)
        made.account = openai_account(
            api_key,
            base_url=base_url,
            purpose=model,
            limits=limits,
            retry=retry,
            meter=made.meter,
            timing=timing,
        )
        super().__init__(
            made, cache=cache, batch_size=size, batch_tokens=batch_tokens, concurrency=concurrency
        )
        self._made_by = partial(
            OpenAIEmbedder,
            model,
            base_url=base_url,
            dimensions=dimensions,
            cache=cache,
            batch_size=batch_size,
            batch_tokens=batch_tokens,
            concurrency=concurrency,
            limits=limits,
            retry=retry,
            price_per_million_tokens=price_per_million_tokens,
        )


class _OpenAIModel(ApiModel["AsyncOpenAI"]):
    def __init__(self, name: str, dimensions: int | None, price: float | None) -> None:
        known = KNOWN.get(name)
        each = price if price is not None else known.price if known is not None else None
        super().__init__(
            "openai",
            {"document": name, "query": name},
            known=KNOWN,
            batching=Batching(BATCH_TEXTS, MOST_TOKENS),
            meter=Meter(each),
            prices={"document": each, "query": each},
            dimensions=dimensions,
            normalized=known is not None,
        )

    async def request(self, client: AsyncOpenAI, texts: Sequence[str], kind: Kind) -> Made:
        from openai import omit

        answer = await client.embeddings.create(
            input=list(texts),
            model=self.names[kind],
            dimensions=omit if self.requested is None else self.requested,
            encoding_format="base64",
        )
        by_index = {row.index: cast("object", row.embedding) for row in answer.data}
        if len(answer.data) != len(texts) or sorted(by_index) != list(range(len(texts))):
            raise wrong_answer(f"{len(answer.data)} vectors for {len(texts)} texts")
        rows = [by_index[index] for index in range(len(texts))]
        tokens: object = getattr(
            getattr(answer, "usage", None), "total_tokens", None
        )  # not every server counts
        return Made(decoded(rows, self.dtype), tokens if isinstance(tokens, int) else None)
