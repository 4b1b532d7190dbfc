"""The page on the Atlas stand-in: its example runs, and what it says can be told is what can be told."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from svr_retrievers.testing.mongodb.controlling import ACTIONS
from svr_retrievers.testing.mongodb.filters import OPERATORS
from svr_retrievers.testing.mongodb.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs/atlas-stand-in.md").read_text("utf-8")


@pytest.mark.usefixtures("mongodb_server")
@pytest.mark.skipif("SVR_TEST_MONGODB_URI" in os.environ, reason="this tests the stand-in itself")
def test_the_example_runs() -> None:
    [example] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(compile(example, "docs/atlas-stand-in.md", "exec"), {})


def test_every_setting_and_action_is_described() -> None:
    told = PAGE.partition("## Tell it")[2].partition("## What is covered")[0]
    described = set(
        re.findall(r"`(\w+)", "\n".join(line.split("|")[1] for line in told.splitlines() if "|" in line))
    )
    assert set(Settings().document()) | set(ACTIONS) | {"tier"} <= described


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_every_filter_operator_is_named(operator: str) -> None:
    assert re.search(re.escape(operator) + r"\b", PAGE)
