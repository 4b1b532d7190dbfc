"""BM25 over the texts of a collection in memory, always of the rows as they are now."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import numpy as np

from svr_retrievers.errors import MissingExtra

if TYPE_CHECKING:
    from bm25s import BM25

Key: TypeAlias = tuple[str, str]

_WORD: Final = re.compile(r"\w+(?:\.\w+)*")
_K1, _B = 1.2, 0.75


class Row(Protocol):
    """A stored row: its text, and the version that changes with it."""

    @property
    def text(self) -> str: ...
    @property
    def version(self) -> int: ...


def words_of(text: str) -> list[str]:
    """Runs of letters, digits and underscores, joined by single dots as in `json.dumps`, in lower case."""
    return _WORD.findall(text.lower())


@dataclass(slots=True)
class _Index:
    """The words of one namespace's rows as they were at `changes`."""

    changes: int
    keys: list[Key]
    engine: BM25


@dataclass(slots=True)
class Words:
    """The words of a collection: taken apart once a text, ranked over one namespace, made anew after each change."""

    _taken: dict[Key, tuple[str, list[str]]] = field(default_factory=dict)
    _indexes: dict[str, _Index] = field(default_factory=dict)

    def scores(self, rows: Mapping[Key, Row], changes: int, namespace: str, text: str) -> dict[Key, float]:
        """The rows of the namespace that hold one of the words, with their scores. Raises MissingExtra."""
        index = self._indexes.get(namespace)
        if index is None or index.changes != changes:
            index = self._indexes[namespace] = self._made(rows, changes, namespace)
        asked = [word for word in dict.fromkeys(words_of(text)) if word in index.engine.vocab_dict]
        if not asked or not index.keys:
            return {}
        found = index.engine.get_scores(asked)
        return {index.keys[at]: float(found[at]) for at in np.flatnonzero(found > 0)}

    def _made(self, rows: Mapping[Key, Row], changes: int, namespace: str) -> _Index:
        self._forget(rows)
        keys = [key for key in rows if key[0] == namespace]
        engine = _engine()
        corpus = [self._words(key, rows[key].text) for key in keys]
        if any(corpus):
            engine.index(corpus, show_progress=False)
        else:
            engine.vocab_dict = {}
        return _Index(changes, keys, engine)

    def _words(self, key: Key, text: str) -> Sequence[str]:
        taken = self._taken.get(key)
        if taken is None or taken[0] != text:
            taken = self._taken[key] = text, words_of(text)
        return taken[1]

    def _forget(self, rows: Mapping[Key, Row]) -> None:
        """Words of rows that are gone, and indexes of namespaces without rows."""
        for key in self._taken.keys() - rows.keys():
            del self._taken[key]
        there = {namespace for namespace, _ in rows}
        for namespace in self._indexes.keys() - there:
            del self._indexes[namespace]


def _engine() -> BM25:
    try:
        made = _bm25()
    except ImportError as error:
        raise MissingExtra(
            f"Searching memory by words needs BM25, which is not installed ({error.name}).",
            hint='Install it: pip install "svr-retrievers[keywords]"',
        ) from None
    return made(k1=_K1, b=_B, method="lucene")


def _bm25() -> type[BM25]:
    """Its import sets its logger to DEBUG, past the level of the program that imports us: that is undone."""
    if "bm25s" in sys.modules:
        from bm25s import BM25

        return BM25
    log = logging.getLogger("bm25s")
    before = log.level
    try:
        from bm25s import BM25
    finally:
        log.setLevel(before)
    return BM25
