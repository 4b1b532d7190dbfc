"""The asynchronous client: opens a backend, makes and finds collections, closes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from svr_retrievers import adoption
from svr_retrievers.backends.indexes import IndexSpec, check_fits
from svr_retrievers.backends.memory import MemoryBackend
from svr_retrievers.backends.protocol import Backend, CollectionConfig, CollectionRef, ServerRegistry
from svr_retrievers.backends.sources import Source
from svr_retrievers.collection import AsyncCollection
from svr_retrievers.control.ledger import Ledger
from svr_retrievers.embedding import AsyncEmbedder, AtlasEmbedding, Embedder, check_embedder, embed_query
from svr_retrievers.embedding.declared import check_embedding, declared_by, embedder_of
from svr_retrievers.errors import (
    ClientClosed,
    CollectionExists,
    CollectionMismatch,
    CollectionNotFound,
    ConfigError,
    InputError,
    MissingExtra,
    UsageError,
)
from svr_retrievers.filters import FieldType, split_path
from svr_retrievers.model import DEFAULT_NAMESPACE, Metric, Server
from svr_retrievers.names import check_key, check_name, check_text
from svr_retrievers.routing.probe import DEFAULT_RECALL_TARGET
from svr_retrievers.routing.schemes import Scheme
from svr_retrievers.search.request import check_fraction
from svr_retrievers.search.view import View
from svr_retrievers.settings import Settings, redact
from svr_retrievers.spaces import asked_length, asked_space, check_length, check_same

IfExists = Literal["error", "open"]
OnProblem = Literal["report", "fail"]
MAX_FILTER_FIELDS = 200


class AsyncSVRClient:
    """A connection to one store of collections. Use it from the event loop that opened it.

    `url` is `postgresql://...`, `mongodb+srv://...` for Atlas, or `memory://` for an exact store in this process;
    without one the embedded PostgreSQL is used, with its data in `path` (a folder per user by default). With
    `control="mongodb+srv://..."` the control plane of vectors in PostgreSQL is kept in MongoDB. Opening is lazy;
    `open()` or `async with` does it at once.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        path: str | Path | None = None,
        control: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        if settings is not None and not isinstance(settings, Settings):
            raise InputError(
                f"settings must be Settings, not {type(settings).__name__}.", hint="Settings.load(...)"
            )
        if path is not None and (not isinstance(path, str | Path) or "\x00" in str(path)):
            raise InputError("path must be the path of a folder, as text or Path.")
        self.settings = settings if settings is not None else Settings.load()
        given = self.settings.url.get_secret_value() if self.settings.url is not None else None
        self._url = _checked_url(url if url is not None else (None if path is not None else given))
        if self._url is not None and path is not None:
            raise InputError(
                "url and path exclude each other.", hint="path is the embedded server's data folder."
            )
        self._path = Path(path) if path is not None else self.settings.path
        self._control = _checked_control(control, self.settings, self.backend)
        self._backend: Backend | None = None
        self._closed = False

    @property
    def url(self) -> str:
        """Where the data lives, without the password."""
        return redact(self._url) if self._url is not None else f"embedded:{self._path or 'default'}"

    @property
    def backend(self) -> str:
        if self._url is None:
            return "postgres"
        if is_mongodb(self._url):
            return "mongodb"
        return "memory" if self._url.startswith("memory:") else "postgres"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __getstate__(self) -> object:
        raise UsageError("A client cannot be pickled or copied.", hint="Make a new one in the other process.")

    async def open(self) -> Self:
        """Connects and brings the schema up to date. Raises ConnectionFailed and its kin."""
        await self._opened()
        return self

    async def close(self) -> None:
        """Returns all connections. A closed client stays closed."""
        self._closed = True
        if self._backend is not None:
            backend, self._backend = self._backend, None
            await backend.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _opened(self) -> Backend:
        if self._closed:
            raise ClientClosed("This client is closed.", hint="Make a new one.")
        if self._backend is None:
            backend = make_backend(self._url, self._path, self.settings, self._control)
            await backend.open()
            self._backend = backend
        return self._backend

    async def create_collection(
        self,
        name: str,
        *,
        dimensions: int | None = None,
        metric: Metric | str = Metric.COSINE,
        partition_by: Scheme | None = None,
        filter_fields: Mapping[str, object] | None = None,
        index: IndexSpec | None = None,
        embedder: Embedder | AsyncEmbedder | AtlasEmbedding | None = None,
        servers: Sequence[str] = (),
        recall_target: float = DEFAULT_RECALL_TARGET,
        text_search: str | None = None,
        if_exists: IfExists = "error",
    ) -> AsyncCollection:
        """Makes a collection, or opens it with `if_exists="open"`.

        `dimensions` may be left out when an embedder is given: what it declares (`space`, `dimensions`) is taken,
        and one that declares nothing embeds a word. With `AtlasEmbedding` the server itself
        embeds texts and queries, and documents carry no vectors. `filter_fields` maps metadata fields
        to int, float, str, bool, datetime, list[str], list[int] or list[float]: they become typed, indexed columns.
        Filters on other fields work as well, more slowly. `servers` names those, made known by `add_server`, that
        its partitions are placed on, each on the one with the fewest rows; texts and metadata stay here.
        `recall_target` is the share of the true neighbours that searches aim at which ask for no other.
        `text_search` names how `keywords` and `hybrid` take texts apart: a text search configuration of PostgreSQL such
        as "english", which drops stop words and stems the others, or "simple", which keeps every word as it is and
        suits all languages. Its index is then kept from the beginning; otherwise the first such search makes a
        simple one.

        Raises:
            CollectionExists: it is there and `if_exists` is "error".
            CollectionMismatch: it is there with another metric, scheme, index, text search, or other dimensions,
                fields, servers.
            SpaceMismatch: it is there with vectors of another space than the embedder's.
            DimensionMismatch: the embedder declares vectors of another length than `dimensions`.
            ServerNotFound: one of `servers` is not known.
        """
        if if_exists not in ("error", "open"):
            raise InputError(f"if_exists must be 'error' or 'open', not {if_exists!r}.")
        declared = declared_by(embedder)
        backend = await self._opened()
        size = dimensions if dimensions is not None else await _asked(embedder)
        config = make_config(
            name, size, metric, partition_by, filter_fields, index, backend, servers, recall_target, declared
        )
        config = replace(
            config, space=await asked_space(embedder), text_search=_text_search(text_search, backend)
        )
        check_length(config.name, config.dimensions, embedder, await asked_length(embedder))
        there = False
        try:
            ref = await backend.create_collection(config)
        except CollectionExists:
            if if_exists == "error":
                raise
            there = True
        if there:
            ref = await backend.load_collection(config.name)
            _compare(ref.config, config, partition_by, filter_fields, index)
        return await self._collection(backend, ref, embedder)

    async def adopt_collection(
        self,
        name: str,
        source: str,
        *,
        dimensions: int | None = None,
        metric: Metric | str = Metric.COSINE,
        partition_by: Scheme | None = None,
        filter_fields: Mapping[str, object] | None = None,
        text_field: str = "text",
        vector_field: str = "embedding",
        metadata_field: str | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        index: IndexSpec | None = None,
        search_index: str | None = None,
        embedder: Embedder | AsyncEmbedder | None = None,
        recall_target: float = DEFAULT_RECALL_TARGET,
        on_problem: OnProblem = "report",
        progress: Callable[[int, int], None] | None = None,
    ) -> AsyncCollection:
        """A collection over the documents of a MongoDB collection that others made, which stay where they are.

        Nothing is copied, and texts, vectors and metadata are not touched: each document gets one field more, `svr`.
        Whoever wrote them goes on using them. Adopting once more takes in what others have added since, and goes on
        where an interrupted adoption ended. `collection.adopted` tells how many were taken in, and which documents
        could not be (`on_problem="fail"`: BatchError at the first ones). `drop_collection` gives the documents back
        as they were.

        `dimensions` is read from the first vector. `metadata_field` None means that all other top-level fields are
        the metadata. The `_id` of a document is its id, as text. All of it is in `namespace`. `search_index` names a
        vector search index of theirs to be extended, where the deployment holds too few for one more. `progress` is
        told how many documents were read, out of how many.

        Raises:
            ConfigError: the backend cannot, or not this collection: a view, a sharded one, one adopted already.
            CollectionNotFound: there is no such source.
            CollectionExists, CollectionMismatch: the name is taken by something else, or by other settings.
        """
        if on_problem not in ("report", "fail"):
            raise InputError(f"on_problem must be 'report' or 'fail', not {on_problem!r}.")
        check_embedder(embedder)
        backend = await self._opened()
        adopting = adoption.adopting(backend)
        given = Source(
            check_name(source, "source"),
            text_field,
            vector_field,
            metadata_field,
            check_key(namespace, "namespace"),
        )
        asked = dimensions if dimensions is not None else await adoption.known_size(backend, name)
        found = await adopting.vectors_of(given, asked)
        size, spec = adoption.size_of(given, asked, found), adoption.spec_of(index, found)
        config = replace(
            make_config(
                name, size, metric, partition_by, filter_fields, spec, backend, recall_target=recall_target
            ),
            source=replace(given, lists=found is None or found.lists),
        )
        given.check_fields(config.fields)
        check_length(config.name, config.dimensions, embedder, await asked_length(embedder))
        ref = await adopting.adopt_collection(config, search_index)
        _compare(ref.config, config, partition_by, filter_fields)
        collection = await self._collection(backend, ref, embedder)
        await collection._take_in_all(  # noqa: SLF001 - part of making it
            adopting, fail=on_problem == "fail", progress=progress
        )
        return collection

    async def collection(
        self, name: str, *, embedder: Embedder | AsyncEmbedder | AtlasEmbedding | None = None
    ) -> AsyncCollection:
        """An existing collection. Raises CollectionNotFound, naming those that exist.

        One whose texts the server embeds needs no embedder, and takes no other. Raises SpaceMismatch for an
        embedder whose vectors cannot be compared with those that are there, DimensionMismatch for one that declares
        another length.
        """
        declared_by(embedder)
        backend = await self._opened()
        checked = check_name(name, "name")
        try:
            ref = await backend.load_collection(checked)
        except CollectionNotFound as error:
            there = await backend.list_collections()
            known = ", ".join(repr(n) for n in there[:5]) or "none yet"
            raise CollectionNotFound(
                error.message, hint=f"Create it with create_collection(). There are: {known}."
            ) from None
        return await self._collection(backend, ref, embedder)

    async def _collection(
        self,
        backend: Backend,
        ref: CollectionRef,
        embedder: Embedder | AsyncEmbedder | AtlasEmbedding | None,
    ) -> AsyncCollection:
        found = embedder_of(ref.config, embedder)
        check_same(ref.config.name, ref.config.space, await asked_space(found))
        check_length(ref.config.name, ref.config.dimensions, found, await asked_length(found))
        view = View(await backend.load_map(ref), ref.config.metric)
        return AsyncCollection(backend, ref, view, self.settings, found)

    async def list_collections(self) -> list[str]:
        """The names of all collections, in order."""
        return await (await self._opened()).list_collections()

    async def drop_collection(self, name: str, *, missing_ok: bool = False) -> None:
        """Deletes a collection with all its documents. Raises CollectionNotFound unless `missing_ok`."""
        backend = await self._opened()
        try:
            await backend.drop_collection(check_name(name, "name"))
        except CollectionNotFound:
            if not missing_ok:
                raise

    async def add_server(self, name: str, url: str) -> Server:
        """Makes a further PostgreSQL server known, for collections to be placed on.

        This client connects to it once, to prepare it; from then on only the main server does, by postgres_fdw.
        The login is kept in the main server's user mapping for this role, and nowhere else.

        Raises:
            ConfigError: the name is taken, or the URL cannot be used.
            ConnectionFailed: this client or the main server cannot reach it.
            ExtensionMissing: postgres_fdw or pgvector is missing and may not be created.
        """
        registry = registry_of(await self._opened())
        checked = _checked_url(url)
        if checked is None or not checked.startswith("postgres"):
            raise ConfigError("A server is PostgreSQL.", hint="postgresql://user:password@host:5432/database")
        return await registry.add_server(check_name(name, "name"), checked)

    async def servers(self) -> list[Server]:
        """The servers made known by `add_server`, with what lies on each, in order of registration."""
        return await registry_of(await self._opened()).list_servers()

    async def remove_server(self, name: str, *, lost: bool = False) -> None:
        """Forgets a server that no collection uses. `lost` gives up what lies on a server that is gone.

        Raises:
            ServerNotFound: there is none of this name.
            ConfigError: collections are placed on it, and it is not `lost`.
        """
        await registry_of(await self._opened()).remove_server(check_name(name, "name"), lost=lost)


def is_mongodb(url: str) -> bool:
    return url.startswith(("mongodb://", "mongodb+srv://"))


def make_backend(
    url: str | None, path: Path | None, settings: Settings, control: str | None = None
) -> Backend:
    """The backend for a URL; drivers are imported only now. Raises MissingExtra."""
    if url is not None and url.startswith("memory:"):
        return MemoryBackend()
    if url is not None and is_mongodb(url):
        try:
            from svr_retrievers.backends.mongodb import MongoBackend
        except ImportError as error:
            raise _no_mongodb(error) from None
        return MongoBackend(url, settings)
    try:
        from svr_retrievers.backends.postgres import ControlledBackend, PostgresBackend
    except ImportError as error:
        raise MissingExtra(
            f"The PostgreSQL driver is not installed ({error.name}).",
            hint='Install it: pip install "svr-retrievers[postgres]", or [embedded] for a server of its own.',
        ) from None
    if control is None:
        return PostgresBackend(url, path, settings)
    return ControlledBackend(url, path, settings, _ledger(control, settings))


def _ledger(url: str, settings: Settings) -> Ledger:
    try:
        from svr_retrievers.backends.mongodb import connection
        from svr_retrievers.control.mongodb_ledger import MongoLedger
    except ImportError as error:
        raise _no_mongodb(error) from None
    database = connection.database_of(connection.make_client(url, settings), url)
    return MongoLedger(database, connection.translated, settings.db_schema)


def _no_mongodb(error: ImportError) -> MissingExtra:
    return MissingExtra(
        f"The MongoDB driver is not installed ({error.name}).",
        hint='Install it: pip install "svr-retrievers[mongodb]"',
    )


def _checked_control(given: object, settings: Settings, backend: str) -> str | None:
    """The URL of a control plane elsewhere. Raises ConfigError where it can have no part."""
    url = given
    if given is None and settings.control is not None:
        url = settings.control.get_secret_value()
    if url is None:
        return None
    if not isinstance(url, str):
        raise InputError(f"control must be text, not {type(url).__name__}.", hint="mongodb+srv://...")
    if not is_mongodb(url):
        raise ConfigError("The control plane elsewhere is MongoDB.", hint="control='mongodb+srv://...'")
    if backend != "postgres":
        raise ConfigError(
            f"The {backend} backend keeps its control plane itself.",
            hint="control= (SVR_CONTROL) is for vectors in PostgreSQL: leave it out.",
        )
    return url


def make_config(
    name: str,
    dimensions: object,
    metric: Metric | str,
    scheme: Scheme | None,
    filter_fields: Mapping[str, object] | None,
    index: IndexSpec | None,
    backend: Backend,
    servers: Sequence[str] = (),
    recall_target: float = DEFAULT_RECALL_TARGET,
    embedding: AtlasEmbedding | None = None,
) -> CollectionConfig:
    """The checked configuration of a new collection. Raises InputError naming the argument, ConfigError."""
    checked = check_name(name, "name")
    if not isinstance(dimensions, int) or isinstance(dimensions, bool):
        raise InputError(f"dimensions must be a whole number, not {type(dimensions).__name__}.")
    if not 1 <= dimensions <= backend.capabilities.max_dimensions:
        raise InputError(
            f"dimensions must lie between 1 and {backend.capabilities.max_dimensions:,}, not {dimensions}.",
            hint="It is the length of your embedding model's vectors.",
        )
    if scheme is not None and not isinstance(scheme, Scheme):
        raise InputError(
            f"partition_by must be a scheme, not {type(scheme).__name__}.", hint='e.g. by_field("category")'
        )
    if index is not None and not isinstance(index, IndexSpec):
        raise InputError(f"index must be hnsw(), ivfflat() or flat(), not {type(index).__name__}.")
    check_fits(index or IndexSpec(), Metric(metric))
    _check_offered(index or IndexSpec(), backend)
    if embedding is not None:
        check_embedding(embedding, dimensions, Metric(metric), scheme, index or IndexSpec(), backend)
    return CollectionConfig(
        name=checked,
        dimensions=dimensions,
        metric=Metric(metric),
        scheme=scheme,
        fields=_fields(filter_fields, scheme),
        index=index or IndexSpec(),
        servers=_servers(servers, backend),
        recall_target=check_fraction("recall_target", recall_target),
        embedding=embedding,
    )


def _check_offered(spec: IndexSpec, backend: Backend) -> None:
    """Raises InputError for what only other backends can do."""
    can = backend.capabilities
    for what, asked, offered in (
        ("index", spec.kind, can.index_kinds),
        ("quantization", spec.quantization, can.quantizations),
        ("vectors", spec.vectors, can.stored_vectors),
        ("mode", spec.mode, can.index_modes),
    ):
        if asked not in offered:
            raise InputError(
                f"{what}={asked!r} is not to be had on the {backend.name} backend.",
                hint=f"It offers {', '.join(map(repr, offered))}.",
            )


def _text_search(given: object, backend: Backend) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str) or not given:
        raise InputError(
            f"text_search must be the name of a text search configuration, not {given!r:.60}.",
            hint='e.g. "simple" or "english"',
        )
    if given != "simple" and not backend.capabilities.languages:
        raise InputError(
            f"The {backend.name} backend takes texts apart plainly, and knows no text_search={given[:60]!r}.",
            hint='Leave it out, or use "simple". PostgreSQL has languages.',
        )
    return check_text(given, "text_search")


def _servers(given: Sequence[str], backend: Backend) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InputError(
            f"servers must be a list of names, not {type(given).__name__}.", hint='e.g. ["east", "west"]'
        )
    names = tuple(dict.fromkeys(check_name(name, "servers") for name in given))
    if names:
        registry_of(backend)
    return names


def registry_of(backend: Backend) -> ServerRegistry:
    """Raises ConfigError where partitions cannot be placed on further servers."""
    if not isinstance(backend, ServerRegistry):
        raise ConfigError(
            f"The {backend.name} backend keeps everything in one place and knows no further servers.",
            hint="Several servers need PostgreSQL: SVRClient('postgresql://...').",
        )
    return backend


def _fields(given: Mapping[str, object] | None, scheme: Scheme | None) -> dict[str, FieldType]:
    """The declared fields; a field partitioned by time is declared as a datetime."""
    if given is not None and not isinstance(given, Mapping):
        raise InputError(
            f"filter_fields must map field names to types, not {type(given).__name__}.",
            hint='e.g. {"year": int}',
        )
    fields: dict[str, FieldType] = {}
    for name, kind in (given or {}).items():
        if not isinstance(name, str) or not name:
            raise InputError("filter_fields must have field names as keys.", hint='e.g. {"year": int}')
        split_path(name)
        fields[name] = FieldType.of(kind, name)
    for name in scheme.time_fields if scheme is not None else ():
        if fields.setdefault(name, FieldType.DATETIME) is not FieldType.DATETIME:
            raise InputError(
                f"by_time({name!r}) needs a datetime field, but filter_fields declares it {fields[name].value}.",
                hint=f'Declare {{"{name}": datetime.datetime}}, or leave it out.',
            )
    if len(fields) > MAX_FILTER_FIELDS:
        raise InputError(
            f"filter_fields declares {len(fields)} fields; at most {MAX_FILTER_FIELDS} are allowed."
        )
    return fields


async def _asked(embedder: Embedder | AsyncEmbedder | AtlasEmbedding | None) -> int:
    if isinstance(embedder, AtlasEmbedding):
        return embedder.dimensions
    if embedder is None:
        raise InputError(
            "dimensions is missing.",
            hint="Give the length of your vectors, or an embedder that can be asked.",
        )
    declared = await asked_length(embedder)
    return declared if declared is not None else len(await embed_query(embedder, "dimensions"))


def _compare(
    there: CollectionConfig,
    asked: CollectionConfig,
    scheme: Scheme | None,
    filter_fields: Mapping[str, object] | None,
    index: IndexSpec | None = None,
) -> None:
    pairs: list[tuple[str, object, object]] = [
        ("dimensions", there.dimensions, asked.dimensions),
        ("metric", there.metric.value, asked.metric.value),
    ]
    if scheme is not None:
        pairs.append(("partition_by", there.scheme, asked.scheme))
    if index is not None:
        pairs.append(("index", there.index, asked.index))
    if asked.servers:
        pairs.append(("servers", list(there.servers), list(asked.servers)))
    if asked.text_search is not None:
        pairs.append(("text_search", there.text_search or "simple", asked.text_search))
    if asked.source is not None:
        lists = there.source.lists if there.source is not None else False
        pairs.append(("source", there.source, replace(asked.source, lists=lists)))
    if filter_fields is not None:
        pairs.append(("filter_fields", _shown(there.fields), _shown(asked.fields)))
    for what, has, wants in pairs:
        if has != wants:
            raise CollectionMismatch(
                f"The collection {there.name!r} has {what} {has}, not {wants}.",
                hint=f"Open it as it is, use another name, or drop it first: drop_collection({there.name!r}).",
            )


def _shown(fields: Mapping[str, FieldType]) -> str:
    return "{" + ", ".join(f"{name}: {kind.value}" for name, kind in sorted(fields.items())) + "}"


def _checked_url(url: object) -> str | None:
    if url is None:
        return None
    if not isinstance(url, str):
        raise InputError(
            f"url must be text, not {type(url).__name__}.", hint="postgresql://user@host/database"
        )
    if not url.startswith(("postgresql://", "postgres://", "memory:")) and not is_mongodb(url):
        scheme = url.partition("://")[0] if "://" in url else "(none)"
        raise ConfigError(
            f"No backend serves URLs of the scheme {scheme[:20]!r}.",
            hint="Use postgresql://user@host/database, mongodb+srv://user@cluster/database, memory://, or no URL "
            "for the embedded server.",
        )
    return url
