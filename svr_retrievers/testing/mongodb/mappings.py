"""What a definition of type `search` may say, and how it has the fields of a document indexed."""

from __future__ import annotations

import re
from collections.abc import Iterator

from svr_retrievers.testing.mongodb.definitions import check_stored
from svr_retrievers.testing.mongodb.documents import Document, section, text
from svr_retrievers.testing.mongodb.refusals import Refused

STRING, TOKEN = "string", "token"
DYNAMIC = frozenset({STRING, "number", "boolean", "date", "objectId", "uuid"})
_KINDS = DYNAMIC | {TOKEN, "document"}
_KEYS = {"mappings", "analyzer", "searchAnalyzer", "storedSource", "numPartitions"}
_ANALYZERS = {
    "lucene.standard": re.compile(r"\w+(?:['\u2019]\w+)*"),
    "lucene.simple": re.compile(r"[^\W\d_]+"),
    "lucene.whitespace": re.compile(r"\S+"),
    "lucene.keyword": re.compile(r".+", re.DOTALL),
}
_LOWERS = {"lucene.standard", "lucene.simple"}


def check(definition: object) -> Document:
    """The definition, when Atlas would take it and the stand-in can serve it."""
    if not isinstance(definition, dict) or not isinstance(definition.get("mappings"), dict):
        raise Refused('"userCommand.indexes[0].mappings" is required', 2)
    unknown = sorted(definition.keys() - _KEYS)
    if unknown:
        raise Refused(f'"userCommand.indexes[0]" unrecognized field "{unknown[0]}"', 2)
    if definition.get("storedSource") is not True:
        check_stored(definition)
    for name in ("analyzer", "searchAnalyzer"):
        _check_analyzer(definition.get(name))
    mappings = section(definition, "mappings")
    _check_level("mappings", mappings)
    if not mappings.get("dynamic") and not mappings.get("fields"):
        raise Refused('"userCommand.indexes[0].mappings" must be dynamic or have fields', 2)
    return definition


def _check_level(at: str, level: Document) -> None:
    if not isinstance(level.get("dynamic", False), bool):
        raise Refused(f'"userCommand.indexes[0].{at}.dynamic" must be a boolean', 2)
    for name, given in section(level, "fields").items():
        for each in given if isinstance(given, list) else [given]:
            _check_field(f"{at}.fields.{name}", each)


def _check_field(at: str, given: object) -> None:
    kind = given.get("type") if isinstance(given, dict) else None
    if not isinstance(given, dict) or kind not in _KINDS:
        raise Refused(f'"userCommand.indexes[0].{at}.type" must be one of [{", ".join(sorted(_KINDS))}]', 2)
    if kind == "document":
        _check_level(at, given)
    _check_analyzer(given.get("analyzer"))


def _check_analyzer(name: object) -> None:
    if name is not None and name not in _ANALYZERS:
        raise Refused(f"the analyzers offered here are {', '.join(sorted(_ANALYZERS))}, not {name!r}", 2)


class Mapping:
    """Which types a path is indexed as, and how its text falls into terms."""

    def __init__(self, definition: Document) -> None:
        self._top = section(definition, "mappings")
        self._analyzer = text(definition, "analyzer", "lucene.standard")

    def fields(self, path: str) -> dict[str, Document]:
        """By type, what the definition says of the path; empty where it is not indexed."""
        level = self._top
        *parents, last = path.split(".")
        for name in parents:
            given = _by_type(level, name)
            if "document" in given:
                level = given["document"]
            elif level.get("dynamic") is True and not given:
                level = {"dynamic": True}
            else:
                return {}
        found = _by_type(level, last)
        return found or (dict.fromkeys(DYNAMIC, Document()) if level.get("dynamic") is True else {})

    def terms(self, path: str, words: str) -> list[str]:
        analyzer = text(self.fields(path).get(STRING, {}), "analyzer", self._analyzer)
        found = _ANALYZERS[analyzer].findall(words)
        return [term.lower() for term in found] if analyzer in _LOWERS else found


def _by_type(level: Document, name: str) -> dict[str, Document]:
    given = section(level, "fields").get(name)
    listed = given if isinstance(given, list) else [given]
    return {text(each, "type"): each for each in listed if isinstance(each, dict)}


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every value of a document by its path; arrays add nothing to it."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from leaves(each, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each, path)
    else:
        yield path, value
