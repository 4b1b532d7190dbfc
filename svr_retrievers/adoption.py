"""What an adoption is asked for, and what the source itself says: backend, dimensions, index."""

from __future__ import annotations

from dataclasses import replace

from svr_retrievers.backends.adopting import Adopting, StoredVectors
from svr_retrievers.backends.indexes import IndexSpec
from svr_retrievers.backends.protocol import Backend
from svr_retrievers.backends.sources import Source
from svr_retrievers.errors import CollectionNotFound, ConfigError, InputError
from svr_retrievers.names import check_name


def adopting(backend: Backend) -> Adopting:
    """Raises ConfigError where nothing can be adopted."""
    if not isinstance(backend, Adopting):
        raise ConfigError(
            f"The {backend.name} backend cannot adopt collections.",
            hint="adopt_collection() needs MongoDB: SVRClient('mongodb+srv://...').",
        )
    return backend


async def known_size(backend: Backend, name: str) -> int | None:
    """The dimensions of an adopted collection that is there already."""
    try:
        ref = await backend.load_collection(check_name(name, "name"))
    except CollectionNotFound:
        return None
    return ref.config.dimensions


def size_of(source: Source, dimensions: int | None, found: StoredVectors | None) -> int:
    if dimensions is not None:
        return dimensions
    if found is None:
        raise InputError(
            f"No document of {source.collection!r} has a vector in {source.vector!r}, so dimensions is missing.",
            hint="Give dimensions, and check vector_field.",
        )
    return found.dimensions


def spec_of(index: IndexSpec | None, found: StoredVectors | None) -> IndexSpec | None:
    """Vectors stay as they are stored, so that is what the index holds."""
    if found is None or (index is not None and not isinstance(index, IndexSpec)):
        return index
    if index is not None and index.vectors not in ("float32", found.stored):
        raise InputError(f"The source stores vectors as {found.stored}, not as {index.vectors}.")
    return replace(index or IndexSpec(), vectors=found.stored)
