"""`svr doctor`: is everything in place? Exit code 1 if something has to be mended."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import anyio
from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from svr_retrievers.cli.checks import Check
from svr_retrievers.cli.config import stray_variables
from svr_retrievers.cli.store import HERE, Store, console, print_json
from svr_retrievers.settings import Settings

MARKS = {"ok": ("✓", "green"), "note": ("!", "yellow"), "fail": ("✗", "bold red")}


def doctor(
    *,
    store: Store = HERE,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Check the connection, the server, settings, rights, indexes, and on PostgreSQL pgvector, schema and clocks.

    Parameters
    ----------
    json
        Print JSON.
    """
    settings = Settings.load()
    with store.client() as client:
        if client.backend == "memory":
            print("memory:// keeps everything in this process: there is nothing to check.")
            return 0
        found = _checked(store, client.backend, settings)
        found += [Check("environment", "note", line, "see: svr config show") for line in stray_variables()]
    if json:
        print_json([asdict(check) for check in found])
    else:
        table = Table.grid(padding=(0, 1))
        for check in found:
            table.add_row(Text(*MARKS[check.state]), Text(check.name, "bold"), Text(check.detail))
            if check.fix:
                table.add_row("", "", Text(f"→ {check.fix}", "dim"))
        console().print(table)
    return int(any(check.state == "fail" for check in found))


def _checked(store: Store, backend: str, settings: Settings) -> list[Check]:
    url = store.database_url(settings)
    if backend == "mongodb":
        from svr_retrievers.cli import mongodb_checks

        return anyio.run(mongodb_checks.checks, url, settings)
    from svr_retrievers.cli import postgres_checks

    return list(postgres_checks.checks(url, settings))
