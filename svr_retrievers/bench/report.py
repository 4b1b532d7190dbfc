"""Tells a terminal or a log how a run is getting on, and hands on what there is after each row."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from svr_retrievers.bench import table
from svr_retrievers.bench.run import Run


class Reporter:
    """A bar with the current step on a terminal; elsewhere a line a step, with the minutes since the start."""

    def __init__(self, console: Console, keep: Callable[[Run], None]) -> None:
        self._console = console
        self._keep = keep
        self._started = time.perf_counter()
        self._shown: set[str] = set()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """What is being done now."""
        if self._console.is_terminal:
            self._bar.update(self._task, description=escape(text))
        else:
            minutes, seconds = divmod(int(time.perf_counter() - self._started), 60)
            self._console.print(f"[dim]{minutes:3}:{seconds:02} {escape(text)}[/dim]")

    def progress(self, so_far: Run, rows: int) -> None:
        """Shows the figures of the row that was just measured."""
        self._bar.update(self._task, total=rows, completed=len(so_far.records))
        for record in so_far.records:
            if record.id not in self._shown:
                self._shown.add(record.id)
                for line in table.plain(record):
                    self._console.print(escape(line), soft_wrap=True, highlight=False)
        self._keep(so_far)

    def finished(self, run: Run) -> None:
        """The whole table on a terminal; a log has all figures already, and gets their sum."""
        if self._console.is_terminal:
            table.show(run, self._console)
        verdicts = [check.met for r in run.records for check in r.finding.checks if check.met is not None]
        told = (
            f"{verdicts.count(True)} of {len(verdicts)} figures at their goal, {run.seconds / 60:.1f} minutes"
        )
        self._console.print(f"{table.title(run)}: {told}", soft_wrap=True, highlight=False)
        self._keep(run)
