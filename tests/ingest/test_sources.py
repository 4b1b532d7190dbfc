"""Readers yield every good record, and every bad one with its place, whatever the file looks like."""

from __future__ import annotations

import codecs
import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svr_retrievers import Document
from svr_retrievers.errors import InputError, MissingExtra
from svr_retrievers.ingest import Read, Unreadable, json_stream, read_csv, read_json, read_jsonl, read_parquet

pytestmark = pytest.mark.ingest
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def good(reader) -> list[Document]:
    return [item.document for item in reader if isinstance(item, Read)]


def bad(reader) -> list[Unreadable]:
    return [item for item in reader if isinstance(item, Unreadable)]


@pytest.fixture
def file(tmp_path):
    def write(content: str | bytes, name: str = "f.jsonl"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


class TestJsonl:
    def test_records_become_documents(self, file) -> None:
        path = file(
            '{"id": 7, "text": "x", "year": 1, "metadata": {"lang": "en"}, "vector": [1, 2], "namespace": "n"}'
        )
        [document] = good(read_jsonl(path))
        assert (document.id, document.text, document.namespace, document.vector) == ("7", "x", "n", [1, 2])
        assert document.metadata == {"year": 1, "lang": "en"}

    def test_fields_may_have_other_names(self, file) -> None:
        path = file('{"k": "a", "body": "x", "id": 5, "text": 6, "emb": [1]}')
        [document] = good(read_jsonl(path, id="k", text="body", vector="emb", metadata=["id", "none"]))
        assert (document.id, document.text, document.vector, document.metadata) == ("a", "x", [1], {"id": 5})
        [document] = good(read_jsonl(path, id=lambda r: f"k-{r['k']}", text=lambda r: r["body"].upper()))
        assert (document.id, document.text) == ("k-a", "X")
        assert set(document.metadata) == {"k", "body", "id", "text", "emb"}

    def test_a_bad_line_is_told_with_its_place_and_the_next_one_read(self, file) -> None:
        lines = [
            b'{"id": 1, "text": "a"}', b"{torn", b'{"id": 2, "text": "\xff"}', b"", b"[1]", b'{"text": "no id"}',
            b'{"id": 3}', b'{"id": 4, "text": 5}', b'{"id": true, "text": ""}', b"[" * 99_999,
            b'{"id": 5, "text": "z"}',
        ]  # fmt: skip
        reader = read_jsonl(file(b"\r\n".join(lines)))
        assert [d.id for d in good(reader)] == ["1", "5"]
        assert [item.place for item in bad(reader)] == [f"f.jsonl:{n}" for n in (2, 3, 5, 6, 7, 8, 9, 10)]
        assert bad(reader)[0].raw == "{torn"
        assert "UTF-8" in bad(reader)[1].message

    @pytest.mark.parametrize("content", [b"", b"\n\n", codecs.BOM_UTF8, codecs.BOM_UTF8 + b"\r\n"])
    def test_empty_files(self, file, content) -> None:
        assert list(read_jsonl(file(content))) == []

    def test_a_byte_order_mark_is_none_of_the_text(self, file) -> None:
        assert good(read_jsonl(file(codecs.BOM_UTF8 + b'{"id": 1, "text": ""}')))[0].id == "1"

    def test_a_line_that_is_too_long_is_never_held(self, file) -> None:
        long = b'{"id": 1, "text": "' + b"x" * 3_000_000 + b'"}'
        path = file(b"\n".join([b'{"id": 0, "text": ""}', long, b'{"id": 2, "text": ""}']))
        reader = read_jsonl(path, max_record_bytes=1000)
        assert [d.id for d in good(reader)] == ["0", "2"]
        assert "longer than 1,000 bytes" in bad(reader)[0].message
        assert len(good(read_jsonl(path))) == 3

    def test_map_changes_documents_and_keeps_places(self, file) -> None:
        reader = read_jsonl(file('{"id": 1, "text": "a"}\n{"id": 2, "text": ""}\nx'))
        changed = reader.map(lambda d: Document(d.id, d.text[0].upper()))
        assert [d.text for d in good(changed)] == ["A"]
        assert [(i.place, i.id) for i in bad(changed)] == [("f.jsonl:2", "2"), ("f.jsonl:3", "")]
        assert "IndexError" in bad(changed)[0].message or "index out of range" in bad(changed)[0].message
        assert len(bad(reader.map(lambda d: None))) == 3
        assert repr(reader).startswith("read_jsonl('/")

    def test_no_such_file(self, tmp_path) -> None:
        for read in (read_jsonl, read_json, read_csv, read_parquet):
            with pytest.raises(InputError, match="does not exist"):
                read(tmp_path / "none")
            with pytest.raises(InputError, match="is a folder"):
                read(tmp_path)

    def test_a_file_that_goes_away_is_told(self, file) -> None:
        path = file('{"id": 1, "text": ""}')
        reader = read_jsonl(path)
        path.unlink()
        assert "No such file" in bad(reader)[0].message


class TestJson:
    def test_an_array_one_record_or_nothing(self, file) -> None:
        assert [d.id for d in good(read_json(file('[{"id": 1, "text": ""}, {"id": 2, "text": ""}]')))] == [
            "1",
            "2",
        ]
        assert [d.id for d in good(read_json(file(codecs.BOM_UTF8 + b' {"id": 1, "text": ""}\n')))] == ["1"]
        assert [list(read_json(file(text))) for text in ("", " \n", "[]", "[ ]")] == [[], [], [], []]

    @pytest.mark.parametrize(
        ("text", "number"),
        [("[{", 1), ('[{"id": 1, "text": ""}', 2), ('[{"id": 1, "text": ""} {"id": 2}]', 2),
         ('[{"id": 1, "text": ""}] x', 2), ('[{"id": 1, "text": ""},]', 2), ("[,]", 1), ("{} {}", 2), ("[1}", 2),
         ('{"id": 1, "text": ""', 1), ("nul", 1)],
    )  # fmt: skip
    def test_a_fault_is_told_once_and_what_came_before_stays(self, file, text, number) -> None:
        faults = [item for item in bad(read_json(file(text))) if item.place == f"f.jsonl: record {number}"]
        assert len(faults) == 1
        assert len(good(read_json(file(text)))) == (1 if '"id": 1, "text": ""}' in text else 0)

    def test_bytes_that_are_no_text(self, file) -> None:
        reader = read_json(file(b'[{"id": 1, "text": ""}, {"id": "\xff"}]'))
        assert "not UTF-8" in bad(reader)[-1].message

    def test_a_record_that_is_too_long(self, file) -> None:
        reader = read_json(file(json.dumps([{"id": 1, "text": "x" * 300_000}])), max_record_bytes=1000)
        assert "within 1,000 characters" in bad(reader)[0].message

    @given(st.lists(JSON, max_size=6), st.integers(1, 9), st.sampled_from([None, 1]))
    @settings(max_examples=200, deadline=None)
    def test_elements_are_those_of_the_whole(self, values, block, indent) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_stream, "_BLOCK", block)
            assert (
                list(json_stream.elements(io.StringIO(json.dumps(values, indent=indent)), 10_000)) == values
            )


class TestCsv:
    def test_rows_become_documents(self, file) -> None:
        path = file('id,text,year,price\r\n1,"two\r\nlines, ""quoted""",2020,1.10\r\n2,b,,\r\n')
        first, second = good(read_csv(path, types={"year": int, "price": Decimal}))
        assert (first.text, first.metadata) == (
            'two\r\nlines, "quoted"',
            {"year": 2020, "price": Decimal("1.10")},
        )
        assert second.metadata == {}

    def test_bad_rows_are_told_with_their_lines(self, file) -> None:
        path = file(b"id,text,year\n1,a,1\n2,b\n3,c,3,x\n4,d,soon\n\n5,\xff,5\n,f,6\n7,g,7\n")
        reader = read_csv(path, types={"year": int})
        assert [d.id for d in good(reader)] == ["1", "7"]
        assert [item.place for item in bad(reader)] == [f"f.jsonl:{n}" for n in (3, 4, 5, 7, 8)]
        assert "2 cells, the header 3" in bad(reader)[0].message
        assert "Column 'year'" in bad(reader)[2].message
        assert "encoding=" in bad(reader)[3].message

    def test_a_type_for_a_column_that_is_not_there_is_told_once(self, file) -> None:
        [refused] = read_csv(file("id,text,year\n1,a,1\n2,b,2\n"), types={"yeer": int, "year": int})
        assert (refused.place, refused.code) == ("f.jsonl:1", "input")
        assert "types names 'yeer', but the columns are ['id', 'text', 'year']" in refused.message
        assert list(read_csv(file(""), types={"year": int})) == []

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1"])
    def test_encodings(self, file, encoding) -> None:
        path = file("id;text\n1;Füße\n".encode(encoding))
        given_ = "latin-1" if encoding == "latin-1" else None
        assert good(read_csv(path, delimiter=";", encoding=given_))[0].text == "Füße"

    def test_long_cells_leave_pythons_own_limit_alone(self, file) -> None:
        limit = csv.field_size_limit()
        path = file(f"id,text\n1,{'x' * 200_000}\n2,b\n")
        assert [len(d.text) for d in good(read_csv(path))] == [200_000, 1]
        assert csv.field_size_limit() == limit
        assert "field larger" in bad(read_csv(path, max_record_bytes=1000))[0].message

    @pytest.mark.parametrize("content", [b"", b"id,text\n", codecs.BOM_UTF8])
    def test_empty_files(self, file, content) -> None:
        assert list(read_csv(file(content))) == []


class TestParquet:
    @pytest.fixture
    def table(self, tmp_path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        def write(columns: dict, **types):
            arrays = {k: pa.array(v, types.get(k)) for k, v in columns.items()}
            pq.write_table(pa.table(arrays), tmp_path / "t.parquet", row_group_size=7)
            return tmp_path / "t.parquet"

        return write

    @pytest.mark.parametrize("kind", ["list", "fixed", "large", "double"])
    def test_rows_with_vectors(self, table, kind) -> None:
        import pyarrow as pa

        kinds = {"list": pa.list_(pa.float32()), "fixed": pa.list_(pa.float32(), 2),
                 "large": pa.large_list(pa.float16()), "double": pa.list_(pa.float64())}  # fmt: skip
        rows = 40
        vectors = [None if n == 3 else [n, n + 0.5] for n in range(rows)]
        if kind == "large":
            vectors = [None if v is None else [np.float16(x) for x in v] for v in vectors]
        moment = datetime(2024, 1, 2, tzinfo=UTC)
        columns = {"id": list(range(rows)), "text": ["x"] * rows, "vector": vectors, "at": [moment] * rows}
        documents = good(read_parquet(table(columns, vector=kinds[kind])))
        assert [d.id for d in documents] == [str(n) for n in range(rows)]
        assert documents[3].vector is None
        assert [list(d.vector) for d in documents if d.vector is not None] == [
            [n, n + 0.5] for n in range(rows) if n != 3
        ]
        assert documents[0].metadata == {"at": moment}

    def test_only_named_columns_are_read(self, table) -> None:
        path = table({"id": ["a"], "text": ["x"], "one": [1], "two": [2]})
        assert good(read_parquet(path, metadata=["two"]))[0].metadata == {"two": 2}
        assert good(read_parquet(path, text=lambda r: f"{r['one']}"))[0].text == "1"

    def test_bad_rows_and_files(self, table, file) -> None:
        reader = read_parquet(table({"id": ["a", None, "c"], "text": ["x", "y", None]}))
        assert [d.id for d in good(reader)] == ["a", "c"]
        assert bad(reader)[0].place == "t.parquet: row 2"
        assert "From here on" in bad(read_parquet(file(b"no parquet at all")))[0].message
        assert len(bad(read_parquet(file(b"")))) == 1

    def test_without_pyarrow(self, file, monkeypatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        with pytest.raises(MissingExtra, match="ingest"):
            read_parquet(file(b""))
