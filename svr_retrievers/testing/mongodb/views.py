"""Which views can carry a search index, and which collection lies behind a name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from pymongo.asynchronous.database import AsyncDatabase

from svr_retrievers.testing.mongodb.documents import Document, key_of, section, text
from svr_retrievers.testing.mongodb.refusals import Refused

VIEWS_SINCE = (8, 1)
"""From this version on drivers create indexes on views, and views are queried themselves."""
_STAGES = {"$addFields", "$set", "$match"}
_BANNED = {
    "$rand": 10623003, "$function": 10623003,
    "$$NOW": 10623004, "$$CLUSTER_TIME": 10623004, "$$USER_ROLES": 10623004,
}  # fmt: skip
_STAGE, _MATCH, _ID, _CURRENT = 10623000, 10623001, 10623002, 10623005


@dataclass(frozen=True, slots=True)
class Namespace:
    """A collection, or a view and the collection behind it.

    `uuid` tells a collection from an earlier one of its name, `rules` a view from what it was before.
    """

    database: str
    name: str
    source: str
    uuid: bytes
    rules: bytes = b""

    @property
    def is_view(self) -> bool:
        return self.name != self.source


Collections = Mapping[str, Document]
"""What `listCollections` says, by name."""


async def collections(database: AsyncDatabase[Document]) -> Collections:
    return {str(info["name"]): dict(info) async for info in await database.list_collections()}


def namespace(known: Collections, database: str, name: str) -> Namespace:
    """Raises Refused where there is no such collection, or it is a view that no index can be on."""
    at, pipelines = name, list[object]()
    while True:
        info = known.get(at)
        if info is None:
            raise Refused(f"Collection '{database}.{name}' does not exist.", 26)
        options = section(info, "options")
        if info.get("type") != "view":
            uuid = section(info, "info").get("uuid")
            return Namespace(
                database, name, at, bytes(uuid) if isinstance(uuid, bytes) else b"", _rules(pipelines)
            )
        _check(options.get("pipeline"))
        pipelines.append(options.get("pipeline"))
        at = text(options, "viewOn")


def _rules(pipelines: list[object]) -> bytes:
    return hashlib.sha256(key_of(pipelines)).digest() if pipelines else b""


def _refuse(why: str, code: int) -> Refused:
    return Refused(
        f"Cannot create or update index as the view pipeline is incompatible with Atlas Search: {why}", code
    )


def _check(pipeline: object) -> None:
    for stage in pipeline if isinstance(pipeline, list) else []:
        name, argument = next(iter(stage.items()))
        if name not in _STAGES:
            raise _refuse(f"{name} stage is not supported", _STAGE)
        if name == "$match" and argument and set(argument) != {"$expr"}:
            raise _refuse("$match stage may only contain $expr", _MATCH)
        if name != "$match" and any(path.partition(".")[0] == "_id" for path in argument):
            raise _refuse("modifying _id field is not allowed", _ID)
        _check_expression(argument)


def _check_expression(value: object) -> None:
    if isinstance(value, list):
        for each in value:
            _check_expression(each)
    elif isinstance(value, dict):
        if isinstance(bound := section(value, "$let").get("vars"), dict) and "CURRENT" in bound:
            raise _refuse("overriding CURRENT is not allowed", _CURRENT)
        for key, each in value.items():
            _refuse_banned(key)
            _check_expression(each)
    elif isinstance(value, str):
        _refuse_banned(value)


def _refuse_banned(word: str) -> None:
    code = _BANNED.get(word.partition(".")[0])
    if code is not None:
        raise _refuse(f"{word} is not allowed", code)
