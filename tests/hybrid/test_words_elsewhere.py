"""Searches by words and scans where PostgreSQL is not alone: declared languages, further servers, control elsewhere."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from svr_retrievers import Collection, Document, Settings, SVRClient, by_field, errors
from svr_retrievers.testing.base import Make
from svr_retrievers.testing.conformance import Suite
from svr_retrievers.testing.data import documents, vector
from svr_retrievers.testing.mongodb import Mongod
from svr_retrievers.testing.mongodb.server import binary
from svr_retrievers.testing.scanning import ScanningConformance
from svr_retrievers.testing.words import WordsConformance, fill

if TYPE_CHECKING:
    from conftest import OwnServer

pytestmark = [pytest.mark.hybrid, pytest.mark.postgres, pytest.mark.slow]


@pytest.fixture(scope="module")
def plain(postgres_url: str) -> Iterator[SVRClient]:
    with SVRClient(postgres_url) as client:
        yield client


@pytest.fixture(scope="module")
def spread(three_servers: list[OwnServer]) -> Iterator[SVRClient]:
    main, east, west = three_servers
    with SVRClient(main.url()) as client:
        client.add_server("east", east.url())
        client.add_server("west", west.url())
        yield client


@pytest.fixture(scope="module")
def controlled(postgres_url: str) -> Iterator[SVRClient]:
    try:
        binary()
    except errors.MissingExtra as missing:
        pytest.skip(str(missing))
    with Mongod() as server:
        hosts, _, options = server.uri.partition("?")
        control = f"{hosts.rstrip('/')}/control_{secrets.token_hex(6)}?{options}"
        with SVRClient(postgres_url, control=control, settings=Settings(db_schema="elsewhere")) as client:
            yield client


class TestDeclared(WordsConformance):
    """The words are a generated column from the beginning."""

    @pytest.fixture
    def client(self, plain: SVRClient) -> SVRClient:
        return plain

    @pytest.fixture
    def make(self, client: SVRClient, name: str) -> Make:
        def make(**given: object) -> Collection:
            given.setdefault("dimensions", 4)
            return client.create_collection(name, text_search="simple", **given)  # type: ignore[arg-type]

        return make


class TestSpread(WordsConformance, ScanningConformance, Suite):
    """Texts are here, vectors on other servers."""

    servers = ("east", "west")

    @pytest.fixture
    def client(self, spread: SVRClient) -> SVRClient:
        return spread

    def test_a_declared_language_is_here_as_well(self, client: SVRClient, name: str) -> None:
        collection = client.create_collection(
            name, dimensions=4, servers=["east"], text_search="english", partition_by=by_field("category")
        )
        assert fill(collection).keywords(text="sell").ids == ("d",)

    def test_words_are_found_while_a_server_is_down(self, make: Make, three_servers: list[OwnServer]) -> None:
        """The last test of the class: the server comes back for the others."""
        collection = fill(make())
        three_servers[1].kill()
        try:
            assert collection.keywords(text="plumber").ids == ("a",)
            with contextlib.suppress(errors.SVRError):
                collection.search(vector=vector(1))
            result = collection.hybrid(text="plumber", vector=vector(1))
            assert result[0].id == "a"
            assert result.incomplete is not None
            assert result.incomplete.code == "leg_failed"
        finally:
            three_servers[1].start()


class TestControlled(WordsConformance, ScanningConformance):
    """The maps are agreed on in MongoDB."""

    @pytest.fixture
    def client(self, controlled: SVRClient) -> SVRClient:
        return controlled


class TestMemory:
    def test_without_bm25_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "bm25s", None)
        with SVRClient("memory://") as client:
            collection = client.create_collection("papers", dimensions=4)
            collection.add(documents(3))
            with pytest.raises(errors.MissingExtra, match=r"svr-retrievers\[keywords\]"):
                collection.keywords(text="text")

    def test_every_write_counts_at_once(self) -> None:
        with SVRClient("memory://") as client:
            collection = client.create_collection("papers", dimensions=4)
            for n in range(20):
                collection.add([Document(f"d{n}", f"shared word{n}", vector=vector(n))])
                assert collection.keywords(text=f"word{n}").ids == (f"d{n}",)
                assert len(collection.keywords(text="shared", limit=50)) == n + 1
            collection.add([Document("d3", "other", vector=vector(3))], namespace="theirs")
            collection.delete(["d3"])
            assert collection.keywords(text="word3").ids == ()
            assert collection.keywords(text="other", namespace="theirs").ids == ("d3",)
            client.drop_collection("papers")
            assert client.create_collection("papers", dimensions=4).keywords(text="shared").ids == ()

    def test_texts_without_words_are_no_trouble(self) -> None:
        with SVRClient("memory://") as client:
            collection = client.create_collection("papers", dimensions=4)
            collection.add([Document("a", "", vector=vector(1)), Document("b", "!?", vector=vector(2))])
            assert collection.keywords(text="word").ids == ()
            collection.add([Document("c", "word", vector=vector(3))])
            assert collection.keywords(text="word").ids == ("c",)
