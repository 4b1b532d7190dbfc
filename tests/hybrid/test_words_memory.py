"""Words in memory leave the program's logs alone, and a hybrid search says what it needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from svr_retrievers import Document, SVRClient
from svr_retrievers.errors import InputError

pytestmark = pytest.mark.hybrid

PROGRAM = """
import logging

logging.basicConfig(level=logging.WARNING)
from svr_retrievers import Document, SVRClient

with SVRClient("memory://") as client:
    notes = client.create_collection("notes", dimensions=2)
    notes.add([Document("1", "an invoice", vector=[1.0, 0.0])])
    print(notes.keywords(text="invoice").ids, logging.getLogger("bm25s").level)
"""


def test_the_engines_log_keeps_the_level_that_the_program_set() -> None:
    pytest.importorskip("bm25s")
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "('1',) 0"
    assert done.stderr == ""


def test_a_hybrid_search_without_an_embedder_names_the_two_ways_out() -> None:
    pytest.importorskip("bm25s")
    with SVRClient("memory://") as client:
        notes = client.create_collection("notes", dimensions=2)
        notes.add([Document("1", "an invoice", vector=[1.0, 0.0])])
        with pytest.raises(InputError, match=r"without an embedder") as caught:
            notes.hybrid(text="invoice")
        assert "vector=" in caught.value.hint
        assert "keywords(" in caught.value.hint
        assert notes.hybrid(text="invoice", vector=[1.0, 0.0]).ids == ("1",)
        assert notes.keywords(text="invoice").ids == ("1",)
