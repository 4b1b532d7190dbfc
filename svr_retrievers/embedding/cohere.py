"""Cohere's embedding models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

from pydantic import SecretStr

from svr_retrievers.embedding.api import ApiModel
from svr_retrievers.embedding.cache import EmbeddingCache
from svr_retrievers.embedding.model import (
    Batching,
    DType,
    Facts,
    Kind,
    Made,
    check_batch,
    decoded,
    wrong_answer,
)
from svr_retrievers.embedding.service import EmbeddingService
from svr_retrievers.providers.arguments import check_model, check_truth
from svr_retrievers.providers.calling import RetryPolicy
from svr_retrievers.providers.cohere import ONCE, CohereClient, cohere_account
from svr_retrievers.providers.limits import Limits
from svr_retrievers.providers.timing import REAL, Timing
from svr_retrievers.providers.usage import Meter

MOST_TEXTS = 96
KNOWN = {
    "embed-v4.0": Facts(1536, (256, 512, 1024, 1536), 0.12),
    "embed-english-v3.0": Facts(1024, (), 0.10),
    "embed-multilingual-v3.0": Facts(1024, (), 0.10),
    "embed-english-light-v3.0": Facts(384, (), 0.10),
    "embed-multilingual-light-v3.0": Facts(384, (), 0.10),
}
_BATCH_TOKENS = 120_000
_TYPES = {"float32": "float", "int8": "int8", "binary": "ubinary"}


class CohereEmbedder(EmbeddingService):
    """Embeds with a model of Cohere, in batches, with limits, retries and a cache.

    Documents and queries are marked as such (`search_document`, `search_query`). `dtype` is what Cohere makes the
    vectors of: "int8" and "binary" arrive as whole numbers and as +1 and -1, in float32. `api_key` is CO_API_KEY
    or COHERE_API_KEY where it is not given. A request holds at most 96 texts, which is Cohere's own limit, and
    120,000 estimated tokens. A text beyond the model's context is refused, unless `truncate=True` has its end cut
    off. `price_per_million_tokens` (USD) is the list price unless it is given.

    Raises:
        ConfigError: without a key; MissingExtra without the SDK; InputError for options the model does not have.
    """

    def __init__(
        self,
        model: str = "embed-v4.0",
        *,
        api_key: str | SecretStr | None = None,
        base_url: str | None = None,
        dimensions: int | None = None,
        dtype: DType = "float32",
        truncate: bool = False,
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
        check_truth("truncate", truncate)
        size = check_batch("Cohere", batch_size, MOST_TEXTS)
        made = _CohereModel(model, dimensions, dtype, truncate, price_per_million_tokens)
        made.account = cohere_account(
            api_key,
            base_url=base_url,
            purpose="embed",
            limits=limits,
            retry=retry,
            meter=made.meter,
            timing=timing,
        )
        super().__init__(
            made, cache=cache, batch_size=size, batch_tokens=batch_tokens, concurrency=concurrency
        )
        self._made_by = partial(
            CohereEmbedder,
            model,
            dtype=dtype,
            truncate=truncate,
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


class _CohereModel(ApiModel[CohereClient]):
    def __init__(
        self, name: str, dimensions: int | None, dtype: DType, truncate: bool, price: float | None
    ) -> None:
        known = KNOWN.get(name)
        each = price if price is not None else known.price if known is not None else None
        super().__init__(
            "cohere",
            {"document": name, "query": name},
            known=KNOWN,
            batching=Batching(MOST_TEXTS, _BATCH_TOKENS),
            meter=Meter(each),
            prices={"document": each, "query": each},
            dimensions=dimensions,
            dtype=dtype,
            inputs="search_document|search_query",
        )
        self._truncate = truncate

    async def request(self, client: CohereClient, texts: Sequence[str], kind: Kind) -> Made:
        from cohere.v2.client import OMIT

        answer = await client.api.embed(
            model=self.names[kind],
            input_type="search_document" if kind == "document" else "search_query",
            texts=list(texts),
            embedding_types=[_TYPES[self.dtype]],
            output_dimension=OMIT if self.requested is None else self.requested,
            truncate="END" if self._truncate else "NONE",
            request_options=ONCE,
        )
        made = answer.embeddings
        rows = {"float32": made.float_, "int8": made.int8, "binary": made.ubinary}[self.dtype]
        if rows is None:
            raise wrong_answer(f"no vectors of the type {self.dtype}")
        billed = answer.meta.billed_units if answer.meta is not None else None
        counted = billed.input_tokens if billed is not None else None
        return Made(
            decoded(cast("Sequence[object]", rows), self.dtype), None if counted is None else int(counted)
        )
