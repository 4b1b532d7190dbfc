"""How far a source was read, kept in a local file so that the next run need not look at the beginning again."""

from __future__ import annotations

import json
from pathlib import Path

from svr_retrievers.errors import InputError


class Checkpoint:
    """Vouches for the first items of a source: they are stored or were refused.

    Only a saving: without it, or after a change of the source, a run looks everything up in the store. The file is
    replaced as a whole after each batch, and gone when a run has reached its end.
    """

    def __init__(self, path: str | Path, source: str) -> None:
        self.path, self.source = Path(path), source
        if not self.path.absolute().parent.is_dir() or self.path.is_dir():
            raise InputError(
                f"{str(self.path)!r} cannot be written.", hint="Name a file in a folder that exists."
            )

    def read(self) -> int:
        """How many items to skip: none where the file is missing, damaged or about another source."""
        try:
            body = json.loads(self.path.read_text("utf-8"))
            items = body["items"] if body["source"] == self.source else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return items if type(items) is int and items > 0 else 0

    def save(self, items: int) -> None:
        beside = self.path.with_name(self.path.name + ".new")
        beside.write_text(json.dumps({"source": self.source, "items": items}), "utf-8")
        beside.replace(self.path)

    def done(self) -> None:
        self.path.unlink(missing_ok=True)
