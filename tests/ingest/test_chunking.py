"""Chunks never exceed their size and lose nothing, whatever the text; headings stand where CommonMark sees them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svr_retrievers.errors import InputError
from svr_retrievers.ingest import MarkdownChunker, RecursiveChunker, SentenceChunker, chunking
from svr_retrievers.ingest.headings import Headings

pytestmark = pytest.mark.ingest
CHUNKERS = [RecursiveChunker, MarkdownChunker, SentenceChunker]
LINES = [
    "# Head\n",
    "## Sub ##\n",
    "\n",
    "\r\n",
    "- item one\n",
    "> quoted\n",
    "```\ncode # no\n```\n",
    "| a | b |\n|---|---|\n",
]
PIECES = st.one_of(
    st.sampled_from(
        [*LINES, "A short sentence. ", "What? ", "Dr. Who said 3.14! ", " ", "\t", "\u2028", "\u3000"]
    ),
    st.text(max_size=12),
    st.text(alphabet="ab.\n #😀é日", max_size=40),
)
TEXTS = st.lists(PIECES, max_size=40).map("".join)


def visible(text: str) -> str:
    return "".join(text.split())


def fourths(text: str) -> int:
    """A count that is no sum of its parts, as tokens are not."""
    return -(-len(text.encode()) // 4) + text.count(" a")


@pytest.fixture(params=CHUNKERS)
def kind(request):
    return request.param


class TestSize:
    @given(TEXTS, st.integers(1, 60))
    @settings(max_examples=150, deadline=None)
    def test_every_chunk_fits_and_all_of_them_are_the_text(self, text: str, size: int) -> None:
        for kind in CHUNKERS:
            chunks = [chunk.text for chunk in kind(size).cut(text)]
            assert all(0 < len(chunk) <= size for chunk in chunks)
            assert visible("".join(chunks)) == visible(text)

    @given(TEXTS, st.integers(2, 60), st.data())
    @settings(max_examples=150, deadline=None)
    def test_overlapping_chunks_fit_cover_the_text_and_get_on(self, text: str, size: int, data) -> None:
        overlap = data.draw(st.integers(1, size - 1))
        for kind in CHUNKERS:
            spans = list(kind(size, overlap).spans(text))
            assert all(0 < len(chunk) <= size for _, chunk in spans)
            assert covered(text, spans)

    @given(TEXTS, st.integers(4, 30), st.integers(0, 3))
    @settings(max_examples=150, deadline=None)
    def test_in_any_unit(self, text: str, size: int, overlap: int) -> None:
        for kind in CHUNKERS:
            spans = list(kind(size, overlap, tokenizer=fourths).spans(text))
            assert all(fourths(chunk) <= size for _, chunk in spans)
            assert covered(text, spans)

    @given(TEXTS, st.integers(1, 40), st.integers(0, 10), st.integers(20, 100))
    @settings(max_examples=150, deadline=None)
    def test_cut_window_by_window(self, text: str, size: int, overlap: int, window: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chunking, "WINDOW_CHARACTERS", window)
            patch.setattr(chunking, "WINDOW_CHUNKS", 2)
            patch.setattr(chunking, "SENTENCES_CHARACTERS", window)
            for kind in CHUNKERS:
                spans = list(kind(size, min(overlap, size - 1)).spans(text))
                assert all(0 < len(chunk) <= size for _, chunk in spans)
                assert covered(text, spans)
                if overlap == 0:
                    assert visible("".join(chunk for _, chunk in spans)) == visible(text)

    def test_with_a_real_tokenizer(self, kind) -> None:
        tokenizers = pytest.importorskip("tokenizers")
        tokenizer = tokenizers.Tokenizer(
            tokenizers.models.WordLevel({"[UNK]": 0, "sea": 1, "night": 2}, unk_token="[UNK]")
        )
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        tokenizer.enable_truncation(2)
        tokenizer.enable_padding(length=9)
        chunker = kind(4, tokenizer=tokenizer)

        chunks = [chunk.text for chunk in chunker.cut("The sea at night is cold, and dark. " * 5)]

        assert {chunker.count(chunk) for chunk in chunks} <= {1, 2, 3, 4}
        assert visible("".join(chunks)) == visible("The sea at night is cold, and dark. " * 5)
        assert tokenizer.truncation is not None

    def test_a_character_that_does_not_fit_is_an_error(self, kind) -> None:
        with pytest.raises(InputError, match="alone takes 8 tokens; chunks may hold 7"):
            kind(7, tokenizer=lambda text: 8 * len(text)).cut("a")


def covered(text: str, spans: list[tuple[int, str]]) -> bool:
    """Whether the chunks stand where they say, each reaching further than those before, with blanks alone between."""
    reached = begun = 0
    for start, chunk in spans:
        if text[start : start + len(chunk)] != chunk or text[reached:start].strip():
            return False
        if start < begun or start + len(chunk) <= reached:
            return False
        begun, reached = start, start + len(chunk)
    return not text[reached:].strip()


@pytest.mark.parametrize("text", ["", "  \n\t ", "\u3000"])
def test_nothing_visible_makes_no_chunk(kind, text: str) -> None:
    assert list(kind(10).cut(text)) == []


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (-1, 0), (True, 0), (1.5, 0), (5, 5), (5, 9), (5, -1)])
def test_sizes_that_cannot_be(kind, size, overlap) -> None:
    with pytest.raises(InputError, match=r"size|overlap"):
        kind(size, overlap)


def test_without_the_library_the_command_to_install_it_is_told(kind, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "semantic_text_splitter", None)
    with pytest.raises(Exception, match=r"svr-retrievers\[ingest\]"):
        kind(10)


class TestSentences:
    TEXT = "The first one\nruns over two lines. The second one. A third!\n\nAnother paragraph"

    def test_sentences_stay_whole_across_lines(self) -> None:
        chunks = [c.text for c in SentenceChunker(35).cut(self.TEXT)]
        assert chunks == [
            "The first one\nruns over two lines.",
            "The second one. A third!",
            "Another paragraph",
        ]

    def test_overlap_repeats_whole_sentences(self) -> None:
        chunks = [
            c.text
            for c in SentenceChunker(36, overlap=20).cut("One is here. Two is here. Three is here. Four.")
        ]
        assert chunks == ["One is here. Two is here.", "Two is here. Three is here. Four."]

    def test_a_short_paragraph_is_overlapped_by_its_last_sentence_alone(self) -> None:
        text = "One is here. Two is here.\n\nThree is there. Four is there.\n\nFive."
        chunks = [c.text for c in SentenceChunker(32, overlap=16).cut(text)]
        assert chunks == [
            "One is here. Two is here.",
            "Two is here.\n\nThree is there.",
            "Three is there. Four is there.",
            "Four is there.\n\nFive.",
        ]

    def test_a_sentence_that_is_too_long_is_cut_between_words(self) -> None:
        chunks = [c.text for c in SentenceChunker(12).cut("several words without an end")]
        assert " ".join(chunks) == "several words without an end"
        assert all(len(chunk) <= 12 for chunk in chunks)


class TestHeadings:
    TEXT = (
        "before\n\n# Top *one*\n\ntext of one\n\n## Below\n\ntext below\n\n```\n# no heading\n```\n\n"
        "> # quoted\n\nUnder\nlined\n=====\n\nlast text\n\n### Deep\n\ndeep text\n"
    )

    def path(self, word: str) -> list[str]:
        found = [c for c in MarkdownChunker(40).cut(self.TEXT) if word in c.text]
        return list(found[0].metadata["heading_path"])

    def test_chunks_know_the_headings_above_them(self) -> None:
        assert self.path("before") == []
        assert self.path("text of one") == ["Top *one*"]
        assert self.path("text below") == ["Top *one*", "Below"]
        assert self.path("no heading") == ["Top *one*", "Below"]
        assert self.path("last text") == ["Under\nlined"]
        assert self.path("deep text") == ["Under\nlined", "Deep"]

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_positions_hold_for_every_kind_of_line_end(self, end: str) -> None:
        text = self.TEXT.replace("\n", end)
        headings = Headings(text)
        assert headings.path(text.index("text below")) == ("Top *one*", "Below")
        assert headings.path(text.index("## Below")) == ("Top *one*", "Below")
        assert headings.path(text.index("## Below") - 1) == ("Top *one*",)

    def test_headings_that_a_chunk_begins_with_count(self) -> None:
        cut = MarkdownChunker(60).cut("# A\n\n## B\n\ntext of b\n\n# C\n\n" + "text of c " * 8)
        paths = [c.metadata["heading_path"] for c in cut]
        assert (paths[0], paths[1:]) == (["A", "B"], [["C"]] * len(paths[1:]))
        [alone] = MarkdownChunker(60).cut("# A\n\n## B")
        assert alone.metadata["heading_path"] == ["A", "B"]
        [after] = MarkdownChunker(60).cut("text\n\n# A\n")
        assert after.metadata == {"heading_path": []}

    @pytest.mark.parametrize(
        ("text", "path"),
        [
            ("# A\n\nof a\n\n## B\n\nof b", ["A"]),
            ("# A\n\n## B\n\nof b\n\n## C\n\nof c", ["A"]),
            ("# A\n\n## B\n\nof b\n\n## C", ["A"]),
            ("# A\n\n## B\n\n### D\n\nof d", ["A", "B", "D"]),
            ("# A\n\n# A\n\nof the second", ["A"]),
            ("# A\n\nof a\n\n# C\n\nof c", []),
            ("# A\n\n# C\n\nof c", []),
            ("before\n\n# A\n\nof a", []),
            ("no heading", []),
        ],
    )
    def test_a_chunk_of_several_sections_has_the_path_that_they_share(self, text, path) -> None:
        [whole] = MarkdownChunker(1000).cut(text)
        assert whole.metadata == {"heading_path": path}

    @given(TEXTS)
    @settings(max_examples=100, deadline=None)
    def test_any_text_has_headings(self, text: str) -> None:
        headings = Headings(text)
        assert all(isinstance(headings.path(at), tuple) for at in range(0, len(text) + 1, 7))
