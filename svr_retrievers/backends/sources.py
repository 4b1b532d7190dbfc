"""A collection that others made and that is used where it is: what of its documents is text, vector, metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations

from svr_retrievers.errors import InputError
from svr_retrievers.model import DEFAULT_NAMESPACE, JsonValue

OWN = "svr"
"""The one field that is added to each document."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the documents of a collection of others keep text, vector and metadata.

    `metadata` None: all their other top-level fields are the metadata. `lists`: vectors are lists of numbers, not
    vectors of BSON. All of it is in one namespace.
    """

    collection: str
    text: str = "text"
    vector: str = "embedding"
    metadata: str | None = None
    namespace: str = DEFAULT_NAMESPACE
    lists: bool = False

    def __post_init__(self) -> None:
        for argument, path in self._paths().items():
            _check_path(path, argument)
            if self.metadata is None and argument != "metadata_field" and "." in path:
                raise InputError(
                    f"{argument} is {path!r}, inside another field, while all top-level fields are metadata.",
                    hint="Name the field that holds the metadata: metadata_field='metadata'.",
                )
        paths = sorted(self._paths().values())
        for path, after in combinations(paths, 2):
            if f"{after}.".startswith(f"{path}."):
                raise InputError(f"The field {after!r} lies inside {path!r}; each needs a place of its own.")

    def _paths(self) -> dict[str, str]:
        named = {"text_field": self.text, "vector_field": self.vector}
        return named if self.metadata is None else named | {"metadata_field": self.metadata}

    @property
    def hidden(self) -> frozenset[str]:
        """Top-level fields that are no metadata where all the others are."""
        return frozenset({"_id", self.text, self.vector, OWN})

    def check_namespace(self, namespace: str) -> None:
        """Raises InputError for any but the one."""
        if namespace != self.namespace:
            raise InputError(
                f"The adopted collection {self.collection!r} is one namespace, {self.namespace!r}; "
                f"there is no {namespace!r}.",
                hint="Leave namespace out, or adopt another collection for it.",
            )

    def check_metadata(self, metadata: Mapping[str, object]) -> None:
        """Raises InputError for keys that would be fields of the document with a meaning of their own."""
        if self.metadata is not None:
            return
        taken = sorted(key for key in metadata if key in self.hidden or key.startswith("$"))
        if taken:
            raise InputError(
                f"metadata has the key {taken[0]!r}, which at the top of a document of {self.collection!r} "
                "means something else.",
                hint="Rename it.",
            )

    def check_fields(self, fields: Iterable[str]) -> None:
        """Raises InputError for a filter field that is no metadata."""
        taken = sorted(self.hidden.intersection(fields)) if self.metadata is None else []
        if taken:
            raise InputError(
                f"filter_fields names {taken[0]!r}, which is no metadata of {self.collection!r}."
            )

    def to_json(self) -> dict[str, JsonValue]:
        return asdict(self)

    @staticmethod
    def of_json(body: Mapping[str, JsonValue]) -> Source:
        return Source(**body)  # type: ignore[arg-type]


def _check_path(path: object, argument: str) -> None:
    """Raises InputError for what names no field, or one that has a meaning of its own."""
    if not isinstance(path, str) or not path or "\x00" in path:
        raise InputError(f"{argument} must be the name of a field, not {path!r}.")
    keys = path.split(".")
    if any(not key or key.startswith("$") or key.isdigit() for key in keys):
        raise InputError(
            f"{argument} is {path!r}, which names no field.", hint="e.g. 'text' or 'content.text'"
        )
    if keys[0] in ("_id", OWN):
        raise InputError(f"{argument} cannot be {path!r}: that field is the document's own key or SVR's.")
