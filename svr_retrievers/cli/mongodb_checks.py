"""What `svr doctor` looks at in a MongoDB deployment, each with the way to mend it."""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Mapping, Sequence

from pymongo.errors import PyMongoError

from svr_retrievers.backends.mongodb import connection
from svr_retrievers.backends.mongodb.connection import Database, Deployment, translated
from svr_retrievers.backends.mongodb.targets import Physical
from svr_retrievers.cli.checks import Check
from svr_retrievers.control.mongodb import Catalog
from svr_retrievers.errors import PermissionDenied, SVRError
from svr_retrievers.settings import Settings, redact

ROUND_TRIPS = 9
_SLOW_MILLISECONDS = 20.0


async def checks(url: str, settings: Settings) -> list[Check]:
    """Every check, over a client of its own. Raises ConnectionFailed and its kin."""
    client = connection.make_client(url, settings)
    try:
        database = connection.database_of(client, url)
        deployment = await connection.examined(database, url)
        return [check async for check in _all(database, deployment, url, settings)]
    finally:
        await client.close()


async def _all(
    database: Database, deployment: Deployment, url: str, settings: Settings
) -> AsyncIterator[Check]:
    yield await _connection(database, url)
    yield _version(deployment)
    yield await _rights(database, settings)
    catalog = Catalog(database, settings.db_schema)
    found = [check async for check in _indexes(database, catalog, settings)]
    for check in found:
        yield check
    if not found:
        yield Check("indexes", "note", "there are no collections yet")


async def _connection(database: Database, url: str) -> Check:
    times = []
    for _ in range(ROUND_TRIPS):
        started = time.perf_counter()
        with translated():
            await database.command("ping")
        times.append((time.perf_counter() - started) * 1e3)
    middle = statistics.median(times)
    told = f"{redact(url)}, database {database.name!r}, {middle:.1f} ms a round trip"
    if middle > _SLOW_MILLISECONDS:
        return Check("connection", "note", told, "run close to the cluster: a search is one round trip")
    return Check("connection", "ok", told)


def _version(deployment: Deployment) -> Check:
    version = ".".join(map(str, deployment.version))
    kind = "sharded cluster" if deployment.sharded else "replica set"
    if not deployment.has_views:
        return Check(
            "server", "note", f"MongoDB {version}, {kind}", "8.1 adds indexes over views (mode='views')"
        )
    return Check("server", "ok", f"MongoDB {version}, {kind}")


async def _rights(database: Database, settings: Settings) -> Check:
    probe = database[f"{settings.db_schema}.doctor"]
    try:
        with translated():
            await probe.insert_one({"_id": "doctor"})
            await probe.drop()
    except PermissionDenied as error:
        return Check("rights", "fail", error.message, error.hint)
    return Check("rights", "ok", f"may read and write in {database.name!r}")


async def _indexes(database: Database, catalog: Catalog, settings: Settings) -> AsyncIterator[Check]:
    for name in await catalog.list_collections():
        ref = await catalog.load_collection(name)
        _, body = await catalog.load_map(ref)
        for target in Physical.of_json(body).targets:
            source = target.view or f"{settings.db_schema}.documents.{ref.id}"
            try:
                with translated(name):
                    cursor = await database[source].list_search_indexes(target.name)
                    listed = await cursor.to_list()
            except (SVRError, PyMongoError) as error:
                yield Check(f"index of {name!r}", "fail", str(error))
                continue
            yield _index(name, target.name, listed)


def _index(collection: str, index: str, listed: Sequence[Mapping[str, object]]) -> Check:
    what = f"index of {collection!r}"
    if not listed:
        return Check(what, "fail", f"{index} is missing: searches compare every row", "svr refresh")
    status = str(listed[0].get("status"))
    if status == "READY" and listed[0].get("queryable"):
        return Check(what, "ok", f"{index} is ready")
    if status == "FAILED":
        return Check(what, "fail", f"{index} failed", "drop the search index, then svr refresh")
    return Check(what, "note", f"{index} is {status}", "svr refresh waits for it")
