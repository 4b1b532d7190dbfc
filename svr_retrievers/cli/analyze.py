"""`svr analyze`: which metadata fields to declare for filters, and which could be the partition key."""

from __future__ import annotations

from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from svr_retrievers.cli.store import HERE, Json, Store, console, print_json
from svr_retrievers.filters.advice import Analysis, FieldAdvice

_STYLES = {"declare": "bold green", "keep": "", "drop": "yellow", "leave": "dim"}


def analyze(
    name: str,
    /,
    *,
    store: Store = HERE,
    json: Json = False,
) -> None:
    """Look at a collection's metadata and suggest which filter fields to declare.

    Parameters
    ----------
    name
        The collection's name.
    json
        Print JSON.
    """
    with store.collection(name) as collection:
        found = collection.analyze()
    if json:
        print_json(
            asdict(found) | {"filter_fields": found.declare, "partition_keys": list(found.partition_keys)}
        )
    else:
        _show(found, console())


def _show(found: Analysis, out: Console) -> None:
    if not found.fields:
        out.print(f"{found.collection}: no metadata to look at.", markup=False)
        return
    out.print(
        Text(f"{found.collection}: {found.rows:,} rows, {found.sampled:,} documents looked at", style="dim")
    )
    columns = ("field", "type", "present", "distinct", "selects", "coherence", "saves", "advice")
    table = Table(*columns, box=None, header_style="dim", padding=(0, 2, 0, 0))
    for field in found.fields:
        table.add_row(*(Text(cell, _STYLES[field.verdict]) for cell in _cells(field)))
    out.print(table)
    _show_steps(found, out)


def _cells(field: FieldAdvice) -> tuple[str, ...]:
    return (
        field.field,
        field.type,
        f"{field.present:.0%}",
        f"{field.distinct:,}",
        f"{field.share:.1%}",
        "" if field.coherence is None else f"{field.coherence:.2f}",
        "" if field.declared else f"{field.gain_ms:.1f} ms",
        f"{field.verdict}: {field.why}",
    )


def _show_steps(found: Analysis, out: Console) -> None:
    """What to do: fields are fixed when a collection is created."""
    if any(f.verdict in ("declare", "drop") for f in found.fields):
        fields = ", ".join(f"{name!r}: {_python(kind)}" for name, kind in found.declare.items())
        out.print(Text(f"\nFields are declared when a collection is created: filter_fields={{{fields}}}"))
        size = sum(f.index_bytes for f in found.fields if f.verdict == "declare")
        out.print(Text(f"Each costs about 1.5 us a row written; the new indexes {size / 1e6:.1f} MB.", "dim"))
    if found.partition_keys:
        keys = ", ".join(f"by_field({key!r})" for key in found.partition_keys)
        out.print(Text(f"Neighbours share these values, so partitions by them stay coherent: {keys}"))


def _python(kind: str) -> str:
    return "datetime.datetime" if kind == "datetime" else kind
