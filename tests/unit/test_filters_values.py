"""Metadata on its way into the store: what is converted, what is refused, and where it was."""

from __future__ import annotations

import enum
import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svr_retrievers.errors import InputError
from svr_retrievers.filters import FieldType, normalise_metadata, typed_value


class Colour(enum.StrEnum):
    RED = "red"


class Legacy(str, enum.Enum):  # noqa: UP042 - its str() is not its value, which is the point
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (1.5, 1.5),
        ("ünï\n", "ünï\n"),
        ((1, (2,)), [1, [2]]),
        ({"a": {"b": ()}}, {"a": {"b": []}}),
        (datetime(2024, 1, 2, 3, 4, 5, 6), "2024-01-02T03:04:05.000006Z"),
        (datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=2))), "2023-12-31T23:00:00.000000Z"),
        (datetime(5, 1, 1, tzinfo=UTC), "0005-01-01T00:00:00.000000Z"),
        (date(5, 1, 2), "0005-01-02"),
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int8(3), 3),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.longdouble(0.5), None),
        (Colour.RED, "red"),
        (Legacy.RED, "red"),
        (Level.HIGH, 3),
    ],
)
def test_values_take_their_json_form(value: object, stored: object) -> None:
    if isinstance(value, np.longdouble):
        with pytest.raises(InputError, match="longdouble"):
            normalise_metadata({"k": value})
        return
    result = normalise_metadata({"k": value})["k"]
    assert result == stored
    assert type(result) is type(stored)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"a": {"b": [1, float("nan")]}}, ["metadata['a']['b'][1]", "nan"]),
        ({"a": float("-inf")}, ["metadata['a']", "-inf"]),
        ({"a": np.float32("inf")}, ["metadata['a']", "inf"]),
        ({"a": "x\0"}, ["metadata['a']", "NUL"]),
        ({"a": "\udc00"}, ["metadata['a']", "surrogate"]),
        ({"a\0": 1}, ["NUL"]),
        ({"\ud800": 1}, ["surrogate"]),
        ({"a": {1: 2}}, ["metadata['a'][1]", "key that is an int 1"]),
        ({None: 2}, ["key that is null"]),
        ({"a": {1, 2}}, ["metadata['a']", "set", "sorted(value)"]),
        ({"a": b"x"}, ["metadata['a']", "bytes", "base64"]),
        ({"a": np.zeros(2)}, ["ndarray", "tolist"]),
        ({"a": Decimal("1.5")}, ["Decimal", "float(value)"]),
        ({"a": object()}, ["metadata['a']", "an object"]),
        ({"a": 1 << 1024}, ["metadata['a']", "1024 bits"]),
        ({"a": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))}, ["metadata['a']", "years 1 to 9999"]),
        ([("a", 1)], ["metadata is a list"]),
        (None, ["metadata is null"]),
    ],
)
def test_refusals_name_the_path_and_the_reason(metadata: Any, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        normalise_metadata(metadata)
    assert [word for word in words if word not in str(caught.value)] == []


def test_cycles_and_deep_nesting_are_refused_and_a_hundred_levels_are_not() -> None:
    cycle: dict[str, Any] = {}
    cycle["self"] = cycle
    with pytest.raises(InputError, match="100 levels"):
        normalise_metadata(cycle)
    deep: Any = 1
    for _ in range(99):
        deep = [deep]
    assert json.dumps(normalise_metadata({"a": deep})).count("[") == 99
    with pytest.raises(InputError, match="100 levels"):
        normalise_metadata({"a": [deep]})


def test_the_result_is_a_copy() -> None:
    given_ = {"a": [1], "b": {"c": 1}}
    result = normalise_metadata(given_)
    assert result == given_
    assert result is not given_
    assert result["a"] is not given_["a"]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_what_is_accepted_survives_json_and_a_second_pass(metadata: dict[str, Any]) -> None:
    try:
        stored = normalise_metadata(metadata)
    except InputError:
        assert "\\u0000" in json.dumps(metadata) or "\\ud" in json.dumps(metadata)
        return
    assert stored == metadata
    assert json.loads(json.dumps(stored, ensure_ascii=False).encode()) == stored
    assert normalise_metadata(stored) == stored


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (FieldType.INT, 3, 3),
        (FieldType.INT, 3.0, 3),
        (FieldType.INT, np.int64(3), 3),
        (FieldType.INT, -(2**63), -(2**63)),
        (FieldType.FLOAT, 3, 3.0),
        (FieldType.FLOAT, 10**400 // 10**100, 1e300),
        (FieldType.STR, "x", "x"),
        (FieldType.STR, date(2024, 1, 1), "2024-01-01"),
        (FieldType.BOOL, False, False),
        (FieldType.DATETIME, "2024-01-01", datetime(2024, 1, 1, tzinfo=UTC)),
        (FieldType.DATETIME, date(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC)),
        (FieldType.DATETIME, datetime(2024, 1, 1, 5), datetime(2024, 1, 1, 5, tzinfo=UTC)),
        (FieldType.LIST_STR, ("a", "b"), ["a", "b"]),
        (FieldType.LIST_INT, [1, 2.0], [1, 2]),
        (FieldType.LIST_FLOAT, [1, 2.5], [1.0, 2.5]),
        (FieldType.LIST_STR, [], []),
        (FieldType.INT, None, None),
    ],
)
def test_typed_values(kind: FieldType, value: object, expected: object) -> None:
    for metadata in ({"x.y": value}, normalise_metadata({"x.y": value})):
        result = typed_value("x.y", kind, metadata)
        assert result == expected
        assert type(result) is type(expected)


def test_a_missing_field_has_no_typed_value() -> None:
    assert all(typed_value("x", kind, {"y": 1}) is None for kind in FieldType)


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        (FieldType.INT, True, "not an integer"),
        (FieldType.INT, "3", "not an integer"),
        (FieldType.INT, 3.5, "not an integer"),
        (FieldType.INT, 2**63, "64-bit"),
        (FieldType.INT, 1e300, "64-bit"),
        (FieldType.INT, [3], "not an integer"),
        (FieldType.FLOAT, True, "not a number"),
        (FieldType.FLOAT, "1.5", "not a number"),
        (FieldType.FLOAT, 2**1024 - 1, "range of a float"),
        (FieldType.STR, 3, "not text"),
        (FieldType.STR, {"a": 1}, "not text"),
        (FieldType.BOOL, 1, "not a boolean"),
        (FieldType.DATETIME, "soon", "ISO 8601"),
        (FieldType.DATETIME, 1704067200, "not a date"),
        (FieldType.DATETIME, "0001-01-01T00:00:00+05:00", "years 1 to 9999"),
        (FieldType.LIST_STR, "a", "not a list"),
        (FieldType.LIST_STR, ["a", None], "not text"),
        (FieldType.LIST_STR, ["a", 1], "not text"),
        (FieldType.LIST_INT, [[1]], "not an integer"),
        (FieldType.LIST_FLOAT, [True], "not a number"),
        (FieldType.LIST_FLOAT, [float("nan")], "nan"),
    ],
)
def test_values_of_another_class_are_refused_by_name(kind: FieldType, value: object, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        typed_value("size", kind, {"size": value})
    assert "'size'" in str(caught.value)
    assert f"declared {kind}" in str(caught.value)
    assert reason in str(caught.value)
