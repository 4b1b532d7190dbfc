"""A run shows itself on terminals and in notebooks, and nowhere else."""

from __future__ import annotations

import io
import sys
import types

import pytest

from svr_retrievers.ingest import IngestReport
from svr_retrievers.ingest.progress import shown

pytestmark = pytest.mark.ingest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def stderr(monkeypatch):
    def use(stream: io.StringIO) -> io.StringIO:
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return use


def run(progress, total: int | None = None) -> None:
    with shown(progress, total) as show:
        show(IngestReport(read=3, written=3))
        show(IngestReport(read=7, written=6, unchanged=2, refused=1))


@pytest.mark.parametrize("total", [None, 7])
def test_a_bar_on_a_terminal(stderr, total, monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = stderr(Terminal())
    run(True, total)
    assert "6 rows written, 2 unchanged, 1 refused" in out.getvalue()
    assert ("7/7" if total else "7/?") in out.getvalue()


def test_nothing_where_nobody_looks(stderr) -> None:
    out = stderr(io.StringIO())
    run(True)
    assert out.getvalue() == ""


def test_nothing_when_it_is_not_wanted(stderr) -> None:
    out = stderr(Terminal())
    run(False)
    assert out.getvalue() == ""


def test_a_terminal_without_rich_is_no_failure(stderr, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    out = stderr(Terminal())
    run(True)
    assert out.getvalue() == ""


def test_a_bar_of_tqdm_in_a_notebook(stderr, monkeypatch) -> None:
    class ZMQInteractiveShell:
        pass

    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=ZMQInteractiveShell))
    made = []

    class Bar:
        def __init__(self, total, unit):
            self.n, self.total, self.told, self.closed = 0, total, "", False
            made.append(self)

        def update(self, more):
            self.n += more

        def set_postfix_str(self, text):
            self.told = text

        def close(self):
            self.closed = True

    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=Bar))
    run(True, 7)
    assert (made[0].n, made[0].total, made[0].closed) == (7, 7, True)
    assert "6 rows written" in made[0].told


def test_a_function_of_ones_own_gets_every_report() -> None:
    seen: list[IngestReport] = []
    run(seen.append)
    assert [report.read for report in seen] == [3, 7]
