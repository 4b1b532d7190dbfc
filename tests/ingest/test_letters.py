"""The dead-letter file survives kills, odd values and being replayed into itself."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from svr_retrievers import Document, SVRClient
from svr_retrievers.errors import InputError
from svr_retrievers.ingest import (
    IngestPipeline,
    Read,
    Reader,
    Refusal,
    Unreadable,
    read_csv,
    read_jsonl,
    replay,
    report,
)
from svr_retrievers.ingest.letters import DeadLetters
from svr_retrievers.ingest.report import Tally

pytestmark = pytest.mark.ingest


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "refused.jsonl"


def test_a_document_comes_back_as_it_was(file) -> None:
    given = Document("a", "text\n", {"x": {"y": [1, 2**70, None]}}, np.array([0.5, 0.25]), "space")
    DeadLetters(file).write(Refusal("a", "f.csv:3", "document", "why", given))
    [item] = replay(file)
    assert isinstance(item, Read)
    assert (item.place, item.document) == (
        "f.csv:3",
        Document("a", "text\n", given.metadata, [0.5, 0.25], "space"),
    )


def test_values_that_json_has_no_word_for(file) -> None:
    moment = datetime(2024, 1, 2)
    given = Document(
        "a", "\ud800", {"s": {1}, "t": moment, 7: object, "n": np.float32(0.5), "f": float("nan")}
    )
    DeadLetters(file).write(Refusal("a", "", "document", "why", given))
    [item] = replay(file)
    assert item.document.metadata["t"] == moment.isoformat()
    assert (item.document.text, item.document.metadata["n"], item.document.metadata["s"]) == (
        "\ud800",
        0.5,
        [1],
    )


@pytest.mark.parametrize("torn", ['{"code": "x", "docu', "x" * 200_000, "\n"])
def test_a_line_that_a_kill_cut_off_is_gone(file, torn) -> None:
    DeadLetters(file).write(Refusal("a", "", "c", "m", Document("a")))
    with file.open("a") as opened:
        opened.write(torn)
    DeadLetters(file).write(Refusal("b", "", "c", "m", Document("b")))
    lines = [line for line in file.read_text().splitlines() if line]
    assert [json.loads(line)["document"]["id"] for line in lines] == ["a", "b"]


def test_a_file_of_one_torn_line_begins_anew(file) -> None:
    file.write_text("x" * 100_000)
    DeadLetters(file).write(Refusal("a", "", "c", "m", Document("a")))
    assert len(file.read_text().splitlines()) == 1


def test_replaying_into_the_same_file_ends(file) -> None:
    with SVRClient("memory://") as client:
        pipeline = IngestPipeline(
            client.create_collection("c", dimensions=2), dead_letters=file, progress=False
        )
        pipeline.run([Document(f"d{n}", "x") for n in range(50)])
        assert pipeline.run(replay(file)).read == 50
        assert len(file.read_text().splitlines()) == 100
        assert pipeline.run(replay(file)).read == 50


def test_what_could_not_be_read_is_refused_again_until_it_is_mended(file) -> None:
    DeadLetters(file).write(Refusal("", "f.jsonl:3", "unreadable", "not JSON", raw='{"id": "a", "text": "x"'))
    [item] = replay(file)
    assert item == Unreadable("f.jsonl:3", "not JSON", "", '{"id": "a", "text": "x"')
    letter = json.loads(file.read_text())
    file.write_text(json.dumps({**letter, "raw": letter["raw"] + "}"}) + "\n" + "[1]\n" + "no letter\n")
    mended, other, none = replay(file)
    assert mended.document.id == "a"
    assert isinstance(other, Unreadable)
    assert "no dead letter" in none.message


def test_where_nothing_can_be_written(tmp_path) -> None:
    for bad in (tmp_path, tmp_path / "none" / "f.jsonl"):
        with pytest.raises(InputError, match="cannot be written"):
            DeadLetters(bad)
    with pytest.raises(InputError, match="does not exist"):
        replay(tmp_path / "none")


def test_a_report_holds_only_so_much(monkeypatch) -> None:
    monkeypatch.setattr(report, "KEPT", 5)
    monkeypatch.setattr(report, "KEPT_CHARACTERS", 25)
    tally = Tally()
    for n in range(9):
        tally.refuse(Refusal(str(n), "", "c", "m", Document(str(n), "x" * 10)))
    made = tally.report(1.0)
    assert made.refused == 9
    assert [refusal.document is not None for refusal in made.refusals] == [True, True, False, False, False]
    assert "and 4 more" in made._repr_html_()


def test_a_text_that_is_none_is_refused_and_kept(file) -> None:
    with SVRClient("memory://") as client:
        pipeline = IngestPipeline(
            client.create_collection("c", dimensions=2), dead_letters=file, progress=False
        )
        made = pipeline.run(
            [Document("a", 7), Document(8, "x"), Document("b", "x", [1]), Document("c", None)]
        )  # type: ignore[arg-type]
        assert [refusal.id for refusal in made.refusals] == ["a", "8", "b", "c"]
        assert len(file.read_text().splitlines()) == 4


def test_what_was_refused_is_refused_again_when_replayed_as_it_is(file) -> None:
    """Not taken for a record that leaves its text or metadata out."""
    vector = [1.0, 0.0]
    odd = [Document("n", None), Document("m", "x", None, vector), Document("l", "x", [1], vector)]
    with SVRClient("memory://") as client:
        collection = client.create_collection("c", dimensions=2)
        pipeline = IngestPipeline(collection, dead_letters=file, progress=False)
        assert pipeline.run(odd).refused == 3  # type: ignore[arg-type]
        again = pipeline.run(replay(file))
        assert ([refusal.id for refusal in again.refusals], collection.count()) == (["n", "m", "l"], 0)
        first = file.read_text().splitlines()[1]
        file.write_text(first.replace("null", "{}") + "\n")
        assert pipeline.run(replay(file)).written == 1


def endless() -> dict[str, object]:
    made: dict[str, object] = {}
    made["itself"] = made
    return made


class Mute:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "document",
    [
        Document(b"a", "text"),
        Document("a", b"text"),
        Document("a", "text", namespace=b"n"),
        Document("a", "text", endless()),
        Document("a", "text", {"n": 10**5000}),
        Document("a", "text", {"n": Mute(), Mute(): 1}),
    ],
    ids=["id", "text", "namespace", "endless", "huge", "mute"],
)
def test_no_refused_document_stops_a_run_because_json_cannot_hold_it(file, document) -> None:
    with SVRClient("memory://") as client:
        collection = client.create_collection("c", dimensions=2)
        given = [document, Document("fine", "text", vector=[1.0, 0.0])]
        told = IngestPipeline(collection, dead_letters=file, progress=False).run(given)
    assert (told.refused, told.written, len(list(replay(file)))) == (1, 1, 1)


def test_letters_hold_all_of_a_record_and_are_kept_apart(file, tmp_path) -> None:
    """Also where no id could be found in it; such letters are read again under other names of fields."""
    source = tmp_path / "rows.jsonl"
    records = [{"sku": n, "body": "long " * 1000, "price": 1.5} for n in (1, 2)]
    source.write_text("".join(json.dumps(record) + "\n" for record in records) + "{torn" + "x" * 5000)
    with SVRClient("memory://") as client:
        collection = client.create_collection("c", dimensions=2)
        pipeline = IngestPipeline(collection, dead_letters=file, progress=False)
        told = pipeline.run(read_jsonl(source))
        assert max(len(refusal.raw) for refusal in told.refusals) == 2000
        letters = [json.loads(line) for line in file.read_text().splitlines()]
        assert [json.loads(letter["raw"]) for letter in letters[:2]] == records
        assert letters[2]["raw"] == "{torn" + "x" * 5000
        first, second, torn = replay(file, id="sku", text="body", metadata=["price"])
        assert [(d.document.id, d.document.metadata) for d in (first, second)] == [
            ("1", {"price": 1.5}),
            ("2", {"price": 1.5}),
        ]
        assert torn == Unreadable("rows.jsonl:3", torn.message, "", letters[2]["raw"])
        assert pipeline.run(replay(file)).refused == 3
        assert len(list(replay(file))) == 3


def test_letters_about_different_places_are_different(file) -> None:
    letters = DeadLetters(file)
    for place in ("a.pdf", "b.pdf", "a.pdf"):
        letters.write(Refusal("", place, "unreadable", "damaged"))
    letters.write(Refusal("", "f:1", "unreadable", "why", raw='{"text": "x"}'))
    letters.write(Refusal("", "f:2", "unreadable", "why", raw='{"text": "x"}'))
    assert [item.place for item in replay(file)] == ["a.pdf", "b.pdf", "f:1", "f:2"]


def test_what_map_failed_on_comes_back_as_it_was_before(file) -> None:
    def fail(document: Document) -> Document:
        raise KeyError(document.id)

    source = Reader("given", lambda: iter([Read(Document("a", "x", {"n": 1}), "p")])).map(fail)
    [refused] = source
    DeadLetters(file).write(
        Refusal(refused.id, refused.place, refused.code, refused.message, raw=refused.raw)
    )
    [item] = replay(file)
    assert item.document == Document("a", "x", {"n": 1})


def test_a_row_of_csv_is_refused_until_it_is_mended(file, tmp_path) -> None:
    """Its cells as text are not what the column shall hold."""
    (tmp_path / "rows.csv").write_text('id,text,year\n1,"a, b",soon\n2,c\n')
    with SVRClient("memory://") as client:
        pipeline = IngestPipeline(
            client.create_collection("c", dimensions=2), dead_letters=file, progress=False
        )
        pipeline.run(read_csv(tmp_path / "rows.csv", types={"year": int}))
        raws = [json.loads(json.loads(line)["raw"]) for line in file.read_text().splitlines()]
        assert raws == [["1", "a, b", "soon"], ["2", "c"]]
        assert pipeline.run(replay(file)).refused == 2
