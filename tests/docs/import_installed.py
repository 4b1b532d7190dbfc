"""Run by `make check-install`: imports what a user's `pip install` left, and does one search with it."""

from importlib.resources import files
from pathlib import Path

import langchain_svr
import llama_index.core
import llama_index.vector_stores.svr

import svr_retrievers
from svr_retrievers import Document, SVRClient
from svr_retrievers.backends.postgres import PostgresBackend

for module in (svr_retrievers, langchain_svr, llama_index.vector_stores.svr, llama_index.core):
    place = Path(str(module.__file__))
    assert "site-packages" in place.parts, f"{module.__name__} comes from {place}, not from its wheel"
    assert (place.parent / "py.typed").is_file(), f"{module.__name__} has no py.typed"
assert PostgresBackend is not None
assert any(f.name.endswith(".sql") for f in files("svr_retrievers.control").joinpath("sql").iterdir())

with SVRClient("memory://") as client:
    made = client.create_collection("installed", dimensions=2)
    made.add([Document("a", vector=[1.0, 0.0]), Document("b", vector=[0.0, 1.0])])
    assert made.search(vector=[1.0, 0.1], limit=1).ids == ("a",)
