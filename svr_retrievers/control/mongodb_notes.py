"""What the slots of a fence say of the rows of each partition: the last write's note, and exact sums of all writes."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import cast

from svr_retrievers.changes import RowCounts

Doc = dict[str, object]


def written(done: Mapping[int, RowCounts], rows: int) -> Doc:
    """The change of a slot by a write of so many rows that does this."""
    grown = {f"rows.{partition}": counts.growth for partition, counts in done.items() if counts.growth}
    return {"$inc": {"number": rows, **grown}, "$set": {"note": _note(done)}}


def corrected(missing: Mapping[int, int]) -> Doc:
    """The change of a slot that adds rows nobody has noted."""
    added = {f"rows.{partition}": rows for partition, rows in missing.items() if rows}
    return {"$inc": {"number": 1, "corrected": 1, **added}, "$set": {"note": _note({})}}


def _note(done: Mapping[int, RowCounts]) -> str:
    """As text that is never the same twice: an update to an equal value makes no event, and of an array only parts."""
    return json.dumps([secrets.token_hex(8), [[p, *astuple(counts)] for p, counts in done.items()]])


def read(note: object) -> dict[int, RowCounts]:
    _, listed = json.loads(str(note))
    return {int(partition): RowCounts(*counts) for partition, *counts in listed}


class Rows:
    """The rows of each partition, summed over the slots; never goes back to an earlier state of a slot."""

    def __init__(self, slots: Sequence[Mapping[str, object]]) -> None:
        self.numbers = {str(slot["_id"]): _whole(slot["number"]) for slot in slots}
        self.corrected: int | None = None
        """How often rows were corrected: None where they never were."""
        self._rows = {
            str(slot["_id"]): _counts(cast("Mapping[str, object]", slot.get("rows") or {})) for slot in slots
        }
        for slot in slots:
            if slot.get("corrected") is not None:
                self.corrected = _whole(slot["corrected"])

    def follow(self, slot: str, fields: Mapping[str, object]) -> None:
        """Takes over what an event says of a slot, unless it is older than what is known."""
        number = _whole(fields["number"])
        if number <= self.numbers.get(slot, 0):
            return
        self.numbers[slot] = number
        whole = fields.get("rows")
        if isinstance(whole, Mapping):
            self._rows[slot] = _counts(whole)
        parts = {name.removeprefix("rows."): n for name, n in fields.items() if name.startswith("rows.")}
        self._rows.setdefault(slot, {}).update(_counts(parts))

    @property
    def sums(self) -> dict[int, int]:
        found: Counter[int] = Counter()
        for each in self._rows.values():
            for partition, rows in each.items():
                found[partition] += rows
        return dict(found)


def _counts(rows: Mapping[str, object]) -> dict[int, int]:
    return {int(partition): _whole(n) for partition, n in rows.items()}


def _whole(value: object) -> int:
    return int(cast("int", value))
