"""Partitions that documents were told to lie in: filled in where metadata is silent, refused where it contradicts."""

from __future__ import annotations

from collections.abc import Mapping

from svr_retrievers.errors import InputError
from svr_retrievers.filters import FieldType, typed_values
from svr_retrievers.model import JsonValue, PartitionMap
from svr_retrievers.routing.place import Keys, Placement, path_of
from svr_retrievers.routing.schemes import REST, WHOLE, ClusterLevel, FieldLevel, Scheme

_CONVERT = {FieldType.INT: int, FieldType.FLOAT: float, FieldType.STR: str}


class Wanted:
    """What a scheme makes of an explicit partition: a path, whole or its beginning, as searches take it too."""

    def __init__(self, scheme: Scheme | None, fields: Mapping[str, FieldType]) -> None:
        self._levels = scheme.levels if scheme is not None else ()
        self._scheme, self._fields = scheme, fields

    def check_path(self, path: str) -> None:
        """Raises InputError for a path that no document of the collection could ever lie in, whatever it holds."""
        if not self._levels:
            if path != WHOLE.label:
                raise InputError(f"partition {path!r} was asked for, but the collection is not partitioned.")
            return
        parts = path.split("/")
        fields = [level.field if isinstance(level, FieldLevel) else None for level in self._levels]
        if fields[0] is not None and parts[0] != REST.label and not parts[0].startswith(f"{fields[0]}="):
            raise self._no_such(path, parts[0])
        for part in parts[1:] if len(parts) <= len(fields) else ():  # more: a value holds slashes
            if None not in fields and "=" in part and part.partition("=")[0] not in fields:
                raise self._no_such(path, part)

    def _no_such(self, path: str, part: str) -> InputError:
        return InputError(
            f"partition {path!r} cannot be: the collection is partitioned by {self._scheme!r}, not by {part!r}.",
            hint="Name the fields of the scheme in their order, e.g. category=tickets.",
        )

    def filled(self, path: str, metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """The metadata with the fields that the path names and the document does not have."""
        for level, label in zip(self._levels, path.split("/"), strict=False):
            if not isinstance(level, FieldLevel) or level.field in metadata or "." in level.field:
                continue
            name, _, text = label.partition("=")
            if name == level.field and text:
                metadata = {**metadata, level.field: self._value(level.field, text)}
        return metadata

    def _value(self, field: str, text: str) -> JsonValue:
        kind = self._fields.get(field, FieldType.STR)
        if kind is FieldType.BOOL and text in {"True", "False"}:
            return text == "True"
        try:
            made: JsonValue = _CONVERT.get(kind, str)(text)
        except ValueError:
            raise InputError(f"partition says {field}={text}, but {field} is declared {kind}.") from None
        return made

    def check(
        self, path: str, known: PartitionMap, namespace: str, doc_id: str, metadata: Mapping[str, JsonValue]
    ) -> None:
        """Raises InputError where the document would come to lie elsewhere."""
        typed = typed_values(self._fields, metadata)
        state = Placement(self._scheme, known)
        keys, _, waits = state.walk(namespace, doc_id, metadata, typed)
        decided = keys if waits or not self._clusters() else keys[: len(self._levels) - 1]
        lands = self._path(state, decided)
        if lands == path or lands.startswith(path + "/"):
            return
        if self._clusters() and path.startswith(lands + "/" if lands else ""):
            raise InputError(
                f"partition {path!r} cannot be asked for: clusters are chosen by the vectors.",
                hint=f"Name the partition above it: {lands!r}." if lands else "Leave partition out.",
            )
        raise InputError(
            f"partition {path!r} was asked for, but the document belongs to {lands!r}.",
            hint=f"{self._scheme!r} decides where it lies; change its metadata or its id."
            if self._scheme
            else "The collection is not partitioned.",
        )

    def _clusters(self) -> bool:
        return bool(self._levels) and isinstance(self._levels[-1], ClusterLevel)

    @staticmethod
    def _path(state: Placement, keys: Keys) -> str:
        leaf = state.leaf(keys) if keys else None
        return leaf.path if leaf is not None else path_of(keys)
