"""The demo's documents: cutting text, folders of the user's own, and the standard library of this Python."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svr_retrievers.demo.chapters import CHAPTERS, REST, chapter_of
from svr_retrievers.demo.corpus import Corpus, folder_corpus, kind_of, passages
from svr_retrievers.demo.questions import ABOUT_THE_LIBRARY, questions_for, shown_question
from svr_retrievers.demo.standard_library import module_name, standard_library_corpus
from svr_retrievers.errors import InputError
from svr_retrievers.model import Document

TEXT = "A sentence that is long enough to be kept."


@pytest.fixture(scope="module")
def library() -> Corpus:
    return standard_library_corpus().read()


def write(root, files: dict[str, str | bytes]):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


@given(st.text(alphabet="ab \n\t", max_size=300), st.integers(5, 60))
def test_passages_keep_every_word_and_the_limit(text, size):
    found = list(passages(text, size))
    assert all(0 < len(passage) <= size for _, passage in found)
    kept = "".join("".join(passage.split()) for _, passage in found)
    assert kept == "".join(text.split())


@given(st.lists(st.text(alphabet="abc", min_size=1, max_size=8), max_size=8), st.integers(0, 4))
def test_passages_know_their_first_line(words, blanks):
    text = ("\n" * (blanks + 1)).join(words)
    lines = text.split("\n")
    for line, passage in passages(text, 12):
        assert lines[line - 1].startswith(passage.split()[0])


def test_short_paragraphs_are_gathered():
    text = "\n\n".join(["one two three"] * 10)
    assert [len(p) for _, p in passages(text, 60)] == [58, 58, 28]


def test_a_folder_gives_categories_from_its_first_level(tmp_path):
    root = write(tmp_path, {"top.md": TEXT, "a/x.txt": TEXT + "1", "a/b/y.MD": TEXT + "2", "c/z.rst": TEXT})
    corpus = folder_corpus(root).read()
    assert {d.id: d.metadata["category"] for d in corpus.documents} == {
        "top.md#0": ".",
        "a/x.txt#0": "a",
        "a/b/y.MD#0": "a",
    }
    assert (corpus.files, corpus.skipped) == (3, 0)


def test_unreadable_and_repeated_texts_are_left_out_and_counted(tmp_path):
    root = write(
        tmp_path,
        {"good.txt": TEXT, "again.txt": TEXT, "bad.txt": b"\xff\xfe\x00broken", "nul.txt": TEXT + "\0!"},
    )
    corpus = folder_corpus(root).read()
    assert [d.text for d in corpus.documents] == [TEXT, TEXT + "!"]
    assert (corpus.files, corpus.skipped) == (4, 1)


def test_a_byte_order_mark_is_no_text(tmp_path):
    root = write(tmp_path, {"a.txt": b"\xef\xbb\xbf" + TEXT.encode()})
    assert folder_corpus(root).read().documents[0].text == TEXT


@pytest.mark.parametrize(
    ("files", "target", "message"),
    [
        ({}, "missing", "does not exist"),
        ({"a.txt": TEXT}, "a.txt", "is no folder"),
        ({"a.pdf": TEXT}, ".", r"No \.txt or \.md file"),
    ],
)
def test_a_wrong_folder_is_explained(tmp_path, files, target, message):
    write(tmp_path, files)
    with pytest.raises(InputError, match=message):
        folder_corpus(tmp_path / target)


def test_a_folder_without_text_is_explained(tmp_path):
    write(tmp_path, {"a.txt": "short", "b.md": b"\xff\xff"})
    with pytest.raises(InputError, match="2 files, 1 of them unreadable"):
        folder_corpus(tmp_path).read()


def test_the_fingerprint_follows_content_name_and_limit(tmp_path):
    root = write(tmp_path, {"a.txt": TEXT})
    first = folder_corpus(root).fingerprint()
    assert folder_corpus(root).fingerprint() == first
    assert folder_corpus(root).fingerprint(limit=5) != first
    os.utime(root / "a.txt", ns=(1, 1))
    touched = folder_corpus(root).fingerprint()
    (root / "a.txt").rename(root / "b.txt")
    assert len({first, touched, folder_corpus(root).fingerprint()}) == 3


def test_every_file_is_reported_to_the_progress_bar(tmp_path):
    seen = []
    folder_corpus(write(tmp_path, {"a.txt": TEXT, "b.txt": TEXT})).read(lambda *step: seen.append(step))
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("passage", "kind"),
    [
        ("# Title", "heading"),
        ("- item", "list"),
        ("12. item", "list"),
        ("```py", "code"),
        ("*bold* text", "paragraph"),
    ],
)
def test_kind_of_a_passage(passage, kind):
    assert kind_of(passage) == kind


def test_the_library_is_large_and_unevenly_spread(library):
    sizes = {}
    for document in library.documents:
        category = document.metadata["category"]
        sizes[category] = sizes.get(category, 0) + 1
    assert len(library.documents) >= 5_000
    assert len(sizes) >= 10
    assert max(sizes.values()) > 10 * min(sizes.values())
    assert sizes.get(REST, 0) < len(library.documents) / 20


def test_library_documents_have_unique_ids_and_texts(library):
    assert len({d.id for d in library.documents}) == len(library.documents)
    assert len({d.text for d in library.documents}) == len(library.documents)


def test_a_library_document_is_what_the_source_says(library):
    found = next(d for d in library.documents if d.id == "json:dumps#0")
    assert found.text.startswith("json.dumps\nSerialize ``obj`` to a JSON formatted ``str``.")
    assert found.metadata["category"] == "file formats"
    assert found.metadata["module"] == "json"
    assert found.metadata["kind"] == "function"
    assert found.metadata["name"] == "dumps"
    assert found.metadata["length"] == len(found.text)


def test_the_language_topics_are_there(library):
    topic = next(d for d in library.documents if d.id == "pydoc_data.topics:while#0")
    assert topic.metadata["kind"] == "topic"
    assert "while" in topic.text


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_a_limit_is_kept_and_spread(library, limit):
    part = library.limited(limit)
    assert len(part.documents) == limit
    assert len({d.id for d in part.documents}) == limit


def test_a_limit_beyond_the_corpus_changes_nothing(library):
    assert library.limited(10**9) is library
    assert library.limited(None) is library


@pytest.mark.parametrize(
    ("module", "chapter"),
    [
        ("asyncio.locks", "async"),
        ("_pydecimal", "numbers"),
        ("_collections_abc", "data types"),
        ("zzz", REST),
    ],
)
def test_chapter_of_a_module(module, chapter):
    assert chapter_of(module) == chapter


def test_no_module_stands_in_two_chapters():
    modules = [m for names in CHAPTERS.values() for m in names.split()]
    assert sorted(modules) == sorted(set(modules))


def test_package_names_lose_their_init(tmp_path):
    assert module_name(tmp_path, tmp_path / "json" / "__init__.py") == "json"
    assert module_name(tmp_path, tmp_path / "json" / "tool.py") == "json.tool"


def test_written_questions_ask_about_chapters_that_exist():
    assert set(ABOUT_THE_LIBRARY) <= set(CHAPTERS)


def test_questions_are_the_same_each_time_and_half_are_written(library):
    asked = questions_for(library.documents, 100)
    assert asked == questions_for(library.documents, 100)
    assert len(asked) == 100
    written = {text for texts in ABOUT_THE_LIBRARY.values() for text in texts}
    assert sum(q.text in written for q in asked) == 50


def test_a_folder_is_asked_its_own_passages():
    documents = [
        Document(id=str(n), text=f"passage {n} " * 30, metadata={"category": "text"}) for n in range(5)
    ]
    asked = questions_for(documents, 20, mine=True)
    assert {q.text for q in asked} == {d.text[:200] for d in documents}
    assert shown_question(documents, mine=True).category == "text"
