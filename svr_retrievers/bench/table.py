"""Shows a run: a table on the terminal, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from svr_retrievers.bench.record import Check, Record, rounded
from svr_retrievers.bench.run import Run

NOT_MEASURED = "not measured"
_MARKS = {True: "yes", False: "no", None: ""}
_STYLES = {True: "green", False: "red", None: "dim"}


def show(run: Run, console: Console) -> None:
    table = Table(title=title(run), title_justify="left")
    for name in ("row", "what", "figure", "value", "goal", "met"):
        table.add_column(name, justify="right" if name == "value" else "left", overflow="fold")
    for record in run.records:
        for number, (figure, value, goal, met) in enumerate(lines(record)):
            first = number == 0
            style = "yellow" if value == NOT_MEASURED else _STYLES[met]
            table.add_row(
                record.id if first else "",
                escape(record.what) if first else "",
                escape(figure),
                value,
                goal,
                f"[{style}]{_MARKS[met]}[/{style}]",
                end_section=number == len(list(lines(record))) - 1,
            )
    console.print(table)
    for record in run.records:
        for part, why in record.finding.gaps.items():
            console.print(f"row {record.id}: {escape(part)} {NOT_MEASURED}: {escape(why)}")


def lines(record: Record) -> Iterator[tuple[str, str, str, bool | None]]:
    """Figure, value, goal, met: one line a figure, then one for each part that could not be measured."""
    for check in record.finding.checks:
        yield check.name, _shown(check), check.goal or "", check.met
    for part in record.finding.gaps:
        yield part, NOT_MEASURED, "", None


def plain(record: Record) -> Iterator[str]:
    """A row as lines of text, as soon as it is measured."""
    yield f"row {record.id}: {record.what} ({record.seconds:.0f} s)"
    for figure, value, goal, met in lines(record):
        verdict = {True: ", met", False: ", not met", None: ""}[met]
        yield f"    {figure}: {value}" + (f" (goal {goal}{verdict})" if goal else "")
    for note in record.finding.notes:
        yield f"    {note}"
    for part, why in record.finding.gaps.items():
        yield f"    {part} {NOT_MEASURED}: {why}"


def markdown(run: Run) -> str:
    """The table for a README or a page of the documentation."""
    head = ["| # | what | figure | value | goal | met |", "|---|---|---|---|---|---|"]
    body = [
        f"| {record.id if not number else ''} | {record.what if not number else ''} | {figure} | {value} | {goal}"
        f" | {_MARKS[met]} |"
        for record in run.records
        for number, (figure, value, goal, met) in enumerate(lines(record))
    ]
    return "\n".join([title(run), "", *head, *body]) + "\n"


def title(run: Run) -> str:
    facts = run.records[0].machine if run.records else {}
    versions = facts.get("versions")
    told = versions if isinstance(versions, dict) else {}
    loads = [float(str(record.machine["load_before"])) for record in run.records]
    load = f", load {min(loads):g} to {max(loads):g}" if loads else ""
    return (
        f"{run.size.rows:,} vectors, seed {run.seed}; {facts.get('cores', '?')} cores, "
        f"{facts.get('memory_gib', '?')} GiB{load}; PostgreSQL {told.get('postgresql', '?')}, "
        f"pgvector {told.get('pgvector (server)', '?')}"
    )


def _shown(check: Check) -> str:
    return f"{rounded(check.value):g}"
