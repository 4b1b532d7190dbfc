"""Puts the figures of a finished run into README and documentation, between two markers: `make bench-readme`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, cast

from svr_retrievers.errors import InputError, SVRError
from svr_retrievers.model import JsonValue

START, END = "<!-- bench:start -->", "<!-- bench:end -->"
MOST_FIGURES = 5
"""A row with more figures than this is summed up in the short table."""
PICTURES = {"": "goals", "-recall": "recall", "-filters": "filters"}
_MARKS = {True: "yes", False: "**no**", None: ""}

Json: TypeAlias = Mapping[str, JsonValue]


def main(arguments: Sequence[str]) -> int:
    """FILE: the JSON of a run, with its pictures beside it. Works in the current folder, a clone."""
    try:
        publish(Path(arguments[0]), Path())
    except (SVRError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command's answer
        return 1
    return 0


def publish(results: Path, root: Path) -> None:
    """The short table into README.md, the whole one into docs/benchmarks.md, pictures and records beside them.

    Raises:
        InputError: the run was stopped before its end, or a page has no markers.
    """
    run = cast("Json", json.loads(results.read_text("utf-8")))
    if not run.get("finished"):
        raise InputError(f"{results} is of a run that did not finish.", hint="Run `make bench` to its end.")
    pages = ((root / "README.md", short(run)), (root / "docs/benchmarks.md", whole(run)))
    written = [(page, inserted(page, table)) for page, table in pages]
    for page, text in written:
        page.write_text(text, "utf-8")
    shutil.copyfile(results, root / "benchmarks/published.json")
    for ending, name in PICTURES.items():
        picture = results.with_name(f"{results.stem}{ending}.svg")
        if picture.exists():
            shutil.copyfile(picture, root / f"docs/images/bench-{name}.svg")


def inserted(page: Path, table: str) -> str:
    """The page with `table` in place of what stands between the markers."""
    text = page.read_text("utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise InputError(f"{page} has no {START} and {END}.", hint="Put both where the table should stand.")
    return f"{before}{START}\n{table}\n{END}{after}"


def short(run: Json) -> str:
    """A line a row: the figures that have a goal."""
    lines = ["| # | what | measured (goal) | met |", "|---|---|---|---|"]
    for record in _records(run):
        values, goals = _of(record, "value"), _of(record, "goal")
        if goals:
            told = [f"{name}: {values[name]} ({goal})" for name, goal in goals.items()]
            shown = "; ".join(told) if len(told) <= MOST_FIGURES else _tally(record)
            gaps = [f"{name}: not measured" for name in _of(record, "not_measured")]
            mark = _MARKS[cast("bool | None", record["met"])]
            lines.append(f"| {record['id']} | {record['what']} | {'; '.join([shown, *gaps])} | {mark} |")
    return "\n".join([_title(run), "", *lines])


def whole(run: Json) -> str:
    """A line a figure, and the settings behind them."""
    lines = ["| # | what | figure | value | goal | met |", "|---|---|---|---|---|---|"]
    notes = []
    for record in _records(run):
        goals, verdicts = _of(record, "goal"), _of(record, "checks")
        first = f"{record['id']} | {record['what']}"
        for figure, value in _of(record, "value").items():
            mark = _MARKS[cast("bool | None", verdicts.get(figure))]
            lines.append(f"| {first} | {figure} | {value} | {goals.get(figure, '')} | {mark} |")
            first = " | "
        lines += [f"|  |  | {part} | not measured | | |" for part in _of(record, "not_measured")]
        notes += [f"- {record['id']}: {note}" for note in cast("Sequence[str]", record["notes"])]
    return "\n".join([_title(run), "", *lines, "", "Settings:", "", *notes])


def _tally(record: Json) -> str:
    verdicts = list(_of(record, "checks").values())
    return f"{verdicts.count(True)} of {len(verdicts)} figures at their goal"


def _title(run: Json) -> str:
    machine = _of(_records(run)[0], "machine")
    versions = cast("Json", machine["versions"])
    loads = [float(cast("float", _of(record, "machine")["load_before"])) for record in _records(run)]
    return (
        f"{cast('int', run['rows']):,} vectors of {run['dimensions']} dimensions, seed {run['seed']}, in"
        f" {cast('float', run['seconds']) / 60:.0f} minutes; {machine['cores']} cores, {machine['memory_gib']} GiB,"
        f" load {min(loads):g} to {max(loads):g}; PostgreSQL {versions['postgresql']}, pgvector"
        f" {versions['pgvector (server)']}."
    )


def _records(run: Json) -> Sequence[Json]:
    return cast("Sequence[Json]", run["records"])


def _of(record: Json, name: str) -> Json:
    return cast("Json", record[name])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
