"""How a run shows how far it is: a bar of rich in terminals, of tqdm in notebooks, or a function of the caller's."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TypeAlias

from svr_retrievers.ingest.report import IngestReport

OnProgress: TypeAlias = Callable[[IngestReport], object]


def shown(progress: bool | OnProgress, total: int | None) -> AbstractContextManager[OnProgress]:
    """`total` is the number of documents, where the source knows it.

    True shows nothing where nobody would see it: neither in a notebook nor on a terminal (standard error).
    """
    if callable(progress):
        return nullcontext(progress)
    if progress:
        with suppress(ImportError):  # neither bar is worth a failure
            if _in_notebook():
                return _NotebookBar(total)
            if sys.stderr.isatty():
                return _TerminalBar(total)
    return nullcontext(_nothing)


def _nothing(report: IngestReport) -> None:
    """Shows nothing."""


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _told(report: IngestReport) -> str:
    figures = [f"{report.written:,} rows written"]
    figures += [f"{report.unchanged:,} unchanged"] if report.unchanged else []
    figures += [f"{report.refused:,} refused"] if report.refused else []
    return ", ".join(figures)


class _TerminalBar(AbstractContextManager[OnProgress]):
    def __init__(self, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("documents, {task.description}"),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> OnProgress:
        self._bar.start()
        return lambda report: self._bar.update(self._task, completed=report.read, description=_told(report))

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


class _NotebookBar(AbstractContextManager[OnProgress]):
    def __init__(self, total: int | None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without ipywidgets it is a line of text, which does as well
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, unit=" documents")

    def __enter__(self) -> OnProgress:
        def update(report: IngestReport) -> None:
            self._bar.update(report.read - self._bar.n)
            self._bar.set_postfix_str(_told(report))

        return update

    def __exit__(self, *_: object) -> None:
        self._bar.close()
