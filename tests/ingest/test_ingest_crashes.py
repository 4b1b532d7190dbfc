"""Whatever is ingested, however often it breaks off and where: a run that ends leaves exactly its documents' rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count, permutations
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from svr_retrievers import Document, SVRClient
from svr_retrievers.errors import IngestFailed
from svr_retrievers.ingest import Chunk, IngestPipeline, target
from svr_retrievers.ingest.marks import Mark
from svr_retrievers.ingest.target import Target
from svr_retrievers.loopfree import LoopFreeCollection
from tests.ingest.ingest_corpus import vector_of

pytestmark = pytest.mark.ingest
_names = count()


class Lines:
    """Cuts at line ends."""

    def cut(self, text: str) -> list[Chunk]:
        return [Chunk(line) for line in text.split("\n") if line.strip()]


class Embedder:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[np.ndarray]:
        self.texts += texts
        return [vector_of(text) for text in texts]

    def embed_query(self, text: str) -> np.ndarray:
        return vector_of(text)


class Broken(Exception):
    """What ends a run at the point chosen."""


@contextmanager
def breaking_at(point: int, *, after: bool):
    """The store's calls, of which number `point` fails, before it has done anything or after it has."""
    calls = count()

    def around(inner):
        async def call(self, *args, **kwargs):
            breaks = next(calls) == point
            if breaks and not after:
                raise Broken
            made = await inner(self, *args, **kwargs)
            if breaks:
                raise Broken
            return made

        return call

    with (
        mock.patch.multiple(
            LoopFreeCollection, **{n: around(getattr(LoopFreeCollection, n)) for n in ("add", "delete")}
        ),
        mock.patch.object(Target, "embed", around(Target.embed)),
    ):
        yield


LINE = st.integers(1, 40).map("line {}".format)
TEXT = st.lists(LINE, max_size=9).map("\n".join)
RUN = st.fixed_dictionaries(
    {
        "texts": st.dictionaries(
            st.sampled_from("abc"), st.tuples(TEXT, st.integers(0, 2)), min_size=1, max_size=3
        ),
        "whole": st.sets(st.sampled_from("abc"), max_size=2),
        "batch_size": st.integers(1, 5),
        "concurrency": st.integers(1, 3),
        "point": st.none() | st.integers(0, 7),
        "after": st.booleans(),
    }
)


def ingest(collection, run) -> bool:
    """Whether the run came to its end."""
    documents = [Document(i, text, {"year": year}) for i, (text, year) in run["texts"].items()]
    pipeline = IngestPipeline(
        collection,
        chunker=lambda document: None if document.id in run["whole"] else Lines(),
        batch_size=run["batch_size"],
        concurrency=run["concurrency"],
        progress=False,
    )
    if run["point"] is None:
        pipeline.run(documents)
        return True
    with breaking_at(run["point"], after=run["after"]), suppress(Broken):
        try:
            pipeline.run(documents)
        except IngestFailed as error:
            raise error.__cause__ or error from None
        return True
    return False


def wanted(run) -> dict[str, tuple[str, int]]:
    rows: dict[str, tuple[str, int]] = {}
    for i, (text, year) in run["texts"].items():
        lines = [line for line in text.split("\n") if line]
        if i in run["whole"]:
            rows |= {i: (text, year)} if lines else {}
        else:
            rows |= {f"{i}#{n}": (line, year) for n, line in enumerate(lines)}
    return rows


def check_marks(collection) -> None:
    """The invariant that `planning` states."""
    marks = [Mark.of(row) for row in collection.find()]
    assert None not in marks
    counts = {mark.document: mark.count for mark in marks if mark.number == 0}
    assert all(mark.number < counts[mark.document] for mark in marks if mark.number is not None)


@pytest.fixture(scope="module")
def client():
    with SVRClient("memory://") as made:
        yield made


@given(st.lists(RUN, min_size=1, max_size=5), RUN)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_any_runs_the_last_one_decides(client, before, last) -> None:
    embedder = Embedder()
    collection = client.create_collection(f"c{next(_names)}", dimensions=64, embedder=embedder)
    for run in before:
        ingest(collection, run)
        check_marks(collection)
    documents = set(last["texts"])
    last = {**last, "point": None}
    ingest(collection, last)

    found = {row.id: row for row in collection.find(with_vectors=True) if row.id.split("#")[0] in documents}
    assert {i: (row.text, row.metadata["year"]) for i, row in found.items()} == wanted(last)
    assert all(np.array_equal(row.vector, vector_of(row.text)) for row in found.values())
    embedder.texts.clear()
    again = len(collection.find())
    ingest(collection, last)
    assert (embedder.texts, len(collection.find())) == ([], again)
    client.drop_collection(collection.name)


def test_a_long_document_that_broke_off_and_came_back_short_leaves_nothing(client) -> None:
    """Ten chunks in batches of three, of which the third is not embedded; then there are two chunks."""
    collection = client.create_collection("long", dimensions=64, embedder=Embedder())
    long = {"texts": {"a": ("\n".join(f"line {n}" for n in range(10)), 1)}, "whole": set(), "batch_size": 3}
    ingest(collection, {**long, "concurrency": 1, "point": 4, "after": False})
    assert 0 < collection.count() < 10
    ingest(collection, {**long, "texts": {"a": ("x\ny", 1)}, "concurrency": 1, "point": None})
    assert [row.id for row in collection.find()] == ["a#0", "a#1"]


def orphaned(collection, *numbers: int, of: str = "a") -> None:
    """Rows behind the last chunk, as two runs over one document at the same time leave them."""
    rows = {}
    made = SVRClient("memory://")
    other = made.create_collection("other", dimensions=64, embedder=Embedder())
    text = "\n".join(f"other {n}" for n in range(max(numbers) + 1))
    IngestPipeline(other, chunker=Lines(), progress=False, batch_size=1000).run([Document(of, text)])
    rows = {row.id: row for row in other.find(limit=1000, with_vectors=True)}
    collection.add([rows[f"{of}#{number}"] for number in numbers])
    made.close()


@pytest.mark.parametrize("before", ["", "x", "x\ny\nz"])
@pytest.mark.parametrize("last", ["", "x", "whole"])
@pytest.mark.parametrize("left", [(3,), (4, 7), (3, 20, 60, 100, 150)])
def test_what_overlapping_runs_left_behind_is_deleted(client, before, last, left) -> None:
    collection = client.create_collection(f"c{next(_names)}", dimensions=64, embedder=Embedder())
    pipeline = IngestPipeline(collection, chunker=Lines(), progress=False)
    pipeline.run([Document("a", before)])
    orphaned(collection, *left)
    orphaned(collection, 3, of="a#3")
    whole = IngestPipeline(collection, progress=False) if last == "whole" else pipeline
    whole.run([Document("a", last)])
    expected = {"": [], "x": ["a#0"], "whole": ["a"]}[last]
    assert [row.id for row in collection.find()] == [*expected, "a#3#3"]


def test_runs_at_the_same_time_and_then_one_alone(client) -> None:
    collection = client.create_collection("together", dimensions=64, embedder=Embedder())

    def run(lines: int) -> None:
        text = "\n".join(f"{lines} {n}" for n in range(lines))
        documents = [Document(f"d{n}", text) for n in range(30)]
        IngestPipeline(collection, chunker=Lines(), batch_size=7, progress=False).run(documents)

    for _ in range(3):
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(run, (1, 3, 6)))
        run(1)
        assert sorted(row.id for row in collection.find()) == sorted(f"d{n}#0" for n in range(30))


SHAPES = {"long": "a\nb\nc\nd\ne\nf\ng", "short": "c\nx", "whole": "a whole one", "empty": ""}


@pytest.mark.parametrize("batch_size", [2, 20])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("first", SHAPES)
def test_every_change_of_shape_broken_off_at_every_call(
    client, first, after, batch_size, monkeypatch
) -> None:
    """From one shape to another, broken off; then to a third one, which has to be there alone."""
    monkeypatch.setattr(target, "IDS_AT_ONCE", 2)

    def shaped(shape: str, point: int | None = None) -> dict:
        whole = {"a"} if shape == "whole" else set()
        options = {"batch_size": batch_size, "concurrency": 2, "point": point, "after": after}
        return {"texts": {"a": (SHAPES[shape], 1)}, "whole": whole, **options}

    for second, third in permutations(SHAPES, 2):
        for point in count():
            collection = client.create_collection(f"c{next(_names)}", dimensions=64, embedder=Embedder())
            ingest(collection, shaped(first))
            ended = ingest(collection, shaped(second, point))
            check_marks(collection)
            ingest(collection, shaped(third))
            assert {row.id: row.text for row in collection.find()} == {
                i: text for i, (text, _) in wanted(shaped(third)).items()
            }
            client.drop_collection(collection.name)
            if ended:
                break
