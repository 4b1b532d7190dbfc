"""What to declare follows from a sample of documents and from what searches asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from svr_retrievers.filters import FieldType, normalise_metadata
from svr_retrievers.filters.advice import Analysis, FieldAdvice, Sample, advise

ROWS = 600
START = datetime(2024, 1, 1, tzinfo=UTC)


def metadata(row: int) -> dict[str, object]:
    made: dict[str, object] = {
        "topic": ("a", "b", "c")[row % 3],
        "team": row % 7,
        "when": START + timedelta(hours=row),
        "score": row / 7 if row % 2 else row,
        "source": {"kind": "web" if row % 4 else "mail"},
        "tags": [f"t{row % 9}", "all"],
        "mixed": row if row % 2 else str(row),
        "same": "x",
        "uuid": f"{row:032x}",
        "flag": row % 10 == 0,
    }
    return made | ({"rare": 1 + row % 2} if row == 5 else {})


def analysis(
    declared: dict[str, FieldType] | None = None, asked: dict[str, int] | None = None, searches: int = 0
) -> Analysis:
    """Vectors lie around one of three centres, that of the topic."""
    rng = np.random.default_rng(0)
    vectors = np.eye(3, 8)[np.arange(ROWS) % 3] * 5.0 + rng.standard_normal((ROWS, 8)) * 0.3
    documents = [normalise_metadata(metadata(row)) for row in range(ROWS)]
    sample = Sample(documents, vectors.astype(np.float32), 100 * ROWS)
    return advise("docs", sample, declared or {}, asked or {}, searches)


def of(found: Analysis, field: str) -> FieldAdvice:
    return next(f for f in found.fields if f.field == field)


@pytest.mark.parametrize(
    ("field", "type", "verdict"),
    [
        ("topic", "str", "declare"),
        ("team", "int", "declare"),
        ("when", "datetime", "declare"),
        ("score", "float", "declare"),
        ("source.kind", "str", "declare"),
        ("tags", "list[str]", "declare"),
        ("flag", "bool", "declare"),
        ("mixed", "mixed", "leave"),
        ("same", "str", "leave"),
        ("uuid", "str", "leave"),
        ("rare", "int", "leave"),
    ],
)
def test_every_field_gets_a_type_and_a_verdict(field: str, type: str, verdict: str) -> None:
    one = of(analysis(), field)
    assert (one.type, one.verdict) == (type, verdict)
    assert one.why


def test_selectivity_and_gain_are_told() -> None:
    team, flag = of(analysis(), "team"), of(analysis(), "flag")
    assert team.share == pytest.approx(1 / 7, abs=0.01)
    assert flag.share == pytest.approx(0.82, abs=0.01)
    assert team.distinct == 7
    assert team.gain_ms > 100  # 60,000 documents looked into, at 2.5 us each
    assert team.index_bytes == 600_000


def test_only_what_neighbours_share_is_a_partition_key() -> None:
    found = analysis()
    assert found.partition_keys == ("topic",)
    assert of(found, "topic").coherence == pytest.approx(1.0, abs=0.02)
    assert of(found, "team").coherence == pytest.approx(0.0, abs=0.05)
    assert of(found, "tags").coherence is None


def test_declared_fields_are_kept_unless_they_tell_nothing_or_nobody_asks() -> None:
    declared = dict.fromkeys(("topic", "same", "gone"), FieldType.STR)
    found = analysis(declared)
    assert [of(found, name).verdict for name in declared] == ["keep", "drop", "drop"]
    busy = analysis(declared, {"team": 30}, searches=30)
    assert of(busy, "topic").why == "none of 30 filtered searches asked for it"
    assert busy.fields[0].field == "team"
    assert "30 searches" in busy.fields[0].why
    assert "topic" not in busy.declare
    assert busy.declare["team"] == "int"


def test_an_empty_collection_has_nothing_to_advise() -> None:
    empty = advise("docs", Sample([], np.empty((0, 8), dtype=np.float32), 0), {}, {}, 0)
    assert (empty.fields, empty.declare, empty.partition_keys) == ((), {}, ())
