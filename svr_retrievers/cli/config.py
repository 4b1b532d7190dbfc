"""`svr config show`: every setting, its value and where it comes from. Secrets stay hidden."""

from __future__ import annotations

import difflib
import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from pydantic import SecretStr
from rich.table import Table
from rich.text import Text

from svr_retrievers.cli.store import HERE, Store, console, print_json
from svr_retrievers.settings import Settings, redact

FOR_TESTS = "SVR_TEST_"

app = App(name="config", help="Show the settings.")


@app.command
def show(*, store: Store = HERE, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Show every setting with its value and source.

    `--url` and `--path` are shown as what they set, as the other commands would use them.

    Parameters
    ----------
    json
        Print JSON.
    """
    settings = Settings.load()
    options = _options(store)
    rows = [
        {
            "setting": name,
            "value": _shown(options.get(name, getattr(settings, name))),
            "source": _source(name, options),
            "meaning": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]
    for line in stray_variables():
        print(f"svr: warning: {line}", file=sys.stderr)
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


def _options(store: Store) -> dict[str, object]:
    """What the options set; a folder named here wins over a URL of the environment."""
    if store.url is not None:
        return {"url": SecretStr(store.url)} | ({} if store.path is None else {"path": store.path})
    return {} if store.path is None else {"url": None, "path": store.path}


def stray_variables() -> list[str]:
    """A line for each SVR_ variable of the environment that sets nothing, with the setting it may mean."""
    known = [f"SVR_{name.upper()}" for name in Settings.model_fields] + ["SVR_CONFIG_FILE"]
    lines = []
    for name in sorted(os.environ):
        if not name.upper().startswith("SVR_") or name.upper() in known or name.upper().startswith(FOR_TESTS):
            continue
        near = difflib.get_close_matches(name.upper(), known, n=1)
        lines.append(
            f"{name} is no setting and has no effect." + (f" Did you mean {near[0]}?" if near else "")
        )
    return lines


def _shown(value: object) -> object:
    if isinstance(value, SecretStr):
        return redact(value.get_secret_value())
    return value if value is None or isinstance(value, int | float) else str(value)


def _source(name: str, options: Mapping[str, object]) -> str:
    """An option wins over the environment, which wins over the file, which wins over the default."""
    if name in options:
        return f"--{name}" if options[name] is not None else "--path"
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
