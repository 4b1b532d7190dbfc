"""Ingests of many documents in little memory, and ingests that are killed anywhere and run again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psycopg
import pytest

from svr_retrievers import Collection, SVRClient, by_field, flat
from tests.ingest.ingest_corpus import DIMENSIONS, expected, vector_of

pytestmark = [pytest.mark.ingest, pytest.mark.postgres, pytest.mark.slow]
DOCUMENTS = int(os.environ.get("SVR_INGEST_DOCUMENTS", "10000"))
KILLS = int(os.environ.get("SVR_INGEST_KILLS", "6"))
POINTS = (
    "embed:before",
    "embed:after",
    "add:before",
    "copy:before",
    "copy:after",
    "add:after",
    "delete:after",
)
ROOT = Path(__file__).parents[2]
MEGABYTES = 400
BATCHES = 100
"""Those of version 1, so that no run comes to its end before it is killed."""


def run(url: str, name: str, how: str, version: int, log: Path, point: str = "never", occurrence: int = 0):
    """The worker's figures; None where it was killed."""
    words = [url, name, how, str(DOCUMENTS), str(version), str(log), point, str(occurrence)]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.ingest.ingest_worker", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    if ended.returncode == -signal.SIGKILL:
        return None
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def client(postgres_url):
    with SVRClient(postgres_url) as made:
        yield made


@pytest.mark.timeout(1800)
def test_documents_with_vectors_stream_through_little_memory(client, postgres_url, tmp_path):
    collection = client.create_collection("streamed", dimensions=DIMENSIONS)

    figures = run(postgres_url, "streamed", "given", 1, tmp_path / "log")

    told(figures)
    assert figures["written"] == figures["read"] == DOCUMENTS == collection.count()
    assert figures["megabytes"] < MEGABYTES
    again = run(postgres_url, "streamed", "given", 1, tmp_path / "log")
    told(again)
    assert (again["unchanged"], again["written"]) == (DOCUMENTS, 0)
    assert again["megabytes"] < MEGABYTES


@pytest.mark.timeout(3600)
def test_killed_anywhere_and_run_again_it_ends_the_same(client, postgres_url, tmp_path):
    """The first half of the kills on the way to version 1, the second on the way from there to version 2."""
    scheme = by_field("kind")
    collection = client.create_collection("killed", dimensions=DIMENSIONS, partition_by=scheme, index=flat())
    chance, log, killed = random.Random(7), tmp_path / "log", 0
    for version in (1, 2):
        for _ in range(KILLS // 2):
            points = POINTS if version == 2 else POINTS[:-1]
            point, occurrence = chance.choice(points), chance.randint(1, BATCHES // (KILLS // 2))
            stored = texts(postgres_url, collection)
            figures = run(postgres_url, "killed", "embedded", version, log, point, occurrence)
            told(f"version {version}: {point} {occurrence}: {'killed' if figures is None else figures}")
            killed += figures is None
            nothing_again(log, stored)
            no_lost_chunks(postgres_url, collection)
        stored = texts(postgres_url, collection)
        told(run(postgres_url, "killed", "embedded", version, log))
        nothing_again(log, stored)
        exactly(postgres_url, collection, version)
        again = run(postgres_url, "killed", "embedded", version, log)
        assert (again["written"], again["embedded"], again["deleted"]) == (0, 0, 0)
        assert not log.exists()
    assert killed == KILLS // 2 * 2


def told(figures: object) -> None:
    """Figures for whoever runs this with -s."""
    sys.stdout.write(f"{figures}\n")


def rows(url: str, collection: Collection) -> list[tuple[str, str, dict]]:
    table = f"c{collection.aio._ref.id}_documents"
    with psycopg.connect(url) as connection:
        schema = connection.execute(
            "select schemaname from pg_tables where tablename = %s", (table,)
        ).fetchone()[0]
        return connection.execute(f'select id, text, metadata from "{schema}"."{table}"').fetchall()


def texts(url: str, collection: Collection) -> set[str]:
    return {text for _, text, _ in rows(url, collection)}


def nothing_again(log: Path, stored: set[str]) -> None:
    """No text that was stored when the run began was embedded in it, and none twice."""
    embedded = log.read_text().splitlines() if log.exists() else []
    assert not stored.intersection(embedded)
    assert len(set(embedded)) == len(embedded)
    log.unlink(missing_ok=True)


def no_lost_chunks(url: str, collection: Collection) -> None:
    """At any moment: where there is a chunk, chunk 0 says that there are more chunks than its number."""
    marks = [metadata["svr_ingest"] for _, _, metadata in rows(url, collection)]
    counts = {mark["document"]: mark["count"] for mark in marks if mark["number"] == 0}
    assert all(mark["number"] < counts[mark["document"]] for mark in marks)


def exactly(url: str, collection: Collection, version: int) -> None:
    found = rows(url, collection)
    wanted = expected(DOCUMENTS, version)
    assert len(found) == len(wanted) == collection.count()
    assert {doc_id: (text, metadata["year"]) for doc_id, text, metadata in found} == wanted
    some = [doc_id for doc_id, _, _ in found][:: max(1, len(found) // 500)]
    for row in collection.get(some, with_vectors=True):
        assert np.array_equal(row.vector, vector_of(row.text))
