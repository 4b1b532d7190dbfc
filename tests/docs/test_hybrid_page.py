"""The page about words is true: its code runs and prints what it says, its numbers are those of the code."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import get_args

import pytest

from svr_retrievers import Collection, SVRClient
from svr_retrievers.backends.postgres import keyword_queries, keywords, words, words_building
from svr_retrievers.cli.app import app
from svr_retrievers.cli.search import search
from svr_retrievers.evaluation.known_items import SENTENCES
from svr_retrievers.search.hybrid import RANK_CONSTANT, Fusion, depth

pytestmark = [pytest.mark.hybrid, pytest.mark.postgres]
PAGE = Path(__file__).parents[2].joinpath("docs/hybrid.md").read_text("utf-8")
TEXT = " ".join(PAGE.split())
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_code_prints_what_the_page_says(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVR_URL", postgres_url)
    names: dict[str, object] = {}
    try:
        for block in BLOCKS * 2:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block, "docs/hybrid.md", "exec", dont_inherit=True), names)
            promised = re.findall(r"^print\(.*?\)\s+# (.+)$", block, flags=re.MULTILINE)
            assert promised
            for said, line in zip(promised, printed.getvalue().splitlines(), strict=True):
                assert line.startswith(said)
        notes = names["notes"]
        assert isinstance(notes, Collection)
        assert '`keywords(text="dumps")` does not find it' in TEXT
        assert notes.keywords(text="dumps").ids == ()
        assert notes.keywords(text="json.dumps").ids == ("n3",)
    finally:
        client = names["client"]
        assert isinstance(client, SVRClient)
        client.close()
    assert len(BLOCKS) == 4


def test_its_numbers_are_those_of_the_code() -> None:
    assert f"about {keyword_queries.MOST_RANKED:,} documents" in TEXT
    assert f"Of a question {keyword_queries.MOST_WORDS} different words count" in TEXT
    assert f"older rows {words_building._ROWS} at a time" in TEXT
    assert f"above {words._WHOLE_BYTES // 1024} KiB the first {words._PART_CHARACTERS:,} characters" in TEXT
    assert keywords._PATIENCE_SECONDS == 5
    assert "waits up to five seconds" in TEXT
    assert f"weight / ({RANK_CONSTANT} + rank)" in TEXT
    assert (depth(1), depth(100)) == (100, 400)
    assert "`max(100, 4 * limit)`" in TEXT
    assert all(f'`"{fusion}"`' in TEXT for fusion in get_args(Fusion))
    assert f"asks {len(SENTENCES) - 4} documented objects" in TEXT


def test_the_program_it_names_is_there() -> None:
    makefile = Path(__file__).parents[2].joinpath("Makefile").read_text("utf-8")
    assert "benchmarks/hybrid.py" in makefile[makefile.index("bench-hybrid:") :]


def test_the_command_it_shows_is_understood() -> None:
    (line,) = re.findall(r"`svr (search [^`]+)`", PAGE)
    command, bound, _ = app.parse_args(shlex.split(line))
    assert command is search
    assert bound.arguments == {"collection": "notes", "text": "invoice 4711", "by": "words"}
    assert "`--by both`" in PAGE
