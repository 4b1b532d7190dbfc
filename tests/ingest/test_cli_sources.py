"""What `svr ingest` reads of several paths: no document takes another's place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from svr_retrievers.cli.ingest_sources import Reading, one_after_the_other, open_sources, types_of
from svr_retrievers.errors import InputError
from svr_retrievers.ingest import Read, Unreadable
from svr_retrievers.ingest.letters import DeadLetters, Refusal

pytestmark = pytest.mark.ingest


def records(path: Path, *ids: str) -> Path:
    path.write_text("".join(json.dumps({"id": each, "text": path.stem}) + "\n" for each in ids))
    return path


def test_an_id_of_an_earlier_source_is_refused_and_kept_as_it_was(tmp_path) -> None:
    one, two = records(tmp_path / "one.jsonl", "a", "b", "a"), records(tmp_path / "two.jsonl", "b", "c")
    items = list(one_after_the_other(open_sources([one, two], Reading())))
    assert [item.document.id for item in items if isinstance(item, Read)] == ["a", "b", "a", "c"]
    [refused] = [item for item in items if isinstance(item, Unreadable)]
    assert (refused.id, refused.place, refused.code) == ("b", "two.jsonl:1", "taken")
    assert "one.jsonl" in refused.message
    letters = tmp_path / "letters.jsonl"
    DeadLetters(letters).write(Refusal(refused.id, refused.place, "taken", refused.message, raw=refused.raw))
    [again] = one_after_the_other(open_sources([letters], Reading("dead-letters")))
    assert isinstance(again, Unreadable)
    assert json.loads(again.raw) == [{"id": "b", "text": "two", "metadata": {}}]


def test_a_prefix_stands_before_every_id(tmp_path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("text")
    paths = [tmp_path / "docs", records(tmp_path / "one.jsonl", "b")]
    items = list(one_after_the_other(open_sources(paths, Reading(id_prefix="p-"))))
    assert [item.document.id for item in items] == ["p-a.md", "p-b"]


def test_letters_are_read_by_the_names_of_fields_given(tmp_path) -> None:
    letters = tmp_path / "letters.jsonl"
    DeadLetters(letters).write(Refusal("", "f:1", "input", "no id", raw='{"sku": 7, "body": "x"}'))
    [item] = one_after_the_other(open_sources([letters], Reading("dead-letters", "sku", "body")))
    assert (item.document.id, item.document.text) == ("7", "x")


def test_an_encoding_is_for_files_of_text(tmp_path) -> None:
    (tmp_path / "f.csv").write_bytes("id,text\n1,caf\u00e9\n".encode("latin-1"))
    (tmp_path / "f.txt").write_bytes("caf\u00e9".encode("latin-1"))
    paths = [tmp_path / "f.csv", tmp_path / "f.txt"]
    items = one_after_the_other(open_sources(paths, Reading(encoding="latin-1")))
    assert [item.document.text for item in items] == ["caf\u00e9"] * 2


def test_columns_of_csv_have_types(tmp_path) -> None:
    (tmp_path / "f.csv").write_text("id,text,year,price\n1,a,2020,1.5\n")
    reading = Reading(types=["year=int", "price=float"])
    [item] = one_after_the_other(open_sources([tmp_path / "f.csv"], reading))
    assert item.document.metadata == {"year": 2020, "price": 1.5}
    for wrong in ("year", "year=date", "=int"):
        with pytest.raises(InputError, match="is none"):
            types_of([wrong])


@pytest.mark.parametrize(
    ("reading", "told"),
    [
        (Reading(encoding="latin-1"), "--encoding"),
        (Reading("dead-letters", id_prefix="p"), "--id-prefix"),
        (Reading(types=["year=int"]), "--types"),
    ],
)
def test_what_says_nothing_about_a_file_is_refused(tmp_path, reading, told) -> None:
    with pytest.raises(InputError, match=told):
        open_sources([records(tmp_path / "one.jsonl", "a")], reading)
