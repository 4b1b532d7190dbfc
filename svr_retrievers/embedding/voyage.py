"""Voyage AI's embedding models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pydantic import SecretStr

from svr_retrievers.embedding.api import BATCH_TEXTS, ApiModel
from svr_retrievers.embedding.cache import EmbeddingCache
from svr_retrievers.embedding.model import Batching, DType, Facts, Kind, Made, check_batch, decoded
from svr_retrievers.embedding.service import EmbeddingService
from svr_retrievers.errors import InputError
from svr_retrievers.providers.arguments import check_model, check_truth
from svr_retrievers.providers.calling import RetryPolicy
from svr_retrievers.providers.limits import Limits
from svr_retrievers.providers.timing import REAL, Timing
from svr_retrievers.providers.usage import Meter
from svr_retrievers.providers.voyage import VoyageClient, voyage_account

MOST_TEXTS = 1000
_SIZES = (256, 512, 1024, 2048)
_SERIES_4 = "voyage-4"
KNOWN = {
    "voyage-4-large": Facts(1024, _SIZES, 0.12, 120_000, _SERIES_4),
    "voyage-4": Facts(1024, _SIZES, 0.06, 320_000, _SERIES_4),
    "voyage-4-lite": Facts(1024, _SIZES, 0.02, 1_000_000, _SERIES_4),
    "voyage-4-nano": Facts(1024, _SIZES, None, 120_000, _SERIES_4),
    "voyage-3-large": Facts(1024, _SIZES, 0.18, 120_000),
    "voyage-3.5": Facts(1024, _SIZES, 0.06, 320_000),
    "voyage-3.5-lite": Facts(1024, _SIZES, 0.02, 1_000_000),
    "voyage-code-3": Facts(1024, _SIZES, 0.18, 120_000),
    "voyage-finance-2": Facts(1024, (), 0.12, 120_000),
    "voyage-law-2": Facts(1024, (), 0.12, 120_000),
    "voyage-code-2": Facts(1536, (), 0.12, 120_000),
}
_LEAST_BATCH_TOKENS = 120_000
_NAMES_ON_THE_WIRE = {"float32": "float", "int8": "int8", "binary": "ubinary"}


class VoyageEmbedder(EmbeddingService):
    """Embeds with a model of Voyage AI, in batches, with limits, retries and a cache; vectors have length 1.

    Documents and queries are marked as such (`input_type`). The models of the voyage-4 series share a space, so
    `query_model` may be a cheaper one: `VoyageEmbedder("voyage-4-large", query_model="voyage-4-lite")`. `dtype`
    is what Voyage AI makes the vectors of: "int8" and "binary" arrive as whole numbers and as +1 and -1, in
    float32. `api_key` is VOYAGE_API_KEY where it is not given. A request holds at most 256 texts (1,000 are the
    most) and as many estimated tokens as the model takes. A text beyond the model's context is refused, unless
    `truncate=True` has its end cut off. `price_per_million_tokens` (USD) is the list price unless it is given.

    Raises:
        ConfigError: without a key; MissingExtra without the SDK; InputError for options the model does not have,
            and for a pair of models that share no space.
    """

    def __init__(
        self,
        model: str = "voyage-4",
        *,
        query_model: str | None = None,
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
        size = check_batch("Voyage AI", batch_size, MOST_TEXTS)
        asking = query_model if query_model is not None else model
        check_model("query_model", asking)
        check_truth("truncate", truncate)
        check_pair(model, asking)
        made = _VoyageModel(model, asking, dimensions, dtype, truncate, price_per_million_tokens)
        made.account = voyage_account(
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
            VoyageEmbedder,
            model,
            query_model=query_model,
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


def check_pair(model: str, query_model: str) -> None:
    """Raises InputError for two models whose vectors cannot be compared."""
    families = [KNOWN[name].family if name in KNOWN else "" for name in (model, query_model)]
    if model != query_model and (not families[0] or families[0] != families[1]):
        raise InputError(
            f"{model} and {query_model} share no vector space: their vectors cannot be compared.",
            hint="Embed queries with the model of the documents; only the voyage-4 series may be mixed.",
        )


class _VoyageModel(ApiModel[VoyageClient]):
    def __init__(
        self,
        name: str,
        asking: str,
        dimensions: int | None,
        dtype: DType,
        truncate: bool,
        price: float | None,
    ) -> None:
        names: dict[Kind, str] = {"document": name, "query": asking}
        prices = {kind: price if price is not None else _price(one) for kind, one in names.items()}
        known = KNOWN.get(name)
        tokens = known.batch_tokens if known is not None else None
        super().__init__(
            "voyage",
            names,
            known=KNOWN,
            batching=Batching(BATCH_TEXTS, tokens or _LEAST_BATCH_TOKENS),
            meter=Meter(prices["document"]),
            prices=prices,
            dimensions=dimensions,
            dtype=dtype,
            inputs="document|query",
            normalized=True,
        )
        self._truncate = truncate

    async def request(self, client: VoyageClient, texts: Sequence[str], kind: Kind) -> Made:
        answer = await client.embed(
            texts,
            model=self.names[kind],
            input_type=kind,
            truncation=self._truncate,
            output_dtype=_NAMES_ON_THE_WIRE[self.dtype],
            output_dimension=self.requested,
        )
        return Made(decoded(answer.embeddings, self.dtype), answer.total_tokens)


def _price(name: str) -> float | None:
    return KNOWN[name].price if name in KNOWN else None
