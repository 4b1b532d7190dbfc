"""One field of all rows to filter by: each distinct value kept once, and asked about once."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt

from svr_retrievers.testing.mongodb.filters import ORDERED, Atom, Cell, FloatArray, Leaf, Mask, plain

_MOST_TABLES = 256  # answers kept; more are forgotten together


class Column:
    """Rows hold numbers of distinct values; a comparison is answered for the values, and so for all rows."""

    def __init__(self, rows: int) -> None:
        self._codes: npt.NDArray[np.int32] = np.zeros(rows, dtype=np.int32)
        self._cells: list[Cell] = [()]
        self._numbers: dict[Cell, int] = {(): 0}
        self._holders: defaultdict[Atom, list[int]] = defaultdict(list)
        self._alone: dict[str, list[float]] = {kind: [np.nan] for kind in ORDERED}
        self._arrays: dict[str, FloatArray] = {}
        self._rest: list[int] = []
        self._tables: dict[bytes, Mask] = {}

    def grow(self, rows: int) -> None:
        more = np.zeros(rows - len(self._codes), dtype=np.int32)
        self._codes = np.concatenate([self._codes, more])

    def set(self, row: int, held: Cell) -> None:
        number = self._numbers.setdefault(held, len(self._cells))
        if number == len(self._cells):
            self._add(number, held)
        self._codes[row] = number

    def mask(self, leaf: Leaf) -> Mask:
        table = self._tables.get(leaf.key)
        if table is None or len(table) < len(self._cells):
            if len(self._tables) >= _MOST_TABLES:
                self._tables.clear()
            table = self._tables[leaf.key] = self._answered(leaf, table)
        return np.asarray(table[self._codes], dtype=np.bool_)

    def _add(self, number: int, held: Cell) -> None:
        self._cells.append(held)
        for atom in set(held):
            self._holders[atom].append(number)
        alone = plain(held[0]) if len(held) == 1 else None
        for kind, values in self._alone.items():
            values.append(alone if alone is not None and held[0][0] == kind else np.nan)
        if alone is None:
            self._rest.append(number)

    def _answered(self, leaf: Leaf, known: Mask | None) -> Mask:
        """For each distinct value; what was known of the earlier ones stays."""
        if leaf.wanted is not None:
            table = np.zeros(len(self._cells), dtype=np.bool_)
            for atom in leaf.wanted:
                table[self._holders.get(atom, [])] = True
            return table
        if leaf.ordered is not None:
            kind, compare = leaf.ordered
            table = compare(self._array(kind))
            for number in self._rest:
                table[number] = leaf.test(self._cells[number])
            return table
        start = 0 if known is None else len(known)
        new = np.fromiter((leaf.test(held) for held in self._cells[start:]), dtype=np.bool_)
        return new if known is None else np.concatenate([known, new])

    def _array(self, kind: str) -> FloatArray:
        held = self._arrays.get(kind)
        if held is None or len(held) < len(self._cells):
            held = self._arrays[kind] = np.asarray(self._alone[kind], dtype=np.float64)
        return held
