"""`svr config show`: every setting, its value and where it comes from. Secrets stay hidden."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from pydantic import SecretStr
from rich.table import Table
from rich.text import Text

from svr_retrievers.cli.store import console, print_json
from svr_retrievers.settings import Settings, redact

app = App(name="config", help="Show the settings.")


@app.command
def show(*, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Show every setting with its value and source.

    Parameters
    ----------
    json
        Print JSON.
    """
    settings = Settings.load()
    rows = [
        {
            "setting": name,
            "value": _shown(getattr(settings, name)),
            "source": _source(name),
            "meaning": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]
    if json:
        print_json(rows)
        return
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("setting", no_wrap=True)
    table.add_column("value", style="bold", overflow="fold")
    table.add_column("source", overflow="fold")
    table.add_column("meaning", style="dim")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    console().print(table)


def _shown(value: object) -> object:
    if isinstance(value, SecretStr):
        return redact(value.get_secret_value())
    return value if value is None or isinstance(value, int | float) else str(value)


def _source(name: str) -> str:
    """The environment wins over the file, which wins over the default."""
    variable = f"SVR_{name.upper()}"
    if variable in os.environ:
        return variable
    file = os.environ.get("SVR_CONFIG_FILE")
    if file:
        body = tomllib.loads(Path(file).read_text("utf-8"))
        inner = body.get("svr", body)
        if name in inner:
            return file
    return "default"
