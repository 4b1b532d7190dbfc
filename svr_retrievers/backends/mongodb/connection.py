"""Opening a MongoDB deployment, what it must be able to do, and the driver's errors in our words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.driver_info import DriverInfo
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    ExecutionTimeout,
    InvalidOperation,
    InvalidURI,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.errors import InvalidName as BadDatabaseName
from pymongo.uri_parser import split_options

from svr_retrievers.errors import (
    AuthenticationFailed,
    BackendError,
    ClientClosed,
    ConfigError,
    ConnectionFailed,
    DeadlineExceeded,
    EmbeddingLimited,
    IndexLimitReached,
    InputError,
    PermissionDenied,
    SearchUnavailable,
    ServerTooOld,
    SVRError,
    WriteConflict,
)
from svr_retrievers.settings import Settings, redact

Doc: TypeAlias = dict[str, object]
Client: TypeAlias = AsyncMongoClient[Doc]
Database: TypeAlias = AsyncDatabase[Doc]

DEFAULT_DATABASE: Final = "svr"
OLDEST: Final = (6, 0, 11)
VIEWS_SINCE: Final = (8, 1)
"""The first version in which an index over a view is made by a driver and asked through the view."""
FUSION_SINCE: Final = (8, 0)

_AUTHENTICATION: Final = {18, 8000}
_UNAUTHORIZED: Final = {13}
_NO_SEARCH: Final = {59, 115, 31082, 6047401}
_NOT_A_SET: Final = {20, 263}
_TIME_IS_UP: Final = {50}
_CONFLICT: Final = {112, 117, 251}
_TOO_LARGE: Final = {10334, 17280, 257, 290, 297}
_RECONNECT: Final = {6, 7, 89, 91, 133, 189, 262, 9001, 10107, 11600, 11602, 13388, 13435, 13436}
_RATE_WORDS: Final = re.compile(r"rate.?limit|too many requests", re.IGNORECASE)
_LIMIT_WORDS: Final = re.compile(r"maximum number of .*ind(ex|ice)|index limit", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Deployment:
    """What was found when it was opened."""

    version: tuple[int, ...]
    sharded: bool = False

    @property
    def has_views(self) -> bool:
        return self.version >= VIEWS_SINCE


def make_client(url: str, settings: Settings) -> Client:
    """The driver's client; it connects when first used. Raises ConfigError for a URL that cannot be used."""
    try:
        return AsyncMongoClient(
            _with_defaults(url, settings), driver=DriverInfo("svr-retrievers"), tz_aware=True
        )
    except (InvalidURI, ConfigurationError, BadDatabaseName, ValueError, TypeError) as error:
        raise _unusable(url, error) from None


def _with_defaults(url: str, settings: Settings) -> str:
    """The URL with the settings for what it does not set itself.

    Its options are checked here, because the driver passes over those that it cannot read, `tls=yes` among them.
    """
    head, _, options = url.partition("?")
    given = split_options(options, validate=True, warn=False) if options else {}
    there = {name.lower() for name in given}
    ours = [f"{name}={value}" for name, value in _defaults(settings).items() if name.lower() not in there]
    rest = head.partition("://")[2]
    return f"{head}{'' if '/' in rest else '/'}?{'&'.join([*([options] if options else []), *ours])}"


def _defaults(settings: Settings) -> dict[str, str | int]:
    milliseconds = int(settings.connect_timeout_seconds * 1000)
    return {
        "appName": "svr-retrievers",
        "maxPoolSize": settings.pool_max_connections,
        "minPoolSize": min(settings.pool_min_connections, settings.pool_max_connections),
        "connectTimeoutMS": milliseconds,
        "serverSelectionTimeoutMS": milliseconds,
    }


def database_of(client: Client, url: str) -> Database:
    try:
        return client.get_default_database(DEFAULT_DATABASE)
    except (ConfigurationError, BadDatabaseName) as error:
        raise _unusable(url, error) from None


async def examined(database: Database, url: str) -> Deployment:
    """What the deployment is. Raises ConfigError, ServerTooOld, ConnectionFailed and its kin."""
    with translated():
        try:
            hello = await database.client.admin.command("hello")
            build = await database.client.admin.command("buildInfo")
        except ConfigurationError as error:
            raise _unresolved(url, error) from None
    version = tuple(int(part) for part in build["versionArray"][:3])
    sharded = hello.get("msg") == "isdbgrid"
    if not sharded and "setName" not in hello:
        raise ConfigError(
            "This MongoDB server is no replica set, so it has no transactions.",
            hint="Start it with --replSet and run rs.initiate(); Atlas clusters are replica sets.",
        )
    if version < OLDEST:
        raise ServerTooOld(
            f"The server is MongoDB {'.'.join(map(str, version))}; vector search came with 6.0.11.",
            hint="Upgrade the cluster, best to 8.1 or newer.",
        )
    return Deployment(version, sharded)


def _unusable(url: str, error: Exception) -> ConfigError:
    told = str(error).replace(url, redact(url))
    return ConfigError(
        f"The MongoDB URL cannot be used: {told}.".replace("..", "."),
        hint="mongodb+srv://user:password@cluster.example.mongodb.net/database; quote special characters.",
    )


def _unresolved(url: str, error: Exception) -> ConnectionFailed:
    return ConnectionFailed(
        f"The cluster's address cannot be found: {str(error).replace(url, redact(url))}",
        hint="Check the host name in the URL, and that this machine resolves DNS SRV records.",
    )


@contextmanager
def translated(collection: str = "") -> Iterator[None]:
    """The driver's errors as ours. Errors never hold the URL or a document."""
    try:
        yield
    except SVRError:
        raise
    except BulkWriteError as error:  # it holds the documents
        raise told(error, collection) from None
    except PyMongoError as error:
        raise told(error, collection) from error


def told(error: PyMongoError, collection: str = "") -> SVRError:
    made = _told(error, collection)
    if error.has_error_label("UnknownTransactionCommitResult"):
        made.hint = "Whether the write was done is unknown: look for it, or add it again, which replaces."
    return made


def _told(error: PyMongoError, collection: str) -> SVRError:
    where = f" on the collection {collection!r}" if collection else ""
    if isinstance(error, NetworkTimeout) and isinstance(error.__cause__, PyMongoError):
        return told(error.__cause__, collection)  # a transaction that was repeated until the driver gave up
    if isinstance(error, (ExecutionTimeout, NetworkTimeout)) and error.timeout:
        return DeadlineExceeded(f"MongoDB did not answer in time{where}.", hint="Raise timeout_seconds.")
    if isinstance(error, BulkWriteError):
        return _of_bulk(error, where)
    if isinstance(error, OperationFailure):
        return _of_code(error, where)
    if isinstance(error, (ServerSelectionTimeoutError, AutoReconnect, ConnectionFailure)):
        return _unreachable(error)
    if isinstance(error, DocumentTooLarge):
        return InputError("A document is larger than the 16 MB that MongoDB takes.", hint="Split its text.")
    if isinstance(error, InvalidOperation) and "close" in str(error).lower():
        return ClientClosed("This client is closed.", hint="Make a new one.")
    if isinstance(error, ConfigurationError):
        return ConnectionFailed(f"The cluster's address cannot be found: {error}")
    return BackendError(f"MongoDB failed{where}: {error}")


def _unreachable(error: PyMongoError) -> ConnectionFailed:
    text = str(error)
    if "authentication" in text.lower():
        return AuthenticationFailed("MongoDB refused the login.", hint="Check user, password and authSource.")
    short = text.split(", Timeout:", maxsplit=1)[0][:300]
    if "SSL" in text or "TLS" in text or "certificate" in text.lower():
        return ConnectionFailed(
            f"The encrypted connection to MongoDB failed: {short}",
            hint="Check tls and tlsCAFile in the URL; Atlas also resets TLS from addresses that it does not allow.",
        )
    return ConnectionFailed(
        f"MongoDB cannot be reached: {short}",
        hint="Check host, port, the cluster's IP access list, and that a primary is elected.",
    )


def _of_code(error: OperationFailure, where: str) -> SVRError:
    code, text = error.code or 0, str((error.details or {}).get("errmsg") or error)
    if code in _AUTHENTICATION:
        return AuthenticationFailed("MongoDB refused the login.", hint="Check user, password and authSource.")
    if code in _UNAUTHORIZED:
        return PermissionDenied(
            f"This MongoDB user may not do that{where}: {text[:200]}",
            hint="It needs the role readWrite on the database (on Atlas also for search indexes).",
        )
    if code in _TIME_IS_UP:
        return DeadlineExceeded(f"MongoDB did not answer in time{where}.", hint="Raise timeout_seconds.")
    limited = _limited(text, where)
    if limited is not None:
        return limited
    if code in _NO_SEARCH or "$listSearchIndexes stage is only allowed" in text:
        return SearchUnavailable(
            "This MongoDB server has no vector search.",
            hint="Use Atlas or Atlas Local, or start mongod together with mongot.",
        )
    if code in _NOT_A_SET and "replica set" in text:
        return ConfigError("This MongoDB server is no replica set, so it has no transactions.")
    if code in _CONFLICT or error.has_error_label("TransientTransactionError"):
        return WriteConflict(f"Others kept writing the same documents{where}.", hint="Try again in a moment.")
    if code in _TOO_LARGE:
        return InputError(
            f"The write is too large for one transaction{where}: {text[:200]}",
            hint="Add fewer documents at once.",
        )
    if code in _RECONNECT or error.has_error_label("RetryableWriteError"):
        return ConnectionFailed(f"The MongoDB server went away{where}: {text[:200]}", hint="Try again.")
    return BackendError(f"MongoDB answered with an error{where} (code {code}): {text[:300]}")


def _limited(text: str, where: str) -> SVRError | None:
    """The error where the text says that a limit of the deployment was reached; None where it does not."""
    if _RATE_WORDS.search(text):
        return EmbeddingLimited(
            f"The embedding service takes no more requests for the moment{where}: {text[-200:]}",
            hint="Ask less often, or raise the rate limit of the model in the Atlas project.",
        )
    if _LIMIT_WORDS.search(text):
        return IndexLimitReached(
            f"The deployment allows no further search index{where}: {text[:200]}",
            hint="Free clusters hold 3, Flex clusters 10, over all databases. A collection needs one "
            "(hnsw(mode='source')): drop what is not needed, or take a larger tier.",
        )
    return None


def _of_bulk(error: BulkWriteError, where: str) -> SVRError:
    details = error.details or {}
    faults = details.get("writeErrors") or details.get("writeConcernErrors") or []
    first = faults[0] if faults else {}
    code, text = first.get("code"), str(first.get("errmsg"))
    if "too large" in text:
        return InputError("A document is larger than the 16 MB that MongoDB takes.", hint="Split its text.")
    if code in {*_TOO_LARGE, *_CONFLICT, *_RECONNECT, *_TIME_IS_UP}:
        return _of_code(OperationFailure(text, code, {"errmsg": text}), where)
    return BackendError(
        f"MongoDB refused {len(faults)} documents{where} (code {code}): {text[:200]}",
        hint="Nothing was written. A validator on the database's collection may refuse them.",
    )
