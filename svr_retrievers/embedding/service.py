"""The embedding service: batches, cache, single flight and bounded concurrency around any model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from svr_retrievers.embedding.cache import EmbeddingCache, cache_key
from svr_retrievers.embedding.flights import Flights, Slots
from svr_retrievers.embedding.model import EmbeddingModel, Kind, check_texts, estimated_tokens
from svr_retrievers.embedding.work import Work
from svr_retrievers.embedding.wrapping import wrapped
from svr_retrievers.errors import InputError
from svr_retrievers.model import Vector
from svr_retrievers.providers.arguments import check_kind
from svr_retrievers.providers.home import waited
from svr_retrievers.providers.limits import Limits
from svr_retrievers.providers.usage import Usage
from svr_retrievers.spaces import VectorSpace

_PROBE = "dimensions"
"""Embedded once to learn the length of an unknown model's vectors."""


class EmbeddingService:
    """Embeds documents and queries: any number of texts, in order, each text once.

    `embedder` is one of the package's, or any LangChain `Embeddings`, LlamaIndex `BaseEmbedding` or object with
    `embed_documents` and `embed_query`; say with `space` what the vectors of a foreign one are. Blocking and
    awaitable, from every thread and event loop, all at once.

    Equal texts of one call, and texts that another caller is just having embedded, are embedded once. At most
    `concurrency` requests are under way (4, or 1 where a foreign embedder may not stand more), each of at most
    `batch_size` texts and `batch_tokens` estimated tokens. A batch that the provider refuses as too big is halved.
    When texts cannot be embedded, `EmbeddingFailed.texts` holds their positions, and no further request is begun;
    what was embedded stays in the cache, so a repeated call does not pay for it again. `cache=True` is a cache of
    its own in memory, False is none. `limits` count the calls of a foreign embedder; the package's have their own.
    """

    def __init__(
        self,
        embedder: object,
        *,
        space: VectorSpace | None = None,
        cache: EmbeddingCache | bool = True,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        concurrency: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        numbers = {"batch_size": batch_size, "batch_tokens": batch_tokens, "concurrency": concurrency}
        for name, value in numbers.items():
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(f"{name} must be a whole number from 1 on, not {value!r}.")
        self.model = _model_of(embedder, space, limits)
        self._made_by: Callable[[], EmbeddingService] = partial(
            EmbeddingService,
            embedder,
            space=space,
            cache=cache,
            batch_size=batch_size,
            batch_tokens=batch_tokens,
            concurrency=concurrency,
            limits=limits,
        )
        self.cache = _cache_of(cache)
        self.concurrency = concurrency or self.model.concurrency
        self.flights = Flights()
        self.slots = Slots(self.concurrency)
        self._asking = Slots(1)
        self._most_texts = batch_size or self.model.batching.texts
        self._most_tokens = batch_tokens or self.model.batching.tokens
        if (
            self.cache is not None
            and self.cache.disk is not None
            and self.model.space is None
            and not self.model.asked
        ):
            raise InputError(
                "A cache on disk needs to know the vectors' space.",
                hint='Pass space=VectorSpace("provider", "model", dimensions).',
            )

    # What it is

    @property
    def space(self) -> VectorSpace | None:
        """The vectors' space. A model that the package does not know is asked once: one small request, blocking."""
        if self.model.space is None and self.model.asked:
            return waited(self.aspace())
        return self.model.space

    async def aspace(self) -> VectorSpace | None:
        """As `space`, awaited."""
        if self.model.space is None and self.model.asked:
            await self._ask()
        return self.model.space

    async def _ask(self) -> None:
        async with self._asking.one():
            if self.model.space is None:
                made = await self.model.embed([_PROBE], "document")
                self.model.learn(made.vectors.shape[1])

    @property
    def dimensions(self) -> int:
        """The vectors' length; asked for, as `space`, where it is not known."""
        space = self.space
        return space.dimensions if space is not None else len(self.embed_query(_PROBE))

    @property
    def usage(self) -> Usage:
        """What has been asked, and what it cost by the list price."""
        return self.model.meter.usage

    # Embedding

    def embed_documents(self, texts: Iterable[str]) -> list[Vector]:
        """One float32 vector per text, in order; read-only, as the cache may hold them.

        Raises:
            EmbeddingFailed: with `reason`, `status`, `attempts`, and `texts`, the positions that it concerns.
        """
        given = check_texts(texts)
        return self._at_hand(given, "document") or waited(self._embed(given, "document"))

    def embed_query(self, text: str) -> Vector:
        """As `embed_documents`, for one question."""
        given = check_texts([text])
        return (self._at_hand(given, "query") or waited(self._embed(given, "query")))[0]

    async def aembed_documents(self, texts: Iterable[str]) -> list[Vector]:
        """As `embed_documents`, awaited."""
        return await self._embed(check_texts(texts), "document")

    async def aembed_query(self, text: str) -> Vector:
        """As `embed_query`, awaited."""
        return (await self._embed(check_texts([text]), "query"))[0]

    def _at_hand(self, texts: Sequence[str], kind: Kind) -> list[Vector] | None:
        """The vectors where memory holds them all: that needs no loop."""
        if self.cache is None or not texts or (self.model.space is None and self.model.asked):
            return None
        keys = self.keys(texts, kind)
        found = self.cache.in_memory(keys)
        if any(key not in found for key in keys):
            return None
        self.model.meter.texts(len(texts), from_cache=len(texts))
        return [found[key] for key in keys]

    async def _embed(self, texts: Sequence[str], kind: Kind) -> list[Vector]:
        if not texts:
            return []
        await self.aspace()
        return await Work(self, texts, kind).done()

    def keys(self, texts: Sequence[str], kind: Kind) -> list[bytes]:
        space = self.model.space
        of, inputs = (space.id if space is not None else self.model.token), self.model.inputs(kind)
        return [cache_key(of, inputs, text) for text in texts]

    def batches(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Positions that go into one request together."""
        batch: list[int] = []
        tokens = 0
        for index, text in enumerate(texts):
            more = estimated_tokens(text)
            over = self._most_tokens is not None and tokens + more > self._most_tokens
            if batch and (over or len(batch) >= self._most_texts):
                yield batch
                batch, tokens = [], 0
            batch.append(index)
            tokens += more
        if batch:
            yield batch

    # Its end

    async def aclose(self) -> None:
        """Closes connections and the cache's file. A later call opens what it needs."""
        await self.model.aclose()
        if self.cache is not None:
            self.cache.close()

    def close(self) -> None:
        """As `aclose`, blocking."""
        waited(self.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __reduce__(self) -> tuple[Callable[[], EmbeddingService], tuple[()]]:
        """A pickle holds the options, and no key: where it arrives the key comes from the environment."""
        return self._made_by, ()

    def __repr__(self) -> str:
        model = getattr(self, "model", None)
        if model is None:  # asked for by a traceback, while it is made
            return f"{type(self).__name__}(unfinished)"
        of = str(model.space) if model.space is not None else model.label
        return f"{type(self).__name__}({of}; {self.usage})"


def _cache_of(cache: EmbeddingCache | bool) -> EmbeddingCache | None:
    if isinstance(cache, bool):
        return EmbeddingCache() if cache else None
    if not isinstance(cache, EmbeddingCache):
        raise InputError(
            f"cache must be an EmbeddingCache, True or False, not {type(cache).__name__}.",
            hint="True keeps 64 MB in memory; EmbeddingCache(path=...) keeps a file too.",
        )
    return cache


def _model_of(embedder: object, space: VectorSpace | None, limits: Limits | None) -> EmbeddingModel:
    """The package's own models declare their space and have their limits already."""
    if isinstance(embedder, type):
        raise InputError(
            f"embedder is the class {embedder.__name__} itself, which is no embedder.",
            hint=f"Pass {embedder.__name__}(...).",
        )
    check_kind("space", space, VectorSpace)
    check_kind("limits", limits, Limits)
    own = embedder.model if isinstance(embedder, EmbeddingService) else embedder
    if not isinstance(own, EmbeddingModel):
        return wrapped(embedder, space, limits)
    if space is not None or limits is not None:
        raise InputError(
            "space and limits are for foreign embedders; this one has its own.",
            hint="Give limits to the embedder itself, e.g. OpenAIEmbedder(..., limits=...).",
        )
    return own
