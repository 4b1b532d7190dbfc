"""The pages under docs/ are complete, and the limits they state are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from svr_retrievers import Settings, __version__
from svr_retrievers.backends.indexes import EXACT_BELOW_ROWS
from svr_retrievers.routing.plan import DEFAULT_RECALL_TARGET, FAN_OUT_BELOW_ROWS
from svr_retrievers.statistics import BUILD_FROM, FOLD_FROM

ROOT = Path(__file__).parents[2]
DECISIONS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))


def page(path: str) -> str:
    """The text with line breaks as spaces, as a reader sees it."""
    return " ".join((ROOT / path).read_text("utf-8").split())


def test_decisions_are_numbered_without_gaps() -> None:
    assert len(DECISIONS) >= 7
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("path", DECISIONS, ids=lambda p: p.stem)
def test_a_decision_says_why_what_and_what_follows(path: Path) -> None:
    text = path.read_text("utf-8")
    headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)

    assert text.startswith(f"# {path.name[:4]}: ")
    assert [h for h in headings if h != "Measured"] == ["Context", "Decision", "Consequences"]
    assert "Measured" not in headings or "\n|---" in text


@pytest.mark.parametrize("path", DECISIONS, ids=lambda p: p.stem)
def test_a_decision_is_listed_under_its_number(path: Path) -> None:
    assert f"[{path.name[:4]}]({path.name})" in page("docs/decisions/README.md")


def test_the_limits_in_the_text_are_those_of_the_code() -> None:
    readme, line = page("README.md"), page("docs/decisions/0012-exact-below-1000-rows.md")
    narrow = page("docs/decisions/0007-when-closeness-may-narrow.md")

    assert f"Partitions below {EXACT_BELOW_ROWS:,} rows are searched exactly" in readme
    assert f"A partition below {EXACT_BELOW_ROWS:,} rows has no index" in line
    waits = page("docs/decisions/0011-tails-beside-the-index.md")
    assert f"reaches {FOLD_FROM * EXACT_BELOW_ROWS:,} rows" in waits
    assert f"more than {FOLD_FROM * EXACT_BELOW_ROWS:,} of them" in readme
    assert f"from {BUILD_FROM * EXACT_BELOW_ROWS:,} rows on" in line
    assert f"`recall_target` ({DEFAULT_RECALL_TARGET})" in readme
    assert f"from {FAN_OUT_BELOW_ROWS:,} rows on" in readme
    assert f"more than {FAN_OUT_BELOW_ROWS:,} rows" in narrow
    assert f"The target is {DEFAULT_RECALL_TARGET}" in narrow
    scanned = Settings.model_fields["hnsw_max_scan_tuples"].default
    assert f"gives up after {scanned:,} visited" in page("notebooks/02_when_filters_fail.ipynb")


def test_the_changelog_begins_with_this_version() -> None:
    released = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)

    assert released[0] == __version__
