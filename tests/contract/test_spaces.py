"""A collection remembers the space of its vectors, and takes no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svr_retrievers import Document, SVRClient
from svr_retrievers.embedding import EmbeddingService
from svr_retrievers.errors import DimensionMismatch, InputError, SpaceMismatch
from svr_retrievers.spaces import VectorSpace, space_of

SMALL = VectorSpace("openai", "text-embedding-3-small", 4)
OTHERS = [
    replace(SMALL, provider="azure"),
    replace(SMALL, model="text-embedding-3-large"),
    replace(SMALL, version="2"),
    replace(SMALL, normalized=True),
    replace(SMALL, inputs="query:/passage:"),
    replace(SMALL, dtype="binary"),
]


class Embeds:
    """One vector for whatever it is asked; `space` as declared."""

    def __init__(self, space: object = None) -> None:
        if space is not None:
            self.space = space

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return [1.0, float(len(text)), 0.0, 0.0]


class Costs(Embeds):
    """An embedder that declares its vectors' length, and counts what it is asked."""

    def __init__(self, space: object = None, dimensions: object = None) -> None:
        super().__init__(space)
        self.dimensions = dimensions
        self.asked = 0

    def embed_query(self, text: str) -> list[float]:
        self.asked += 1
        return super().embed_query(text)


@pytest.fixture(params=["memory", "postgres", "mongodb"])
def client(request: pytest.FixtureRequest):
    if request.param == "postgres":
        yield request.getfixturevalue("svr_client")
        return
    url = "memory://" if request.param == "memory" else request.getfixturevalue("mongodb_url")
    with SVRClient(url) as made:
        yield made


def test_a_collection_keeps_the_space_it_was_made_with(client: SVRClient) -> None:
    made = client.create_collection("c", embedder=Embeds(SMALL))
    assert made.space == SMALL
    made.add([Document("1", "text")])
    again = client.collection("c", embedder=Embeds(SMALL))
    assert again.space == SMALL == again.aio.space
    assert again.search(text="text").ids == ("1",)
    assert client.collection("c").space == SMALL


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_an_embedder_of_another_space_is_refused_and_both_are_named(other: VectorSpace) -> None:
    with SVRClient("memory://") as client:
        client.create_collection("c", embedder=Embeds(SMALL))
        for opens in (
            lambda: client.collection("c", embedder=Embeds(other)),
            lambda: client.create_collection("c", embedder=Embeds(other), if_exists="open"),
        ):
            with pytest.raises(SpaceMismatch) as caught:
                opens()
            assert str(SMALL) in str(caught.value)
            assert str(other) in str(caught.value)


def test_a_stored_space_refuses_others_on_every_backend(client: SVRClient) -> None:
    client.create_collection("c", embedder=Embeds(SMALL))
    with pytest.raises(SpaceMismatch, match="text-embedding-3-small"):
        client.collection("c", embedder=Embeds(OTHERS[1]))
    client.collection("c", embedder=Embeds()).add(
        [Document("1", "an embedder that declares nothing is believed")]
    )


def test_a_collection_of_plain_vectors_has_no_space_and_takes_any_embedder() -> None:
    with SVRClient("memory://") as client:
        made = client.create_collection("c", dimensions=4)
        assert made.space is None
        assert client.collection("c", embedder=Embeds(SMALL)).space is None


@given(st.builds(VectorSpace, st.text(min_size=1), st.text(min_size=1), st.integers(1, 9_999), st.text(), st.booleans(),
                 st.text(), st.sampled_from(["float32", "int8", "binary"])))  # fmt: skip
def test_ids_tell_spaces_apart_and_survive_json(space: VectorSpace) -> None:
    again = VectorSpace.of_json(space.to_json())
    assert again == space
    assert again.id == space.id
    assert replace(space, model=space.model + "x").id != space.id
    assert replace(space, normalized=not space.normalized).id != space.id


def test_what_is_no_space_is_refused_or_ignored() -> None:
    for fault in (
        lambda: VectorSpace("", "m", 3),
        lambda: VectorSpace("p", "", 3),
        lambda: VectorSpace("p", "m", 0),
    ):
        with pytest.raises(InputError):
            fault()
    for odd in (
        {"version": 5},
        {"normalized": "yes"},
        {"dtype": "float16"},
        {"dtype": ["int8"]},
        {"inputs": 3},
    ):
        with pytest.raises(InputError, match=next(iter(odd))):
            VectorSpace("p", "m", 3, **odd)  # type: ignore[arg-type]
    assert space_of(Embeds("text-embedding-3-small")) is None
    assert space_of(None) is None


@pytest.mark.parametrize(
    "declares",
    [lambda one: one, lambda one: EmbeddingService(one, space=SMALL)],
    ids=["itself", "by a service"],
)
@pytest.mark.parametrize("embedder", [Costs(SMALL), Costs(dimensions=4)], ids=["space", "dimensions"])
def test_what_an_embedder_declares_is_not_paid_for(declares, embedder: Costs) -> None:
    embedder.asked = 0
    with SVRClient("memory://") as client:
        for _ in range(2):
            made = client.create_collection("c", embedder=declares(embedder), if_exists="open")
        client.collection("c", embedder=declares(embedder))
    assert made.dimensions == 4
    assert embedder.asked == 0


@pytest.mark.parametrize("dimensions", [None, True, 0, "4"])
def test_one_that_declares_no_length_is_asked_once(dimensions: object) -> None:
    embedder = Costs(dimensions=dimensions)
    with SVRClient("memory://") as client:
        assert client.create_collection("c", embedder=embedder).dimensions == 4
    assert embedder.asked == 1


@pytest.mark.parametrize("embedder", [Embeds(SMALL), Costs(dimensions=4)], ids=["space", "dimensions"])
def test_an_embedder_of_another_length_is_refused_where_it_is_given(embedder: Embeds) -> None:
    with SVRClient("memory://") as client:
        for if_exists in ("error", "open"):
            with pytest.raises(DimensionMismatch, match=r"has 3 dimensions.* have 4\."):
                client.create_collection("c", embedder=embedder, dimensions=3, if_exists=if_exists)  # type: ignore[arg-type]
        assert client.list_collections() == []
        client.create_collection("plain", dimensions=3)
        with pytest.raises(DimensionMismatch, match=r"'plain' has 3 dimensions.* have 4\."):
            client.collection("plain", embedder=embedder)
