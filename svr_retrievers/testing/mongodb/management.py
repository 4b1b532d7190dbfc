"""The commands about search indexes: create, update, drop, list; with the answers of a deployment that has search."""

from __future__ import annotations

from collections.abc import Callable

from bson import ObjectId
from bson.errors import InvalidId

from svr_retrievers.testing.mongodb import definitions, mappings
from svr_retrievers.testing.mongodb.documents import Document, text
from svr_retrievers.testing.mongodb.indexes import DELETING, Index
from svr_retrievers.testing.mongodb.mongot import Mongot
from svr_retrievers.testing.mongodb.records import Record
from svr_retrievers.testing.mongodb.refusals import Refused
from svr_retrievers.testing.mongodb.views import VIEWS_SINCE, Namespace, collections, namespace

THROUGH_API = "$throughApi"
"""Marks a command given as Atlas' own interface would give it, which knows views before drivers do."""
_CREATED = 68
_CHECKS: dict[str, Callable[[object], Document]] = {
    "search": mappings.check,
    "vectorSearch": definitions.check,
}


async def create(mongot: Mongot, command: Document) -> Document:
    """Same name and same definition is no error; all or none of the given ones are created."""
    home = await _home(mongot, command, "createSearchIndexes")
    given = command.get("indexes")
    if not isinstance(given, list) or not given:
        raise Refused("The 'indexes' field must be an array with at least one index", 2)
    wanted = [_record(home, each) for each in given]
    if len({record.name for record in wanted}) < len(wanted):
        raise Refused("Duplicate index names in one command are not allowed", 2)
    found = [_existing(mongot, record) or record for record in wanted]
    new = [record for record in found if record in wanted]
    _check_limit(mongot, home.database, len(new))
    for record in new:
        await mongot.create(record)
    return {"ok": 1.0, "indexesCreated": [{"id": str(r.ident), "name": r.name} for r in found]}


async def update(mongot: Mongot, command: Document) -> Document:
    index = await _named(mongot, command, "updateSearchIndex")
    kind = command.get("type", index.record.kind)
    if kind != index.record.kind:
        raise Refused(f"The type of index {index.record.name} cannot be changed to {kind}", 197)
    definition = _CHECKS[index.record.kind](command.get("definition"))
    _check_embedded(index.record.definition, definition)
    if definition != index.record.definition:
        await mongot.update(index, definition)
    return {"ok": 1.0}


async def drop(mongot: Mongot, command: Document) -> Document:
    await mongot.drop(await _named(mongot, command, "dropSearchIndex"))
    return {"ok": 1.0}


def entries(mongot: Mongot, database: str, collection: str, given: object) -> list[Document]:
    """What `$listSearchIndexes` answers."""
    if not isinstance(given, dict) or not given.keys() <= {"id", "name"}:
        raise Refused("$listSearchIndexes takes a document with 'id' or 'name' only", 9)
    if len(given) > 1:
        raise Refused("Cannot set both 'name' and 'id' for $listSearchIndexes.", 2)
    lag = mongot.control.of(database).listing_lag
    shown = [
        index.shown(lag)
        for index in mongot.indexes
        if (index.record.home.database, index.record.home.name) == (database, collection)
        and given.get("name", index.record.name) == index.record.name
        and str(given.get("id", index.record.ident)) == str(index.record.ident)
    ]
    return [entry for entry in shown if entry is not None]


async def _home(mongot: Mongot, command: Document, name: str) -> Namespace:
    database = text(command, "$db")
    home = namespace(await collections(mongot.client.get_database(database)), database, text(command, name))
    if home.is_view and not command.get(THROUGH_API) and mongot.control.of(database).version < VIEWS_SINCE:
        raise Refused(
            f"Namespace {database}.{home.name} is a view, not a collection: {name} works on views from 8.1 on",
            166,
        )
    return home


def _check_embedded(old: Document, new: Document) -> None:
    before, after = definitions.vector_fields(old), definitions.vector_fields(new)
    if before != after and any(field.kind == "autoEmbed" for field in before + after):
        raise Refused(
            "The embedded fields of an index cannot be changed; drop the index and create it again.", 2
        )


def _record(home: Namespace, given: object) -> Record:
    if not isinstance(given, dict):
        raise Refused("Each of 'indexes' must be a document", 14)
    unknown = sorted(given.keys() - {"name", "type", "definition"})
    if unknown:
        raise Refused(f"BSON field 'createSearchIndexes.indexes.{unknown[0]}' is an unknown field.", 40415)
    name = given.get("name", "default")
    if not isinstance(name, str) or not name:
        raise Refused('"userCommand.indexes[0].name" cannot be empty', 2)
    kind = given.get("type", "search")
    if not isinstance(kind, str) or kind not in _CHECKS:
        raise Refused(f"the type of an index is one of {', '.join(_CHECKS)}, not {kind!r}", 2)
    return Record(ObjectId(), name, kind, home, _CHECKS[kind](given.get("definition")))


def _existing(mongot: Mongot, wanted: Record) -> Record | None:
    """The record of that name over the collection and all its views. Refuses another definition or home."""
    for index in mongot.indexes:
        held = index.record
        if (held.home.database, held.home.source, held.name, held.home.uuid) != (
            wanted.home.database, wanted.home.source, wanted.name, wanted.home.uuid,
        ):  # fmt: skip
            continue
        if index.status == DELETING:
            raise Refused(f"Index {wanted.name} is being deleted; wait until it is gone.", _CREATED)
        if (held.definition, held.kind, held.home) != (wanted.definition, wanted.kind, wanted.home):
            raise Refused(
                f"Index {wanted.name} already exists with a different definition. Drop it first if needed.",
                _CREATED,
            )
        return held
    return None


def _check_limit(mongot: Mongot, database: str, new: int) -> None:
    limit = mongot.control.of(database).max_indexes
    own = mongot.control.own_index_limit(database)
    held = sum(1 for index in mongot.indexes if not own or index.record.home.database == database)
    if limit is not None and new and held + new > limit:
        raise Refused("The maximum number of FTS indexes has been reached for this instance size.", 125)


async def _named(mongot: Mongot, command: Document, name: str) -> Index:
    if ("name" in command) == ("id" in command):
        raise Refused(f"{name} takes exactly one of 'name' and 'id'", 2)
    home = await _home(mongot, command, name)
    by = "name" if "name" in command else "id"
    wanted = command[by] if by == "name" else _ident(command[by])
    for index in mongot.indexes:
        record = index.record
        if record.home == home and wanted in {record.name, record.ident} and index.status != DELETING:
            return index
    raise Refused(f"No index with {by} {command[by]} exists in namespace {home.database}.{home.name}", 27)


def _ident(value: object) -> ObjectId | None:
    try:
        return ObjectId(str(value))
    except InvalidId:
        return None
