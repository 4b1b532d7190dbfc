"""The command `standIn`, which only the stand-in knows: settings while it runs, what was counted, and waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import MutableMapping

from svr_retrievers.testing.mongodb import management
from svr_retrievers.testing.mongodb.documents import Document, section, text
from svr_retrievers.testing.mongodb.indexes import Index
from svr_retrievers.testing.mongodb.mongot import Mongot
from svr_retrievers.testing.mongodb.refusals import Refused

_ENVELOPE = {"standIn", "lsid", "apiVersion", "apiStrict", "apiDeprecationErrors"}
ACTIONS = ("stale", "rebuild", "throughApi", "settle", "resetCounts")
Counts = MutableMapping[str, Counter[str]]


async def controlled(mongot: Mongot, counts: Counts, command: Document) -> Document:
    """On `admin` for the whole deployment, on any other database for that one alone."""
    database = text(command, "$db")
    given = {k: v for k, v in command.items() if k not in _ENVELOPE and not k.startswith("$")}
    actions = {name: given.pop(name) for name in ACTIONS if name in given}
    try:
        mongot.control.change(database, given)
        answer = await _acted(mongot, database, actions)
    except Refused as refused:
        return refused.reply()
    shown = _counted(counts, database)
    if actions.get("resetCounts"):
        for name in _databases(counts, database):
            counts.pop(name, None)
    settings = mongot.control.of(database).document()
    return {"ok": 1.0, "settings": settings, "counts": shown, "searchMillis": mongot.search_millis} | answer


async def _acted(mongot: Mongot, database: str, actions: Document) -> Document:
    answer: Document = {}
    for name, act in (("stale", mongot.told_stale), ("rebuild", mongot.rebuild)):
        if name in actions:
            for index in _named(mongot, database, actions[name]):
                act(index)
    if "throughApi" in actions:
        given = section(actions, "throughApi") | {"$db": database, management.THROUGH_API: True}
        answer = {"created": (await management.create(mongot, given))["indexesCreated"]}
    if actions.get("settle"):
        await mongot.settle(None if database == "admin" else database)
    return answer


def _named(mongot: Mongot, database: str, name: object) -> list[Index]:
    found = [
        index
        for index in mongot.indexes
        if index.record.name == name and database in {"admin", index.record.home.database}
    ]
    if not found:
        raise Refused(f"there is no index {name!r} in {database}", 27)
    return found


def _databases(counts: Counts, database: str) -> list[str]:
    return list(counts) if database == "admin" else [database]


def _counted(counts: Counts, database: str) -> Document:
    total: Counter[str] = Counter()
    for name in _databases(counts, database):
        total.update(counts.get(name, Counter()))
    return dict(total)
