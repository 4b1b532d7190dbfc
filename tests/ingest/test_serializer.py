"""Records become texts from which every number can be read again, in an order of their own."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svr_retrievers.errors import InputError
from svr_retrievers.ingest import Serializer
from svr_retrievers.ingest.serializer import scalar

pytestmark = pytest.mark.ingest


def test_nested_records_become_lines_in_the_order_of_their_names() -> None:
    record = {"title": "Sea", "author": {"name": "Ann", "born": 1970}, "tags": ["a", "b"], "none": None,
              "parts": [{"n": 1}, {"n": 2, "x": True}]}  # fmt: skip
    text = "author.born: 1970\nauthor.name: Ann\nparts.1.n: 1\nparts.2.n: 2\nparts.2.x: true\ntags: a, b\ntitle: Sea"
    assert Serializer()(record) == text
    assert Serializer()(dict(reversed(record.items()))) == text


def test_chosen_fields_come_in_the_order_chosen() -> None:
    record = {"a": 1, "b": {"c": "x", "d": 2}, "e.f": 3}
    assert Serializer(["b", "a"])(record) == "b.c: x\nb.d: 2\na: 1"
    assert Serializer(["b.c", "e.f", "missing", "a.b"])(record) == "b.c: x\ne.f: 3"


def test_a_template_takes_names_only() -> None:
    serializer = Serializer(template="{title} by {author.name}, {{{year}}}{gone}", default="")
    assert (
        serializer({"title": "Sea", "author": {"name": "Ann"}, "year": 2**70}) == f"Sea by Ann, {{{2**70}}}"
    )
    assert (
        serializer({"title": ["a", "b"], "author": 7, "year": {"x": 1, "y": 2.5}})
        == "a, b by , {x: 1; y: 2.5}"
    )
    for bad in ("{price:.2f}", "{x!r}", "{}", "{open"):
        with pytest.raises(InputError, match="template"):
            Serializer(template=bad)


def test_a_misspelt_field_is_named_and_empties_nothing() -> None:
    record = {"name": "Kettle", "maker": {"name": "Ann"}, "note": None}
    with pytest.raises(InputError, match=r"none of the fields 'nmae', 'maker\.nmae'"):
        Serializer(["nmae", "maker.nmae"])(record)
    assert Serializer(["note"])(record) == ""
    assert Serializer([])(record) == ""
    for template in ("{name} by {maker.nmae}", "{nmae}", "{name.first}"):
        with pytest.raises(InputError, match="has no field"):
            Serializer(template=template)(record)
    assert Serializer(template="{name}: {note}{gone}", default="?")(record) == "Kettle: ??"
    assert Serializer(template="{name}: {note}")(record) == "Kettle: "
    assert repr(Serializer(template="{a}", default="")) == "Serializer(template='{a}', default='')"
    for wrong in ({"default": ""}, {"fields": ["a"], "default": ""}, {"template": "{a}", "default": 0}):
        with pytest.raises(InputError, match="default"):
            Serializer(**wrong)


@given(st.integers() | st.integers(min_value=2**53, max_value=2**200))
def test_whole_numbers_keep_all_digits(number: int) -> None:
    assert int(scalar(number)) == number


def test_numbers_of_any_length() -> None:
    assert scalar(10**5000 + 7) == "1" + "0" * 4999 + "7"
    assert scalar(-(10**5000)) == "-1" + "0" * 5000


@given(st.floats(allow_nan=False))
def test_floats_can_be_read_again(number: float) -> None:
    assert float(scalar(number)) == number
    assert float(scalar(np.float64(number))) == number


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_short_floats_as_short_as_they_are(number: float) -> None:
    assert np.float32(scalar(np.float32(number))) == np.float32(number)


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_decimals_keep_their_zeros(number: Decimal) -> None:
    assert Decimal(scalar(number)).as_tuple() == number.as_tuple()


@given(st.datetimes(timezones=st.just(UTC)) | st.datetimes())
def test_times_are_iso(moment: datetime) -> None:
    assert datetime.fromisoformat(scalar(moment)) == moment


@given(st.timedeltas())
def test_durations_keep_their_microseconds(span: timedelta) -> None:
    seconds, unit = scalar(span).split()
    whole = Decimal(seconds) * 1_000_000
    assert (unit, int(whole)) == ("s", span // timedelta(microseconds=1))


def test_other_values() -> None:
    assert [scalar(v) for v in (True, np.bool_(False), np.int64(7), b"\x00\xff", date(2024, 2, 1))] == [
        "true", "false", "7", "AP8=", "2024-02-01"]  # fmt: skip
    assert scalar(uuid.UUID(int=1)) == "00000000-0000-0000-0000-000000000001"
    assert Serializer()({"v": np.array([0.5, 0.25])}) == "v: 0.5, 0.25"


def test_what_has_no_text_is_named() -> None:
    with pytest.raises(InputError, match=r"x\.y holds a function"):
        Serializer()({"x": {"y": lambda: 0}})
    endless: dict = {}
    endless["again"] = endless
    with pytest.raises(InputError, match="contains itself"):
        Serializer()(endless)
    for wrong in ({"fields": "title"}, {"fields": ["a"], "template": "{a}"}):
        with pytest.raises(InputError):
            Serializer(**wrong)
