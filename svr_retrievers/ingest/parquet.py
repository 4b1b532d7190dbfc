"""Documents from Parquet files, row group by row group, with their vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from svr_retrievers.errors import InputError, MissingExtra
from svr_retrievers.ingest.records import Column, Columns, Item, Reader, Unreadable, as_item, told
from svr_retrievers.ingest.sources import existing, guarded, stamp

if TYPE_CHECKING:
    from pyarrow.lib import Array, RecordBatch
    from pyarrow.parquet import ParquetFile

ROWS_AT_ONCE = 1_000


def read_parquet(
    path: str | Path,
    *,
    id: Column = "id",
    text: Column = "text",
    vector: str | None = "vector",
    namespace: str | None = "namespace",
    metadata: Sequence[str] | None = None,
) -> Reader:
    """One document a row; arguments as of `Columns`. Only the columns that are needed are read.

    Vectors are lists of numbers of any kind, fixed in size or not. A thousand rows are held at a time, beside what
    a row group needs to be unpacked. Raises InputError when there is no such file, MissingExtra without pyarrow.
    """
    file, columns = existing(path), Columns(id, text, vector, namespace, metadata)
    try:
        from pyarrow import parquet
    except ImportError:
        raise MissingExtra(
            "Reading Parquet needs pyarrow.", hint='Run: pip install "svr-retrievers[ingest]"'
        ) from None

    def read() -> Iterator[Item]:
        number = 0
        try:
            with parquet.ParquetFile(file) as table:  # type: ignore[no-untyped-call]
                for batch in table.iter_batches(ROWS_AT_ONCE, columns=_needed(table, columns)):
                    for item in _rows(batch, file.name, number, columns):
                        yield item
                        number += 1
        except (ValueError, InputError, ArithmeticError) as error:
            yield Unreadable(
                f"{file.name}: row {number + 1}", f"From here on it cannot be read: {told(error)}"
            )

    return Reader(f"read_parquet({str(path)!r})", guarded(read, file), stamp(file))


def _needed(table: ParquetFile, columns: Columns) -> list[str] | None:
    """The columns to read: all, unless every one is named."""
    if columns.metadata is None or callable(columns.id) or callable(columns.text):
        return None
    there = set(table.schema_arrow.names)
    named = [columns.id, columns.text, columns.vector, columns.namespace, "metadata", *columns.metadata]
    return [name for name in dict.fromkeys(named) if isinstance(name, str) and name in there]


def _rows(batch: RecordBatch, file: str, first: int, columns: Columns) -> Iterator[Item]:
    vectors = _vectors(batch, columns.vector)
    others = [name for name in batch.schema.names if vectors is None or name != columns.vector]
    for at, record in enumerate(batch.select(others).to_pylist(maps_as_pydicts="lossy")):
        if vectors is not None and columns.vector is not None:
            record[columns.vector] = vectors[at]
        yield as_item(record, f"{file}: row {first + at + 1}", columns)


def _vectors(batch: RecordBatch, column: str | None) -> list[npt.NDArray[np.float32] | None] | None:
    """Each row's vector as a slice of one array; None where the column is missing or holds no lists of numbers."""
    import pyarrow.types as kinds

    if column is None or column not in batch.schema.names:
        return None
    lists = batch.column(column)
    kind = lists.type
    is_list = kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)
    if not is_list or not (kinds.is_floating(kind.value_type) or kinds.is_integer(kind.value_type)):
        return None
    return _slices(lists)


def _slices(lists: Array) -> list[npt.NDArray[np.float32] | None]:
    from pyarrow.compute import call_function  # type: ignore[attr-defined]

    flat = cast("npt.NDArray[np.float32]", lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32))
    lengths = [length or 0 for length in call_function("list_value_length", [lists]).to_pylist()]
    here = [valid.as_py() for valid in lists.is_valid()]
    ends = np.cumsum([length if valid else 0 for length, valid in zip(lengths, here, strict=True)]).tolist()
    starts = [0, *ends[:-1]]
    return [flat[a:b] if valid else None for a, b, valid in zip(starts, ends, here, strict=True)]
