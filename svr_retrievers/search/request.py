"""What a caller asks of a search, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from svr_retrievers.errors import InputError
from svr_retrievers.model import DEFAULT_NAMESPACE, OnFailure, VectorLike
from svr_retrievers.names import check_key, check_text

MAX_SECONDS = 86_400
MAX_LIMIT = 10_000
"""More hits than this is a scan, not a search: use find()."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One search as asked for. Checking it needs no database."""

    vector: VectorLike | None = None
    text: str | None = None
    limit: int = 10
    filter: Mapping[str, object] | None = None
    namespace: str = DEFAULT_NAMESPACE
    partitions: Sequence[str] | None = None
    exact: bool = False
    nprobe: int | None = None
    recall_target: float | None = None
    ef_search: int | None = None
    timeout_seconds: float | None = None
    on_failure: OnFailure = "fail"
    with_vectors: bool = False

    def check(self) -> Request:
        """Itself, when every argument can be used. Raises InputError naming the one that cannot."""
        check_whole("limit", self.limit, 1, MAX_LIMIT)
        check_key(self.namespace, "namespace")
        if (self.vector is None) == (self.text is None):
            raise InputError(
                f"A search needs {'either' if self.vector is not None else 'a'} vector or text"
                f"{', not both' if self.vector is not None else ''}.",
                hint="Pass vector=[...], or text='...' on a collection with an embedder.",
            )
        if self.text is not None:
            check_text(self.text, "text")
        if self.nprobe is not None:
            check_whole("nprobe", self.nprobe, 1, 1_000_000)
        if self.ef_search is not None:
            check_whole("ef_search", self.ef_search, 1, 1000)
        if self.recall_target is not None:
            check_fraction("recall_target", self.recall_target)
        self._check_rest()
        return self

    def with_text(self, text: str) -> Request:
        """The same with the words as well: what both rankings of a hybrid search are asked."""
        return replace(self, text=text)

    def check_asks_text(self) -> None:
        """Raises InputError for what needs vectors, where only the server has them."""
        if self.vector is not None:
            raise InputError(
                "This collection is embedded by the server, which takes no vector of another model.",
                hint="Search by text='...'.",
            )
        if self.with_vectors:
            raise InputError(
                "with_vectors is not to be had: the server keeps the vectors that it makes.",
                hint="Maximal marginal relevance needs a collection with an embedder of your own.",
            )
        for argument, value in (("nprobe", self.nprobe), ("recall_target", self.recall_target)):
            if value is not None:
                raise InputError(
                    f"{argument} chooses partitions by closeness, and only the server has the vectors for that.",
                    hint="Narrow the search by filter= or partitions=.",
                )

    def _check_rest(self) -> None:
        for argument, flag in (("exact", self.exact), ("with_vectors", self.with_vectors)):
            check_flag(argument, flag)
        if self.timeout_seconds is not None:
            check_seconds("timeout_seconds", self.timeout_seconds)
        if self.on_failure not in ("fail", "partial"):
            raise InputError(f"on_failure must be 'fail' or 'partial', not {self.on_failure!r}.")
        if self.partitions is None:
            return
        if isinstance(self.partitions, str) or not isinstance(self.partitions, Sequence):
            raise InputError(
                "partitions must be a list of partition paths.", hint="e.g. ['category=tickets']"
            )
        if not self.partitions:
            raise InputError("partitions is empty.", hint="Leave it out to search wherever matches can be.")
        for path in self.partitions:
            check_text(path, "partitions")


def check_whole(argument: str, value: object, low: int, high: int) -> None:
    """Raises InputError for anything but a whole number from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{argument} must be a whole number, not {type(value).__name__}.")
    if not low <= value <= high:
        raise InputError(f"{argument} must lie between {low} and {high:,}, not {value}.")


def check_flag(argument: str, value: object) -> None:
    """Raises InputError for anything but True and False."""
    if not isinstance(value, bool):
        raise InputError(f"{argument} must be True or False, not {type(value).__name__}.")


def check_seconds(argument: str, value: object) -> None:
    """Raises InputError for anything but a number of seconds above 0 and up to a day."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_SECONDS:
        raise InputError(
            f"{argument} must be a number above 0 and up to {MAX_SECONDS:,}, not {str(value)[:30]}."
        )


def check_fraction(argument: str, value: object) -> float:
    """The value, when it is a number above 0 and up to 1. Raises InputError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{argument} must be a number, not {type(value).__name__}.")
    if not 0.0 < value <= 1.0:
        raise InputError(f"{argument} must lie above 0 and up to 1, not {value}.", hint="e.g. 0.95")
    return float(value)
