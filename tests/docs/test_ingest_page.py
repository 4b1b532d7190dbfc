"""The page about ingesting is true: its code runs and prints what it says, its tables name what exists."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
from pathlib import Path

import pytest

from svr_retrievers import SVRClient, ingest
from svr_retrievers.cli.app import app
from svr_retrievers.ingest.files import LOADERS

pytestmark = [pytest.mark.ingest, pytest.mark.postgres]
PAGE = Path(__file__).parents[2].joinpath("docs/ingest.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def promised(block: str) -> list[str]:
    """What comments say is printed, each up to its dots."""
    found = re.findall(r"# (.+)$", block, flags=re.MULTILINE)
    return [text.split(" ...")[0].split(", ...")[0] for text in found if not text.startswith("once")]


def test_the_code_prints_what_the_page_says(tmp_path, monkeypatch, postgres_url) -> None:
    (tmp_path / "handbook/people").mkdir(parents=True)
    (tmp_path / "handbook/people/leave.md").write_text(
        "# Leave\n\n## Days\n\nThere are thirty days of leave a year.\n"
    )
    (tmp_path / "handbook/tea.txt").write_text("Tea is in the kitchen.")
    (tmp_path / "handbook/door.html").write_text(
        "<title>Door</title><h1>Door</h1><p>It is <b>open</b> at eight.</p>"
    )
    record = {"sku": "k1", "name": "Kettle", "maker": {"name": "Ann"}, "price": 19.9}
    (tmp_path / "products.jsonl").write_text(json.dumps(record))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SVR_URL", postgres_url)
    names: dict[str, object] = {}
    try:
        for block in BLOCKS:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block, "docs/ingest.md", "exec", dont_inherit=True), names)
            for text in promised(block):
                assert text in printed.getvalue()
    finally:
        client = names["client"]
        assert isinstance(client, SVRClient)
        client.close()
    assert len(BLOCKS) == 3


def test_every_reader_and_chunker_is_told_of() -> None:
    public = [n for n in ingest.__all__ if n.startswith("read_") or n.endswith("Chunker")]
    assert [name for name in [*public, "replay", "Serializer"] if f"`{name}" not in PAGE] == ["Chunker"]


def test_the_codes_are_those_of_the_code() -> None:
    table = PAGE[PAGE.index("| code |") :].split("\n\n")[0]
    told = set(re.findall(r"`([a-z]+)`", "".join(line.split("|")[1] for line in table.splitlines()[2:])))
    source = "".join(p.read_text("utf-8") for p in Path(ingest.__file__).parent.glob("*.py"))
    assert all(f'"{code}"' in source for code in told - {"input", "embedding"})


def test_every_figure_of_a_report_is_told_of() -> None:
    table = PAGE[PAGE.index("## The report") : PAGE.index("## Progress")]
    names = [field.name for field in dataclasses.fields(ingest.IngestReport)]
    assert [name for name in names if f"`{name}`" not in table] == []


def test_every_kind_of_file_is_told_of() -> None:
    assert [kind for kind in LOADERS if not re.search(rf"\{kind}\b", PAGE)] == []


def test_the_command_exists() -> None:
    assert "svr ingest handbook --collection handbook" in PAGE
    assert app["ingest"] is not None
