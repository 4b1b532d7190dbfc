"""The rows of one built index, in arrays that grow: vectors with their lengths, and columns to filter by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from svr_retrievers.testing.mongodb.columns import Column
from svr_retrievers.testing.mongodb.documents import key_of
from svr_retrievers.testing.mongodb.filters import Cell, Leaf, Mask
from svr_retrievers.testing.mongodb.vectors import FloatArray, Vector, scores

_FIRST_ROWS = 64


class Matrix:
    """The vectors of one path and kind; a row without one is not `held`."""

    def __init__(self, dimensions: int, rows: int) -> None:
        self.values: FloatArray = np.zeros((rows, dimensions), dtype=np.float32)
        self.squares: FloatArray = np.zeros(rows, dtype=np.float32)
        self.held: Mask = np.zeros(rows, dtype=np.bool_)

    def grow(self, rows: int) -> None:
        more = rows - len(self.held)
        self.values = np.concatenate([self.values, np.zeros((more, self.values.shape[1]), dtype=np.float32)])
        self.squares = np.concatenate([self.squares, np.zeros(more, dtype=np.float32)])
        self.held = np.concatenate([self.held, np.zeros(more, dtype=np.bool_)])

    def set(self, row: int, values: FloatArray) -> None:
        self.values[row] = values
        self.squares[row] = values @ values
        self.held[row] = True

    def scores(self, rows: npt.NDArray[np.intp], vector: Vector, similarity: str) -> FloatArray:
        """Of these rows, computed over all where gathering them would cost more than it saves."""
        every = rows.size * 4 > len(self.held)
        values = self.values if every else self.values[rows]
        squares = self.squares if every else self.squares[rows]
        with np.errstate(all="ignore"):  # rows that hold nothing have no length
            found = scores(vector.kind, similarity, values, squares, vector.values)
        return found[rows] if every else found


class Rows:
    """Which documents an index holds, and where. A freed row is used again."""

    def __init__(self, dimensions: Mapping[str, int], paths: Iterable[str]) -> None:
        self._dimensions = dimensions
        self._size = _FIRST_ROWS
        self._free = list(range(_FIRST_ROWS - 1, -1, -1))
        self._row: dict[bytes, int] = {}
        self.ids: list[object] = [None] * _FIRST_ROWS
        self._columns = {path: Column(_FIRST_ROWS) for path in paths}
        self._matrices: dict[tuple[str, str], Matrix] = {}

    def __len__(self) -> int:
        return len(self._row)

    def matrix(self, path: str, kind: str) -> Matrix | None:
        return self._matrices.get((path, kind))

    def put(self, ident: object, vectors: Mapping[str, Vector], cells: Mapping[str, Cell]) -> None:
        key = key_of(ident)
        row = self._row.get(key)
        if row is None:
            if not self._free:
                self._grow()
            row = self._row[key] = self._free.pop()
        self.ids[row] = ident
        self._release(row)
        for path, held in cells.items():
            self._columns[path].set(row, held)
        for path, vector in vectors.items():
            self._of(path, vector.kind).set(row, vector.values)

    def drop(self, ident: object) -> None:
        row = self._row.pop(key_of(ident), None)
        if row is not None:
            self._release(row)
            self.ids[row] = None
            self._free.append(row)

    def mask(self, path: str, leaf: Leaf) -> Mask:
        return self._columns[path].mask(leaf)

    def all(self) -> Mask:
        return np.ones(self._size, dtype=np.bool_)

    def _of(self, path: str, kind: str) -> Matrix:
        found = self._matrices.get((path, kind))
        if found is None:
            found = self._matrices[path, kind] = Matrix(self._dimensions[path], self._size)
        return found

    def _release(self, row: int) -> None:
        for matrix in self._matrices.values():
            matrix.held[row] = False

    def _grow(self) -> None:
        self._free.extend(range(2 * self._size - 1, self._size - 1, -1))
        self.ids.extend([None] * self._size)
        self._size *= 2
        for column in self._columns.values():
            column.grow(self._size)
        for matrix in self._matrices.values():
            matrix.grow(self._size)
