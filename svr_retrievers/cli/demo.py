"""`svr demo`: real text, asked through one shared index and through routed partitions."""

from __future__ import annotations

import json as json_format
import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from svr_retrievers import SVRClient
from svr_retrievers.cli.store import Store, console
from svr_retrievers.errors import InputError
from svr_retrievers.settings import Settings


def demo(
    *,
    path: Path | None = None,
    fresh: Annotated[bool, Parameter(negative=())] = False,
    url: str | None = None,
    data_path: Path | None = None,
    limit: int | None = None,
    questions: int = 100,
    json: Path | None = None,
    svg: Path | None = None,
) -> None:
    """Compare one shared index with routed partitions, on real text, on this machine.

    Reads the documentation inside this Python's standard library (or your own folder), embeds it with
    a small local model and stores it twice in PostgreSQL: in a plain pgvector table, and routed. Then
    asks both the same filtered questions. No network; a second run finds everything in place. It uses
    the schema svr_demo and the collection svr_demo; each folder of your own gets another pair of its own.

    Parameters
    ----------
    path
        A folder of your own .txt and .md files; the first sub-folder is the category.
    fresh
        Read, embed and store everything anew.
    url
        postgresql://user@host/database, instead of the embedded PostgreSQL.
    data_path
        Data folder of the embedded PostgreSQL.
    limit
        Use only this many documents, spread evenly over the corpus.
    questions
        Questions per filter.
    json
        Also write the figures to this file.
    svg
        Also write a picture of the figures to this file.
    """
    from svr_retrievers.backends.postgres.connection import translated
    from svr_retrievers.demo.postgres_table import SharedTable
    from svr_retrievers.demo.prepare import Options, Stores
    from svr_retrievers.demo.report import Bars, show
    from svr_retrievers.demo.run import run
    from svr_retrievers.embedding.local import WordLlamaEmbedder

    options = Options(path, fresh, limit, questions)
    for file in (json, svg):
        _check_writable(file)
    source, embedder = options.source(), WordLlamaEmbedder()
    address = Store(url, data_path).database_url(Settings.load())
    if address.startswith("memory:"):
        raise InputError(
            "The demo compares with a pgvector table.", hint="Leave --url out, or give postgresql://..."
        )
    out = console()
    with SVRClient(address) as client, translated(), SharedTable(address, options.place) as table:
        findings = run(Stores(client, table), source, embedder, options, Bars(out))
    show(findings, out, store=_again(url, data_path))
    if json is not None:
        json.write_text(json_format.dumps(findings.to_json(), indent=2) + "\n", "utf-8")
    if svg is not None and not findings.results:
        print(f"{svg} was not written: there is nothing to draw.")
    elif svg is not None:
        from svr_retrievers.demo.picture import svg as draw

        svg.write_text(draw(findings), "utf-8")


def _again(url: str | None, data_path: Path | None) -> str:
    if url is not None:
        return " --url ..."
    return "" if data_path is None else f" --data-path {shlex.quote(str(data_path))}"


def _check_writable(file: Path | None) -> None:
    """Before minutes of work, not after."""
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise InputError(f"{file} cannot be written.", hint="Name a file in a folder that exists.")
