"""Shows the findings in a terminal: what was compared, the figures, what they mean, the map, one answer."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from svr_retrievers.demo.compare import LIMIT, CaseResult, Measured
from svr_retrievers.demo.frameworks import Through
from svr_retrievers.demo.postgres_table import SHARED, TUNED
from svr_retrievers.demo.prepare import COMPARABLE_DOCUMENTS
from svr_retrievers.demo.routed import ROUTED
from svr_retrievers.demo.run import Answer, Findings
from svr_retrievers.demo.verdict import verdict
from svr_retrievers.model import PartitionMap

STYLES = {SHARED: "yellow", TUNED: "default", ROUTED: "bold green"}
STEPS = {
    "read": "read",
    "embed": "embedded",
    "store_shared": "stored as tables",
    "store_routed": "stored routed",
}


PAYS_OFF = (
    "Partitions pay off where questions carry filters and the table is too large to be scanned for each: "
    "there an index with defaults comes back short. A small table, or one asked without filters, is "
    "better left whole."
)


def counted(count: int, noun: str, several: str = "") -> str:
    """`1 document`, `2 documents`."""
    return f"{count:,} {noun if count == 1 else several or f'{noun}s'}"


class Bars:
    """A progress bar for each step on the terminal; nothing where the output is not one."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[int, int], None]]:
        columns = (
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=36),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        bars = RichProgress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        )
        with bars:
            task = bars.add_task(title, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)


def show(findings: Findings, console: Console, *, store: str = "") -> None:
    """`store` is the option that names the database again, for the commands to go on with."""
    _heading(console, "The corpus")
    _corpus(findings, console)
    if findings.results:
        _heading(console, "The same questions, three ways")
        _compared(findings, console)
        console.print(figures(findings.results))
        console.print(_bullets([*verdict(findings.results), PAYS_OFF]))
    else:
        few = f"{counted(findings.documents, 'document')}, fewer than {COMPARABLE_DOCUMENTS}"
        console.print(f"Too small to compare: {few}.", highlight=False)
    _heading(console, "The partition map")
    console.print(partition_table(findings.partitions))
    _heading(console, "One question")
    _answer(findings.answer, console)
    _heading(console, "Go on")
    _go_on(findings, console, store)


def _bullets(lines: Sequence[str]) -> Padding:
    grid = Table.grid(padding=(0, 1))
    for line in lines:
        grid.add_row("•", Text(line))
    return Padding(grid, (1, 0, 0, 0))


def _heading(console: Console, title: str) -> None:
    console.print()
    console.print(Rule(f"[bold]{title}[/]", align="left", style="dim"))


def _corpus(findings: Findings, console: Console) -> None:
    prepared = findings.prepared
    categories = len(set(prepared.truth.columns["category"].tolist()))
    console.print(
        f"{prepared.corpus}: [bold]{counted(findings.documents, 'passage')}[/] from"
        f" {counted(prepared.files, 'file')} in [bold]{counted(categories, 'category', 'categories')}[/]",
        highlight=False,
    )
    if prepared.skipped:
        skipped = counted(prepared.skipped, "file")
        console.print(f"Left out, because it is not UTF-8 text: {skipped}.", highlight=False)
    if prepared.warm:
        done = "Already in the database from an earlier run: nothing was read, embedded or stored again."
    else:
        done = " · ".join(f"{STEPS[name]} {value:.1f} s" for name, value in prepared.seconds.items())
    console.print(f"[dim]{done}[/]", highlight=False)


def _compared(findings: Findings, console: Console) -> None:
    versions = findings.versions
    rows = {
        SHARED: "one table, one HNSW index, default settings; psycopg, prepared statement",
        TUNED: "its twin, tuned by hand: B-trees on the filter columns, iterative scan on",
        ROUTED: "SVR, one partition per category, default settings; the blocking client",
    }
    server = f"PostgreSQL {versions.get('postgresql')}, pgvector {versions.get('pgvector')}"
    console.print(
        f"[dim]{findings.questions} questions per filter for {LIMIT} answers, asked in turn over the same vectors"
        f" in the same server\n({server}). found: answers, the bar is their share of those there are;"
        f"\nrecall: of the exact {LIMIT}; ms: median; SVR takes: routed ms as a multiple of the ms in this row.[/]",
        highlight=False,
    )
    for way, text in rows.items():
        console.print(Text.assemble((f"  {way:<15}", STYLES[way]), (text, "dim")))
    console.print()


def figures(results: tuple[CaseResult, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("filter", ""):
        table.add_column(title, no_wrap=True)
    table.add_column("found", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for title in ("recall", "ms", "SVR\ntakes"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("through", style="dim", no_wrap=True)
    for result in results:
        for label, measured in zip(_labels(result), result.ways, strict=True):
            table.add_row(label, *_cells(result, measured), style=STYLES.get(measured.way))
        if result is not results[-1]:
            table.add_row()
    return table


def _labels(result: CaseResult) -> tuple[Text, Text, Text]:
    matches = f"{result.median_matches:,} match"
    return (
        Text(result.name, style="bold default"),
        Text(matches, style="not bold dim default"),
        Text(
            f"{result.possible:.1f} to be found" if result.possible < LIMIT else "",
            style="not bold dim default",
        ),
    )


def _cells(result: CaseResult, measured: Measured) -> tuple[Text | str, ...]:
    times = result.way(ROUTED).median_ms / max(measured.median_ms, 1e-9)
    return (
        measured.way,
        f"{measured.found:.1f}",
        bar(measured.found, result.possible, 10),
        f"{measured.recall:.3f}",
        f"{measured.median_ms:.2f}",
        "" if measured.way == ROUTED else f"{times:.1f} x" if times < 10 else f"{times:.0f} x",
        Text(_how(measured.how), style="not bold dim default"),
    )


def _how(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    if len(ordered) == 1:
        return ordered[0][0]
    total = sum(counts.values())
    return ", ".join(f"{100 * count / total:.0f} % {name.split()[0]}" for name, count in ordered[:2])


def bar(value: float, most: float, width: int) -> str:
    """A horizontal bar with eighths of a character, padded to `width`."""
    eighths = round(8 * width * value / most) if most else 0
    full, part = divmod(min(eighths, 8 * width), 8)
    ends = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
    return ("█" * full + ends[part]).ljust(width)


def partition_table(partitions: PartitionMap) -> Table:
    """The leaves with their rows, largest first."""
    most = max((p.stats.rows for p in partitions), default=0)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("partition", overflow="fold")
    table.add_column("rows", justify="right")
    table.add_column("")
    table.add_column("searched", style="dim")
    for part in sorted(partitions, key=lambda p: (-p.stats.rows, p.path)):
        how = "HNSW" if part.stats.indexed else "exactly"
        how += f", on {part.server}" if part.server is not None else ""
        table.add_row(
            Text(part.path), f"{part.stats.rows:,}", Text(bar(part.stats.rows, most, 40), "green"), how
        )
    return table


def _answer(answer: Answer, console: Console) -> None:
    console.print(Text.assemble(("Q  ", "dim"), (answer.question.text, "bold")))
    console.print(Text.assemble(("   ", ""), (f"filter {json.dumps(dict(answer.where))}", "dim")))
    for hit in answer.result:
        title, _, body = hit.text.partition("\n")
        console.print(Text.assemble((f"  {hit.score:.3f}  ", "green"), (textwrap.shorten(title, 80), "bold")))
        if body.strip():
            console.print(Text(f"         {textwrap.shorten(body, 86, placeholder=' …')}", style="dim"))
    console.print()
    for label, text in (("route", _route_line(answer)), ("explain", _explain_line(answer))):
        console.print(Text.assemble((f"   {label:<12}", "dim"), text))
    for through in answer.through:
        console.print(Text.assemble((f"   {through.framework:<12}", "dim"), _through_line(answer, through)))


def _route_line(answer: Answer) -> str:
    route = answer.result.route
    reasons = "; ".join(f"{p.path}, because {p.reason}" for p in route.partitions[:3])
    return f"by {route.step}: {reasons}"


def _explain_line(answer: Answer) -> str:
    result, recall = answer.result, answer.explanation.recall
    searched = f"{len(result.route.partitions)} of {answer.partitions} partitions searched"
    known = "" if recall is None else f", recall {recall:.2f} against an exact search"
    return f"{searched}, {counted(len(result), 'answer')} in {result.timings.total_ms:.1f} ms{known}"


def _through_line(answer: Answer, through: Through) -> str:
    if through.install:
        return f"not installed; run: {through.install}"
    if through.failure:
        return f"failed: {through.failure}"
    if through.ids == answer.result.ids:
        return f"the same answers, from {through.call}"
    return f"other answers, from {through.call}: {', '.join(through.ids)}"


def command() -> str:
    """What to type for `svr`: the name alone where the shell finds this one, else its path."""
    own = shutil.which("svr", path=str(Path(sys.executable).parent))
    if own is None or shutil.which("svr") == own:
        return "svr"
    path, here = Path(own), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def _go_on(findings: Findings, console: Console, store: str) -> None:
    category = findings.answer.question.category
    where = shlex.quote(json.dumps({"category": category}))
    svr, name = command(), findings.prepared.collection.name
    for line in (
        f'{svr} search {name} "your question" --filter {where}{store}',
        f'{svr} explain {name} "your question" --filter {where} --analyze{store}',
        f"{svr} map {name}{store}",
        f"{svr} demo --path FOLDER{store}    # your own .txt and .md files, a category per sub-folder",
    ):
        console.print(Text(f"  {line}"), soft_wrap=True)
    console.print(f"\nDone in [bold]{findings.seconds['total']:.1f} s[/].", highlight=False)
