"""Vector spaces: which model made a vector, told by everything that decides whether two vectors can be compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, fields
from typing import Protocol, Self, runtime_checkable

from svr_retrievers.errors import DimensionMismatch, InputError, SpaceMismatch
from svr_retrievers.values import JsonValue

DTYPES = ("float32", "int8", "binary")


@dataclass(frozen=True, slots=True)
class VectorSpace:
    """What a vector means. Vectors of equal spaces can be compared, others never.

    `model` is what documents are embedded with, or the name of the family where models share a space, so that a
    query may be embedded by a smaller one. `inputs` says how documents are told from queries (an input type, a
    prefix), `dtype` what the numbers were before they became float32: "float32", "int8" or "binary".
    """

    provider: str
    model: str
    dimensions: int
    version: str = ""
    normalized: bool = False
    inputs: str = ""
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("provider", "model"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise InputError(
                    f"A vector space needs a {name}.",
                    hint='e.g. VectorSpace("openai", "text-embedding-3-small", 1536)',
                )
        if not isinstance(self.dimensions, int) or isinstance(self.dimensions, bool) or self.dimensions < 1:
            raise InputError(
                f"dimensions of a vector space must be a whole number from 1 on, not {self.dimensions!r}."
            )
        for name in ("version", "inputs"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"{name} of a vector space must be text, not {getattr(self, name)!r:.60}.")
        if not isinstance(self.normalized, bool):
            raise InputError(
                f"normalized of a vector space must be True or False, not {self.normalized!r:.60}."
            )
        if not isinstance(self.dtype, str) or self.dtype not in DTYPES:
            raise InputError(f"dtype of a vector space must be {', '.join(DTYPES)}, not {self.dtype!r:.60}.")

    @property
    def id(self) -> str:
        """16 hexadecimal digits of the SHA-256 over all fields: equal exactly where vectors can be compared."""
        body = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(body.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, JsonValue]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of_json(cls, body: Mapping[str, JsonValue]) -> Self:
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in body.items() if name in known})  # type: ignore[arg-type]

    def __str__(self) -> str:
        more = [f"{self.dimensions} dimensions"]
        more += [self.version] if self.version else []
        more += [self.dtype] if self.dtype != "float32" else []
        more += [self.inputs] if self.inputs else []
        return f"{self.provider}/{self.model} ({', '.join(more)})"


@runtime_checkable
class HasSpace(Protocol):
    """An embedder that says which space its vectors are of."""

    @property
    def space(self) -> VectorSpace: ...


@runtime_checkable
class AsksForSpace(Protocol):
    """An embedder that may have to ask for its space."""

    def aspace(self) -> Awaitable[VectorSpace | None]: ...


def space_of(embedder: object) -> VectorSpace | None:
    """The space that an embedder declares; None where it declares none."""
    found = getattr(embedder, "space", None)
    return found if isinstance(found, VectorSpace) else None


async def asked_space(embedder: object) -> VectorSpace | None:
    """As `space_of`; one that has to ask its provider first (`aspace`) does so without holding up the event loop."""
    if not isinstance(embedder, AsksForSpace):
        return space_of(embedder)
    return await embedder.aspace()


async def asked_length(embedder: object) -> int | None:
    """The length of the vectors that an embedder declares, by its space or by `dimensions`; None where it does not.

    Only one that `aspace` makes known asks its provider for it, once.
    """
    space = await asked_space(embedder)
    if space is not None:
        return space.dimensions
    found = None if isinstance(embedder, AsksForSpace) else getattr(embedder, "dimensions", None)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else None


def check_length(name: str, dimensions: int, embedder: object, length: int | None) -> None:
    """Raises DimensionMismatch, naming both lengths, for an embedder that declares vectors of another length."""
    if length is not None and length != dimensions:
        raise DimensionMismatch(
            f"The collection {name!r} has {dimensions} dimensions, but the vectors of the embedder"
            f" {type(embedder).__name__} have {length}.",
            hint="Leave dimensions= out for a new collection, or pass an embedder whose vectors have that length.",
        )


def check_same(name: str, wanted: VectorSpace | None, given: VectorSpace | None) -> None:
    """Raises SpaceMismatch, naming both, where a collection's vectors cannot be compared with an embedder's.

    One that declares no space is taken at its user's word.
    """
    if wanted is not None and given is not None and wanted != given:
        raise SpaceMismatch(
            f"The collection {name!r} holds vectors of {wanted}, and these would be of {given}.",
            hint="Vectors of two spaces cannot be compared: use the embedder it was made with, or another collection.",
        )
