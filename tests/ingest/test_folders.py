"""Folders of files of every kind, good and bad, become documents with stable ids."""

from __future__ import annotations

import codecs
import logging
import os

import pytest

from svr_retrievers.errors import InputError
from svr_retrievers.ingest import Read, Unreadable, read_folder
from svr_retrievers.ingest.files import _quiet
from svr_retrievers.ingest.folders import passed_over

pytestmark = pytest.mark.ingest


FONT = "/Resources << /Font << /F1 3 0 R >> >>"


def pdf(*pages: str) -> bytes:
    """A small PDF with a line of text on each page."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects += [f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>"]
    objects += ["<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    for n, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents {5 + 2 * n} 0 R {FONT} >>",
            f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        ]
    body, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{at:010d} 00000 n \n" for at in offsets)
    size = len(objects) + 1
    return f"{body}xref\n0 {size}\n0000000000 65535 f \n{table}trailer << /Size {size} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF".encode()  # noqa: E501


@pytest.fixture
def folder(tmp_path):
    def write(**files: bytes | str):
        for name, content in files.items():
            path = tmp_path / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return write


def good(reader) -> dict[str, Read]:
    return {item.document.id: item for item in reader if isinstance(item, Read)}


def bad(reader) -> dict[str, Unreadable]:
    return {item.place: item for item in reader if isinstance(item, Unreadable)}


def test_each_kind_of_file_becomes_text(folder) -> None:
    page = (
        "<html><head><title>The page</title><style>p {}</style></head><body><nav>menu</nav><h1>Head</h1>"
        "<p>Some <b>bold</b> text</p><ul><li>one</li></ul><script>evil()</script></body></html>"
    )
    root = folder(
        b_md="# Head\r\n\r\ntext\r\n",
        a_txt="plain",
        sub__c_html=page,
        sub__deep__d_PDF=pdf("First page", "Second"),
    )
    found = good(read_folder(root, metadata={"team": "x"}))
    assert list(found) == ["a.txt", "b.md", "sub/c.html", "sub/deep/d.PDF"]
    assert found["b.md"].document.text == "# Head\n\ntext\n"
    html = found["sub/c.html"].document
    assert "# Head" in html.text
    assert "Some **bold** text" in html.text
    assert not {"menu", "evil()", "p {}", "The page"} & set(html.text.split("\n"))
    assert html.metadata == {
        "path": "sub/c.html", "folder": "sub", "format": "html", "title": "The page", "team": "x",
    }  # fmt: skip
    document = found["sub/deep/d.PDF"].document
    assert document.text.split("\f") == ["First page", "Second"]
    assert document.metadata["pages"] == 2


def test_bad_files_fail_alone(folder) -> None:
    files = {
        "a_txt": b"\xff\xfe\x00",
        "b_pdf": b"no pdf",
        "c_pdf": pdf("x")[:200],
        "d_txt": b"caf\xe9",
        "e_txt": "good",
        "f_pdf": b"",
    }
    root = folder(**files, big_txt="x" * 100)
    reader = read_folder(root, max_file_bytes=99 if len(pdf("x")) < 99 else 5000)
    assert "e.txt" in good(reader)
    assert {"a.txt", "b.pdf", "c.pdf", "d.txt", "f.pdf"} <= set(bad(reader))
    assert "utf-8 (byte 4)" in bad(reader)["d.txt"].message
    assert "at most 10 are read" in bad(read_folder(root, max_file_bytes=10))["big.txt"].message
    assert good(read_folder(root, encoding="latin-1", patterns=["d.*"]))["d.txt"].document.text == "café"
    assert "no encoding" in bad(read_folder(root, encoding="klingon", patterns=["d.*"]))["d.txt"].message


def test_parsers_say_nothing_of_faulty_files_and_their_loggers_stay_as_they_are(folder, caplog) -> None:
    root = folder(a_pdf=pdf("x").replace(b"startxref\n", b"startxref\n9"), b_pdf=b"%PDF-1.4 no more")
    logging.getLogger("pypdf").setLevel(logging.INFO)
    try:
        with caplog.at_level(logging.DEBUG):
            with _quiet("pypdf"):
                read = list(read_folder(root))
            assert (len(read), caplog.records) == (2, [])
            assert logging.getLogger("pypdf").level == logging.INFO
            logging.getLogger("pypdf._reader").warning("heard")
        assert [record.message for record in caplog.records] == ["heard"]
    finally:
        logging.getLogger("pypdf").setLevel(logging.NOTSET)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks(folder, encoding) -> None:
    assert good(read_folder(folder(a_txt="Füße".encode(encoding))))["a.txt"].document.text == "Füße"


def test_an_empty_file_is_an_empty_document(folder) -> None:
    assert good(read_folder(folder(a_txt=b"", b_md=codecs.BOM_UTF8)))["b.md"].document.text == ""


def test_html_declares_its_encoding(folder) -> None:
    page = '<meta charset="iso-8859-1"><p>café</p>'.encode("latin-1")
    assert "café" in good(read_folder(folder(a_html=page)))["a.html"].document.text


def test_deeply_nested_html_fails_alone(folder) -> None:
    reader = read_folder(folder(a_html="<div>" * 20_000 + "x", b_txt="y"))
    assert "b.txt" in good(reader)
    assert set(bad(reader)) | set(good(reader)) == {"a.html", "b.txt"}


def test_names_and_paths_may_be_chosen(folder) -> None:
    root = folder(a_md="x", guides__b_md="x", guides__c_txt="x", _hidden__x_md="x", d_docx="x")
    assert list(good(read_folder(root))) == ["a.md", "guides/b.md", "guides/c.txt"]
    assert list(good(read_folder(root, patterns=["*.md"]))) == ["a.md", "guides/b.md"]
    assert list(good(read_folder(root, patterns=["guides/*"]))) == ["guides/b.md", "guides/c.txt"]
    assert list(good(read_folder(root / "a.md"))) == ["a.md"]
    assert "not read" in bad(read_folder(root / "d.docx"))["d.docx"].message
    with pytest.raises(InputError, match="list"):
        read_folder(root, patterns="*.md")
    with pytest.raises(InputError, match="does not exist"):
        read_folder(root / "none")


def test_a_prefix_and_what_is_passed_over(folder) -> None:
    root = folder(a_md="x", b__c_csv="x", d_txt=b"\xff", LICENSE="x")
    assert list(good(read_folder(root, prefix="p/"))) == ["p/a.md"]
    assert good(read_folder(root / "a.md", prefix="p/"))["p/a.md"].document.metadata["path"] == "a.md"
    assert [item.id for item in bad(read_folder(root, prefix="p/")).values()] == ["p/d.txt"]
    assert passed_over(root) == {"": 1, ".csv": 1}
    assert passed_over(root / "a.md") == {}
    with pytest.raises(InputError, match="prefix"):
        read_folder(root, prefix=None)


def test_links_are_followed_once_and_only_on_request(folder, tmp_path) -> None:
    root = folder(docs__a_md="x", elsewhere__b_md="y") / "docs"
    (root / "loop").symlink_to(root)
    (root / "out").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere")
    (root / "gone.md").symlink_to(tmp_path / "nowhere")
    assert list(good(read_folder(root))) == ["a.md"]
    assert list(good(read_folder(root, follow_symlinks=True))) == ["a.md", "again/b.md"]
    assert list(bad(read_folder(root))) == ["gone.md"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_what_may_not_be_read_is_told(folder) -> None:
    root = folder(a__x_md="x", b_md="y")
    (root / "a").chmod(0)
    try:
        assert list(good(read_folder(root))) == ["b.md"]
        assert len(bad(read_folder(root))) == 1
    finally:
        (root / "a").chmod(0o700)
