"""Which approximate index a partition gets, and from what size on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, TypeAlias, get_args

from svr_retrievers.errors import ConfigError, InputError
from svr_retrievers.model import JsonValue, Metric

EXACT_BELOW_ROWS = 1_000
"""Below this an exact scan is about as fast as a graph (measured: equal at 1,000 rows of 384
dimensions, 4 times slower at 8,000) and needs no build."""


Quantization: TypeAlias = Literal["none", "half", "scalar", "binary"]
Stored: TypeAlias = Literal["float32", "int8", "bit"]
IndexMode: TypeAlias = Literal["auto", "views", "source", "fields"]
_SINCE_FIRST = {"vectors": "float32", "mode": "auto"}
"""Settings that came later: left out of what is stored while they say nothing, so that older releases read it."""


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """An index kind with its settings. Made by `hnsw()`, `ivfflat()` or `flat()`."""

    kind: Literal["hnsw", "ivfflat", "flat"] = "hnsw"
    m: int = 16
    ef_construction: int = 64
    ef_search: int = 40
    lists: int | None = None
    probes: int | None = None
    min_rows: int = EXACT_BELOW_ROWS
    quantization: Quantization = "none"
    rescore: int | None = None
    vectors: Stored = "float32"
    mode: IndexMode = "auto"

    def to_json(self) -> dict[str, JsonValue]:
        return {name: value for name, value in asdict(self).items() if _SINCE_FIRST.get(name) != value}

    @staticmethod
    def from_json(body: Mapping[str, JsonValue]) -> IndexSpec:
        unknown = sorted(set(body) - {f.name for f in fields(IndexSpec)})
        if unknown:
            raise ConfigError(
                f"The collection's index has settings this release does not know: {', '.join(unknown)}.",
                hint="The collection was made by a newer release; upgrade svr-retrievers.",
            )
        return IndexSpec(**body)  # type: ignore[arg-type]

    def lists_for(self, rows: int) -> int:
        """Pgvector's own advice: rows / 1000 up to a million rows, the square root beyond."""
        if self.lists is not None:
            return self.lists
        return max(10, rows // 1000 if rows <= 1_000_000 else int(rows**0.5))

    def probes_for(self, rows: int) -> int:
        """Pgvector's own advice: the square root of the number of lists."""
        return self.probes or max(1, round(self.lists_for(rows) ** 0.5))


def hnsw(
    *,
    m: int = 16,
    ef_construction: int = 64,
    ef_search: int = 40,
    min_rows: int = EXACT_BELOW_ROWS,
    quantization: Quantization = "none",
    rescore: int | None = None,
    vectors: Stored = "float32",
    mode: IndexMode = "auto",
) -> IndexSpec:
    """A graph per partition of at least `min_rows` rows; smaller ones are searched exactly.

    `m` (2-100) edges a node, `ef_construction` (4-1000, at least 2 m) candidates while building,
    `ef_search` (1-1000) candidates while searching: the engine's own parameters and defaults.

    `quantization` makes the index smaller, not the stored vectors: `"half"` keeps 16 bits a number (half the size,
    the same recall within a hundredth), `"binary"` one bit (a thirtieth, for 1,000 dimensions and more). The index
    then names `rescore` times `limit` candidates (default 4 for half, 20 for binary), which are put in order by
    their full vectors. Both need metric cosine. Vectors of 2,001 to 4,000 dimensions can only be indexed by one
    of them, and get `"half"` unless told otherwise; longer ones only by `"binary"`.

    On MongoDB: `quantization` is `"scalar"` (8 bits a number) or `"binary"`, and the server does the rescoring.
    `vectors` says how vectors are stored: `"float32"`, `"int8"` (whole numbers from -128 to 127) or `"bit"` (0 and
    1, in multiples of eight, with metric l2: its square is the Hamming distance). `mode` says how partitions are
    indexed: `"source"` in one index that filters by partition, `"views"` with an index of their own for large ones,
    `"fields"` with a vector field of their own in one index, `"auto"` as the deployment allows.
    """
    _within("m", m, 2, 100)
    _within("ef_construction", ef_construction, 4, 1000)
    if ef_construction < 2 * m:
        raise InputError(f"ef_construction must be at least 2 * m = {2 * m}, not {ef_construction}.")
    _within("ef_search", ef_search, 1, 1000)
    _within("min_rows", min_rows, 0, 10**9)
    return IndexSpec(
        "hnsw",
        m=m,
        ef_construction=ef_construction,
        ef_search=ef_search,
        min_rows=min_rows,
        quantization=_checked_quantization(quantization, rescore),
        rescore=rescore,
        vectors=_checked_stored(vectors),
        mode=_checked_mode(mode),
    )


def ivfflat(
    *,
    lists: int | None = None,
    probes: int | None = None,
    min_rows: int = EXACT_BELOW_ROWS,
    quantization: Quantization = "none",
    rescore: int | None = None,
) -> IndexSpec:
    """Inverted lists per partition of at least `min_rows` rows: faster to build, lower recall than HNSW.

    `lists` (1-32768) and `probes` follow the partition's size when not given. `quantization` and `rescore` as in
    `hnsw`.
    """
    if lists is not None:
        _within("lists", lists, 1, 32768)
    if probes is not None:
        _within("probes", probes, 1, 32768)
    _within("min_rows", min_rows, 0, 10**9)
    return IndexSpec(
        "ivfflat",
        lists=lists,
        probes=probes,
        min_rows=min_rows,
        quantization=_checked_quantization(quantization, rescore),
        rescore=rescore,
    )


def check_fits(spec: IndexSpec, metric: Metric) -> None:
    """Raises InputError for an index that this metric cannot use."""
    if spec.vectors == "bit" and metric is not Metric.L2:
        raise InputError(
            f"Vectors of bits need metric 'l2', not {metric.value!r}.",
            hint="Its square is the Hamming distance.",
        )
    if spec.quantization in ("half", "binary") and metric is not Metric.COSINE:
        raise InputError(
            f"quantization={spec.quantization!r} needs metric 'cosine', not {metric.value!r}: it keeps the direction "
            "of a vector, not its length.",
            hint="For vectors of unit length all three metrics give the same order, so use cosine.",
        )


def _checked_quantization(quantization: Quantization, rescore: int | None) -> Quantization:
    if quantization not in get_args(Quantization):
        raise InputError(f"quantization must be 'none', 'half', 'scalar' or 'binary', not {quantization!r}.")
    if rescore is not None:
        _within("rescore", rescore, 1, 1000)
        if quantization == "none":
            raise InputError(
                "rescore needs a quantization: a plain index orders by the full vectors.",
                hint="e.g. hnsw(quantization='binary', rescore=20)",
            )
    return quantization


def _checked_stored(vectors: Stored) -> Stored:
    if vectors not in get_args(Stored):
        raise InputError(f"vectors must be 'float32', 'int8' or 'bit', not {vectors!r}.")
    return vectors


def _checked_mode(mode: IndexMode) -> IndexMode:
    if mode not in get_args(IndexMode):
        raise InputError(f"mode must be 'auto', 'views', 'source' or 'fields', not {mode!r}.")
    return mode


def flat(*, vectors: Stored = "float32", mode: IndexMode = "auto") -> IndexSpec:
    """No approximate index: every search is exact. `vectors` and `mode` as in `hnsw`."""
    return IndexSpec("flat", vectors=_checked_stored(vectors), mode=_checked_mode(mode))


def _within(argument: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{argument} must be a whole number, not {type(value).__name__}.")
    if not low <= value <= high:
        raise InputError(f"{argument} must lie between {low} and {high:,}, not {value}.")
