"""Chooses how the matches of a filter are found in each partition: one by one, or through its index. PURE.

An index orders rows by distance and knows nothing of the filter, so it visits `1 / share` rows for each
match. A scan of the matches computes each one's distance, so it costs as much as there are matches.
Both are priced in microseconds, and each partition takes what is cheaper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, TypeAlias

from svr_retrievers.model import JsonValue

MEASURED_DIMENSIONS = 384
OVERFETCH = 3
"""A filtered index scan goes on in batches whose matches may be closer than those of the batches before.
Measured at 1 % selectivity over four graphs of 7,500 rows: recall@10 is 0.968 without, 0.988 with 2, 0.993 with 3."""


@dataclass(frozen=True, slots=True)
class ScanCosts:
    """Microseconds of the steps of a search. The defaults were measured with 384 dimensions on PostgreSQL 18."""

    row: float = 0.2
    """A row read in passing and dropped by the filter."""
    match: float = 0.5
    """A match found through the field's B-tree, its distance included."""
    document: float = 2.5
    """A look into a document's metadata, for a condition on an undeclared field."""
    probe: float = 500.0
    """The first batch of an HNSW graph: `ef_search` rows."""
    visit: float = 6.0
    """A further row of the graph."""

    @staticmethod
    def for_dimensions(dimensions: int) -> ScanCosts:
        """The defaults, with what reads vectors in proportion to their length."""
        scale = 0.4 + 0.6 * dimensions / MEASURED_DIMENSIONS
        plain = ScanCosts()
        return ScanCosts(
            row=plain.row * scale,
            match=plain.match * scale,
            probe=plain.probe * scale,
            visit=plain.visit * scale,
        )

    def to_json(self) -> dict[str, JsonValue]:
        return {name: round(float(cost), 4) for name, cost in asdict(self).items()}

    @staticmethod
    def of_json(body: Mapping[str, JsonValue]) -> ScanCosts:
        """Steps that the release which measured did not know keep their default."""
        known = {f.name for f in fields(ScanCosts)}
        return ScanCosts(**{name: float(str(cost)) for name, cost in body.items() if name in known})


@dataclass(frozen=True, slots=True)
class Estimates:
    """What is known of a search's filter in each partition it goes to.

    `shares`: the part of the rows expected to match. `reads`: the part that must be looked at one by one,
    which is what the declared conditions leave, where the filter asks for undeclared fields as well.
    """

    shares: Mapping[int, float]
    reads: Mapping[int, float]
    led_by_value: bool = False
    """Whether an index finds few rows by one field's value, so that a plan made for any value is good."""
    costs: ScanCosts | None = None


IndexKind: TypeAlias = Literal["hnsw", "ivfflat", "none"]


@dataclass(frozen=True, slots=True)
class Part:
    """A partition as the choice sees it. `share`: of its rows, the estimated part that the filter lets pass.

    `read`: the part of its rows that must be looked at one by one where undeclared fields are asked for,
    which is what the declared conditions leave. `list_rows`: how many rows the first IVFFlat lists hold.
    """

    rows: int
    share: float
    index: IndexKind
    read: float = 0.0
    list_rows: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """Which partitions are searched exactly and which through their index.

    `matches`: how many rows are expected to be compared in the exact ones.
    """

    exact: tuple[int, ...]
    indexed: tuple[int, ...]
    matches: float
    note: str


def choose(
    parts: Mapping[int, Part], *, limit: int, ef_search: int, most_visited: int, costs: ScanCosts
) -> Choice:
    """`most_visited` is where the server ends an index scan: one that would end there is not chosen."""
    exact: list[int] = []
    indexed: list[int] = []
    matches, spent = 0.0, 0.0
    need = 1 + OVERFETCH * limit / max(1, len(parts))
    for number, part in parts.items():
        one_by_one = exact_cost(part, costs)
        through = index_cost(part, need, ef_search, most_visited, costs)
        if through is None or one_by_one <= through:
            exact.append(number)
            matches += part.rows * part.share
            spent += one_by_one
        else:
            indexed.append(number)
            spent += through
    filled = sum(parts[number].rows > 0 for number in exact)
    return Choice(tuple(exact), tuple(indexed), matches, _note(filled, len(indexed), matches, spent))


def exact_cost(part: Part, costs: ScanCosts) -> float:
    """Through the B-tree while few rows match; from some share on the server reads all rows in passing."""
    matches = part.rows * part.share
    looked_at = part.rows * part.read
    through_index = max(matches, looked_at) * costs.match
    in_passing = part.rows * costs.row + matches * max(0.0, costs.match - costs.row)
    return min(through_index, in_passing) + looked_at * costs.document


def index_cost(part: Part, need: float, ef_search: int, most_visited: int, costs: ScanCosts) -> float | None:
    """None where there is no index, or it would give up before it has found enough."""
    if part.index == "none":
        return None
    visited = need / max(part.share, 1e-9)
    if visited > min(most_visited, part.rows):
        return None
    looked_at = costs.document if part.read else 0.0
    if part.index == "ivfflat":
        return max(visited, part.list_rows) * (costs.match + looked_at)
    return costs.probe + max(0.0, visited - ef_search) * costs.visit + visited * looked_at


def _note(few: int, many: int, matches: float, spent: float) -> str:
    ways = []
    if few:
        ways.append(f"exact over about {matches:,.0f} matching rows in {_counted(few)}")
    if many:
        ways.append(f"through the index of {_counted(many)}, going on until enough rows match")
    return f"{'; '.join(ways)} (estimated {spent / 1e3:.1f} ms)" if ways else ""


def _counted(partitions: int) -> str:
    return "1 partition" if partitions == 1 else f"{partitions:,} partitions"
