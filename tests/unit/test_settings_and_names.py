"""Settings from every source in their order, secrets that stay hidden, and names that stay apart."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from pydantic import ValidationError

from svr_retrievers import Settings, flat, hnsw, ivfflat
from svr_retrievers.backends.indexes import IndexSpec
from svr_retrievers.errors import ConfigError, InputError, InvalidName
from svr_retrievers.names import (
    MAX_KEY_BYTES,
    check_key,
    check_name,
    check_text,
    column_for,
    stable_hash,
    table_for,
)
from svr_retrievers.settings import redact

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    import os

    for name in list(os.environ):
        if name.upper().startswith("SVR_"):
            monkeypatch.delenv(name)


@pytest.fixture
def toml(tmp_path):
    def write(body):
        file = tmp_path / "svr.toml"
        file.write_bytes(body if isinstance(body, bytes) else body.encode())
        return file

    return write


def test_keywords_beat_environment_beats_file_beats_preset_beats_defaults(monkeypatch, toml):
    assert Settings.load().timeout_seconds == 30.0
    assert Settings.load(preset="production").timeout_seconds == 10.0
    file = toml("[svr]\ntimeout_seconds = 7\n")
    assert Settings.load(preset="production", file=file).timeout_seconds == 7.0
    assert Settings.load(preset="production", file=file).pool_max_connections == 20
    monkeypatch.setenv("SVR_TIMEOUT_SECONDS", "5")
    assert Settings.load(preset="production", file=file).timeout_seconds == 5.0
    assert Settings.load(preset="production", file=file, timeout_seconds=3).timeout_seconds == 3.0
    assert Settings.load(preset="production", file=file, timeout_seconds=None).timeout_seconds == 5.0
    assert Settings().timeout_seconds == 5.0


def test_the_environment_wins_in_any_case_of_its_names(monkeypatch, toml):
    monkeypatch.setenv("svr_timeout_seconds", "5")
    assert Settings.load(file=toml("timeout_seconds = 7")).timeout_seconds == 5.0


def test_a_file_named_by_the_environment(monkeypatch, toml):
    monkeypatch.setenv("SVR_CONFIG_FILE", str(toml("db_schema = 'mine'\n")))
    assert Settings.load().db_schema == "mine"
    monkeypatch.setenv("SVR_CONFIG_FILE", "")
    assert Settings.load().db_schema == "svr"
    monkeypatch.setenv("SVR_CONFIG_FILE", "/nowhere/svr.toml")
    with pytest.raises(ConfigError, match=r"/nowhere/svr\.toml.*cannot be read"):
        Settings.load()


@pytest.mark.parametrize("body", ["a = ", b"\xff\xfe", "svr = 3", "[svr]\ntimeout = 3", "other = 1"])
def test_a_file_that_cannot_be_used_is_an_error(toml, body):
    with pytest.raises(ConfigError):
        Settings.load(file=toml(body))


def test_a_folder_is_no_settings_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        Settings.load(file=tmp_path)


@pytest.mark.parametrize(
    "given",
    [
        {"timeout_seconds": 0},
        {"timeout_seconds": "soon"},
        {"timeout_seconds": float("nan")},
        {"pool_max_connections": 0},
        {"db_schema": ""},
        {"db_schema": "x" * 64},
        {"fan_out_concurrency": 0},
        {"build_memory_megabytes": 15},
        {"unknown": 1},
    ],
)
def test_bad_values_name_the_setting(given):
    with pytest.raises(ConfigError, match=next(iter(given))) as caught:
        Settings.load(**given)
    assert "Known settings" in caught.value.hint


def test_bad_values_in_the_environment_and_unknown_presets(monkeypatch):
    with pytest.raises(InputError, match="production"):
        Settings.load(preset="huge")
    monkeypatch.setenv("SVR_TIMEOUT_SECONDS", "-1")
    with pytest.raises(ConfigError, match="timeout_seconds"):
        Settings.load()


@pytest.mark.parametrize("preset", ["minimal", "development", "production"])
def test_every_preset_can_be_loaded(preset):
    made = Settings.load(preset=preset)
    assert made.pool_min_connections <= made.pool_max_connections


def test_secrets_stay_hidden():
    made = Settings.load(url=f"postgresql://me:{SECRET}@host/db")
    for shown in (repr(made), str(made), made.model_dump_json(), f"{made.model_dump()}"):
        assert SECRET not in shown
    assert made.url is not None
    assert made.url.get_secret_value().endswith("@host/db")
    with pytest.raises(ValidationError):
        made.url = None


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}@host/db",
        f"postgresql://me:{SECRET}@host:5432/db?sslmode=require",
        f"postgresql://me:a@{SECRET}@host/db",
        f"postgresql://me:a/{SECRET}@host/db",
        f"postgresql://me:{SECRET}/b@host/db",
        f"postgresql://me:a:{SECRET}:@host/db",
        f"postgresql://me:%40{SECRET}%2F@host/db",
        f"postgresql://me:a?{SECRET}@host/db",
        f"postgresql://me:a#{SECRET}@host/db",
        f"postgresql://:{SECRET}@host/db",
        f"postgresql://me:{SECRET}@a,b:5433/db",
        f"postgresql://host/db?user=me&password={SECRET}",
        f"postgresql://host/db?PASSWORD={SECRET}",
        f"postgresql://host?password={SECRET}",
        f"postgresql://?password={SECRET}&host=h",
        f"postgresql://host:5432/db?password=p@{SECRET}",
        f"postgresql://host/db?pass%77ord={SECRET}",
        f"postgresql://host/db?sslpassword={SECRET}",
        f"host=h password={SECRET} dbname=d",
        f"host=h password='a b {SECRET}'",
        f"password={SECRET}",
        f"mysql://me:{SECRET}@host/db",
    ],
)
def test_a_password_is_never_shown(url):
    assert SECRET not in redact(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://host/db",
        "postgresql://me@host:5432/db?sslmode=require",
        "memory://",
        "postgresql://[::1]:5432/d",
    ],
)
def test_what_holds_no_password_is_shown_as_it_is(url):
    assert redact(url) == url


def test_the_rest_of_the_url_stays_readable():
    assert redact(f"postgresql://me:{SECRET}@host:5432/db") == "postgresql://me:***@host:5432/db"


@given(st.lists(st.text(max_size=80), min_size=1, max_size=30))
def test_columns_of_different_fields_are_different_identifiers(fields):
    columns = [column_for(field, position) for position, field in enumerate(fields)]
    assert len(set(columns)) == len(columns)
    for column in columns:
        assert column.isascii()
        assert column.replace("_", "").isalnum()
        assert len(column.encode()) <= 63


@given(st.text(), st.text(), st.integers(0, 300), st.integers(0, 300))
def test_columns_are_told_apart_by_position_alone(one, other, here, there):
    assert (column_for(one, here) == column_for(other, there)) <= (here == there)


def test_columns_are_readable():
    assert column_for("Größe (cm)", 3) == "f3_gro_e_cm"
    assert column_for("日本", 3) == "f3"
    assert table_for(12, "documents") == "c12_documents"


@given(st.text())
def test_a_stable_hash_is_64_bits(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert 0 <= stable_hash(text) < 2**64


@pytest.mark.parametrize(
    "wrong", [None, 3, b"a", "", " \t", "a\x00", "\ud800", "x" * 201, "a\nb", "a\u2028b", "\x7f"]
)
def test_names_that_are_none(wrong):
    with pytest.raises(InvalidName) as caught:
        check_name(wrong, "name")
    assert caught.value.code == "name"
    assert "name" in str(caught.value)


@pytest.mark.parametrize("right", ["a", "select", "x" * 200, 'a"b; drop table', "Größe", "日本", "a b", "🎉"])
def test_names_are_any_printable_text(right):
    assert check_name(right, "name") == right


def test_keys_are_bounded_in_bytes():
    assert check_key("é" * (MAX_KEY_BYTES // 2), "id")
    for wrong in ("", "é" * (MAX_KEY_BYTES // 2 + 1), None, "\ud800"):
        with pytest.raises(InputError, match="id"):
            check_key(wrong, "id")
    assert check_text("", "text") == ""


@pytest.mark.parametrize(
    "spec",
    [hnsw(), hnsw(m=8, ef_construction=32, ef_search=9, min_rows=0), ivfflat(lists=3, probes=2), flat()],
)
def test_index_settings_survive_json(spec):
    assert IndexSpec.from_json(spec.to_json()) == spec


def test_lists_and_probes_follow_the_size():
    assert [ivfflat().lists_for(n) for n in (0, 10_000, 500_000, 4_000_000)] == [10, 10, 500, 2000]
    assert ivfflat(lists=7).lists_for(10**6) == 7
    assert ivfflat().probes_for(500_000) == 22
    assert ivfflat(probes=5).probes_for(1) == 5


@pytest.mark.parametrize(
    "make",
    [
        lambda: hnsw(m=1),
        lambda: hnsw(m=101),
        lambda: hnsw(m=40),
        lambda: hnsw(ef_construction=1001),
        lambda: hnsw(ef_search=0),
        lambda: hnsw(min_rows=-1),
        lambda: hnsw(m=True),
        lambda: hnsw(m="16"),
        lambda: ivfflat(lists=0),
        lambda: ivfflat(probes=32769),
        lambda: ivfflat(min_rows=1.0),
    ],
)
def test_index_settings_out_of_range(make):
    with pytest.raises(InputError):
        make()
