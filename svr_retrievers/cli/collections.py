"""`svr collections` and `svr map`: what is stored, and how it is partitioned."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from svr_retrievers import Collection
from svr_retrievers.cli.store import HERE, Json, Store, console, found, print_json
from svr_retrievers.demo.report import counted, partition_table
from svr_retrievers.errors import InputError

app = App(name="collections", help="List, show and drop collections.")


@app.command(name="list")
def list_all(*, store: Store = HERE, json: Json = False) -> None:
    """List the collections with their sizes.

    Parameters
    ----------
    json
        Print JSON.
    """
    with store.client() as client:
        facts = [_facts(client.collection(name)) for name in client.list_collections()]
    if json:
        print_json(facts)
    elif not facts:
        console().print("No collections yet.")
    else:
        columns = ("name", "rows", "partitions", "dimensions", "metric", "partition_by")
        table = Table(*columns, box=None, header_style="dim", padding=(0, 2, 0, 0))
        for row in facts:
            table.add_row(*(Text(f"{row[c]:,}" if isinstance(row[c], int) else str(row[c])) for c in columns))
        console().print(table)


@app.command
def show(name: str, /, *, store: Store = HERE, json: Json = False) -> None:
    """Show one collection's settings and size.

    Parameters
    ----------
    name
        The collection's name.
    json
        Print JSON.
    """
    with store.collection(name) as collection:
        facts = _facts(collection)
    if json:
        print_json(facts)
        return
    for key, value in facts.items():
        told = ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else value
        console().print(Text.assemble((f"{key:<14}", "dim"), str(told)))


@app.command
def drop(
    name: str,
    /,
    *,
    yes: Annotated[bool, Parameter(name=("--yes", "-y"), negative=())] = False,
    store: Store = HERE,
) -> None:
    """Delete a collection with all its documents.

    Parameters
    ----------
    name
        The collection's name.
    yes
        Do not ask.
    """
    with store.client() as client:
        rows = found(client, name).count()
        if not yes:
            _confirm(name, rows)
        client.drop_collection(name)
    print(f"Dropped {name!r} with {counted(rows, 'document')}.")


def refresh(name: str, /, *, store: Store = HERE) -> None:
    """Build a collection's missing indexes and renew its statistics.

    Parameters
    ----------
    name
        The collection's name.
    """
    with store.collection(name) as collection, _bar() as bar:
        task = bar.add_task("indexing", total=None, visible=False)
        partitions = collection.refresh(
            progress=lambda done, rows: bar.update(task, completed=done, total=rows, visible=True)
        )
    indexed = sum(p.stats.indexed for p in partitions)
    print(
        f"Refreshed {name!r}: {counted(partitions.rows, 'row')} in {counted(len(partitions), 'partition')},"
        f" {indexed} with an index."
    )


def _bar() -> Progress:
    """Shown where errors are shown, and only on a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} of {task.total:,} rows"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def show_map(name: str, /, *, store: Store = HERE, json: Json = False) -> None:
    """Show a collection's partitions, largest first.

    Parameters
    ----------
    name
        The collection's name.
    json
        Print JSON.
    """
    with store.collection(name) as collection:
        partitions = collection.partitions
    if json:
        print_json(
            {
                "generation": partitions.generation,
                "rows": partitions.rows,
                "partitions": [
                    {
                        "path": p.path,
                        "rows": p.stats.rows,
                        "state": p.state.value,
                        "indexed": p.stats.indexed,
                        "server": p.server,
                    }
                    for p in partitions
                ],
            }
        )
        return
    out = console()
    out.print(
        f"[bold]{name}[/]: {counted(len(partitions), 'partition')}, {counted(partitions.rows, 'row')}", end=""
    )
    out.print(f" [dim](generation {partitions.generation})[/]")
    out.print(partition_table(partitions))


def _facts(collection: Collection) -> dict[str, object]:
    return {
        "name": collection.name,
        "rows": collection.partitions.rows,
        "partitions": len(collection.partitions),
        "dimensions": collection.dimensions,
        "metric": collection.metric.value,
        "partition_by": None if collection.partition_by is None else repr(collection.partition_by),
        "filter_fields": {k: getattr(v, "__name__", str(v)) for k, v in collection.filter_fields.items()},
    }


def _confirm(name: str, rows: int) -> None:
    if not sys.stdin.isatty():
        raise InputError(
            f"Dropping {name!r} deletes {counted(rows, 'document')}.", hint="Confirm with --yes."
        )
    if input(f"Delete {name!r} with {counted(rows, 'document')}? Type its name: ").strip() != name:
        raise InputError("The name does not match; nothing was deleted.")
