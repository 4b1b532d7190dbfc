"""Conformance: searches by words, alone and fused with vectors."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from svr_retrievers.blocking import Collection
from svr_retrievers.errors import InputError, PartitionNotFound
from svr_retrievers.model import Document, SearchResult
from svr_retrievers.routing.schemes import by_field
from svr_retrievers.search.hybrid import Fusion, fuse
from svr_retrievers.testing.base import Make, Suite
from svr_retrievers.testing.data import vector

TEXTS = {
    "a": "the invoice of the plumber was paid in may",
    "b": "the invoice of the baker was not paid",
    "c": "a photograph of the harbour at dawn",
    "d": "the baker sells bread and the baker sells cake",
    "e": "json.dumps turns an object into text",
    "f": "the harbour",
}


def fill(collection: Collection, texts: Iterable[tuple[str, str]] = tuple(TEXTS.items())) -> Collection:
    """The texts, each with a vector of its own and a category, in an index of words that holds them all."""
    collection.add(
        [
            Document(doc_id, text, {"category": "even" if at % 2 == 0 else "odd"}, vector=vector(at))
            for at, (doc_id, text) in enumerate(texts)
        ]
    )
    return indexed(collection)


def indexed(collection: Collection) -> Collection:
    collection.keywords(text="anything")
    collection.refresh()
    return collection


def found(collection: Collection, text: str, **options: object) -> str:
    """The ids, best first, as one text."""
    return "".join(collection.keywords(text=text, **options).ids)  # type: ignore[arg-type]


class WordsConformance(Suite):
    def test_one_word_of_a_sentence_is_enough(self, make: Make) -> None:
        collection = fill(make())
        result = collection.keywords(text="Which baker sells photographs, please?")
        assert result.ids == ("d", "b")
        assert result.incomplete is not None
        assert result.incomplete.code == "few_matches"
        assert found(collection, "harbour", limit=1) == "f"

    def test_rare_words_decide_before_common_ones(self, make: Make) -> None:
        collection = fill(make())
        assert found(collection, "the plumber")[0] == "a"
        assert found(collection, "the photograph")[0] == "c"
        assert set(found(collection, "the plumber")) == set("abcdf")

    def test_hits_tell_the_engines_score_and_nothing_of_vectors(self, make: Make) -> None:
        result = fill(make()).keywords(text="invoice baker", limit=3)
        assert [hit.score for hit in result] == sorted((hit.score for hit in result), reverse=True)
        assert result[0].score > 0
        assert result[0].relevance == 1.0
        assert all(0 < hit.relevance <= 1 and math.isnan(hit.distance) for hit in result)
        assert [hit.legs.keyword for hit in result if hit.legs] == [1, 2, 3]
        assert all(hit.legs and (hit.legs.vector, hit.vector) == (None, None) for hit in result)
        assert (result[0].text, result[0].version) == (TEXTS[result[0].id], 1)
        assert result.incomplete is None

    def test_equal_texts_share_a_rank_and_go_by_id(self, make: Make) -> None:
        collection = fill(make(), [(f"t{n:02d}", "the same words") for n in range(30)][::-1])
        result = collection.keywords(text="words", limit=5)
        assert list(result.ids) == [f"t{n:02d}" for n in range(5)]
        assert [hit.legs.keyword for hit in result if hit.legs] == [1] * 5

    def test_words_are_found_whatever_stands_around_them(self, make: Make) -> None:
        texts = [
            ("a", "See json.dumps(value) and snake_case!"),
            ("b", "Totals: 4711 (paid), e.g. by-product"),
            ("c", "It's a 'quoted' <b>word</b> & more\\less % $1 :x"),
            ("d", "ÉCLAIR naïve 東京"),
        ]
        collection = fill(make(), texts)
        for asked, expected in (
            ("JSON.dumps", "a"), ("snake_case", "a"), ("4711", "b"), ("product", "b"), ("QUOTED", "c"),
            ("word", "c"), ("less", "c"), ("éclair", "d"), ("東京", "d"), ("naïve?", "d"),
        ):  # fmt: skip
            assert found(collection, asked) == expected, asked

    @pytest.mark.parametrize(
        "odd", ["' | 'b", "a' & !'b", "\\", "'':*", "baker:* & !cake", "%s %(x)s {0}", '"']
    )
    def test_the_question_is_never_a_query_language(self, make: Make, odd: str) -> None:
        collection = fill(make())
        assert set(found(collection, odd + " plumber")) >= {"a"}

    def test_filters_narrow_partitions_and_namespaces(self, make: Make) -> None:
        collection = fill(make(partition_by=by_field("category"), filter_fields={"category": str}))
        assert set(found(collection, "the baker", filter={"category": "odd"})) == set("bdf")
        assert set(found(collection, "the", filter={"category": {"$ne": "odd"}})) == set("ac")
        assert set(found(collection, "the", partitions=["category=odd"])) == set("bdf")
        assert found(collection, "plumber", filter={"category": "odd"}) == ""
        with pytest.raises(PartitionNotFound):
            collection.keywords(text="the", partitions=["category=none such"])

    def test_namespaces_do_not_see_one_anothers_words(self, make: Make) -> None:
        collection = fill(make())
        collection.add([Document("x", "the baker of another", vector=vector(3))], namespace="theirs")
        indexed(collection)
        assert found(collection, "baker", namespace="theirs") == "x"
        assert set(found(collection, "baker")) == set("bd")
        assert found(collection, "plumber", namespace="theirs") == ""
        assert collection.hybrid(text="baker", vector=vector(3), namespace="theirs").ids == ("x",)

    def test_undeclared_fields_filter_as_well(self, make: Make) -> None:
        collection = fill(make())
        assert set(found(collection, "the", filter={"category": "odd"})) == set("bdf")
        assert found(collection, "baker", filter={"category": {"$in": []}}) == ""

    def test_replaced_and_deleted_texts_are_not_found(self, make: Make) -> None:
        collection = fill(make())
        collection.add([Document("d", "the butcher", {"category": "odd"}, vector=vector(9))])
        collection.delete(["b"])
        indexed(collection)
        assert found(collection, "baker") == ""
        assert found(collection, "butcher") == "d"
        collection.clear()
        assert found(indexed(collection), "butcher") == ""

    def test_hits_by_words_have_vectors_only_when_asked_for(self, make: Make) -> None:
        hit = fill(make()).keywords(text="plumber", with_vectors=True)[0]
        assert hit.vector is not None
        assert list(hit.vector) == pytest.approx(list(vector(0)))

    def test_nothing_found_is_explained(self, make: Make) -> None:
        empty = indexed(make())
        for result in (empty.keywords(text="baker"), fill(empty).keywords(text="zeppelin")):
            assert (len(result), result.limit) == (0, 10)
            assert result.incomplete is not None
            assert result.incomplete.code == "few_matches"

    def test_a_text_without_words_leaves_vectors_to_decide(self, make: Make) -> None:
        collection = fill(make())
        assert collection.keywords(text="?! --").incomplete is not None
        result = collection.hybrid(text="?! --", vector=vector(2), limit=2)
        assert result.ids == collection.search(vector=vector(2), limit=2).ids
        assert result[0].legs is not None
        assert result[0].legs.keyword is None

    @pytest.mark.parametrize("fusion", ["rrf", "distribution", "convex"])
    @pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0), (0.0, 1.0)])
    def test_both_rankings_are_fused_as_they_are(
        self, make: Make, fusion: Fusion, weights: tuple[float, float]
    ) -> None:
        collection = fill(make(partition_by=by_field("category"), filter_fields={"category": str}))
        near = collection.search(vector=vector(4), limit=100)
        said = collection.keywords(text="the baker", limit=100)
        result = collection.hybrid(
            text="the baker", vector=vector(4), limit=6, fusion=fusion, weights=weights
        )
        expected = fuse(_ranking(near), _ranking(said), weights, fusion)
        assert list(result.ids) == [each.key[1] for each in expected]
        assert [hit.score for hit in result] == pytest.approx([each.score for each in expected], abs=1e-6)
        for hit, each in zip(result, expected, strict=True):
            assert hit.legs == each.legs
            assert hit.legs is not None
            assert hit.legs.vector_score == pytest.approx(each.legs.vector_score, abs=1e-6)
            assert hit.legs.keyword_score == pytest.approx(each.legs.keyword_score, abs=1e-6)
            assert 0 <= hit.relevance <= 1
        assert result.notes == ()

    @pytest.mark.parametrize("fusion", ["rrf", "distribution", "convex"])
    def test_a_ranking_without_weight_brings_no_hits_in(self, make: Make, fusion: Fusion) -> None:
        collection = fill(make())
        words = collection.hybrid(text="harbour", vector=vector(0), weights=(0, 1), fusion=fusion, limit=4)
        assert words.ids == ("f", "c") or (fusion == "distribution" and set(words.ids) == set("fc"))
        assert words.incomplete is not None
        assert words.incomplete.code == "few_matches"
        assert all(hit.legs is not None and hit.legs.vector is not None for hit in words)
        near = collection.hybrid(text="harbour", vector=vector(0), weights=(1, 0), fusion=fusion, limit=4)
        assert near.ids == collection.search(vector=vector(0), limit=4).ids
        assert near.incomplete is None
        nothing = collection.hybrid(text="?!", vector=vector(0), weights=(0, 1), fusion=fusion, limit=4)
        assert (nothing.ids, nothing.notes) == ((), ())
        assert nothing.incomplete is not None

    def test_words_that_decide_alone_keep_equal_hits(self, make: Make) -> None:
        """More documents than the ranking is deep have the same text."""
        collection = fill(make(), [(f"n{n:03d}", "zeppelin") for n in range(130)])
        found = collection.hybrid(text="zeppelin", vector=vector(0), weights=(0, 1), limit=3)
        assert found.ids == ("n000", "n001", "n002")
        assert found.incomplete is None

    def test_a_hybrid_hit_found_by_its_words_alone_has_its_distance(self, make: Make) -> None:
        collection = fill(make(), [("word", "zeppelin"), *((f"n{n:03d}", "plain") for n in range(150))])
        result = collection.hybrid(text="zeppelin", vector=vector(120), limit=2, with_vectors=True)
        hit = next(hit for hit in result if hit.id == "word")
        assert hit.legs is not None
        assert hit.legs.keyword == 1
        expected = collection.search(vector=vector(120), limit=151, exact=True)
        assert hit.distance == pytest.approx(expected[expected.ids.index("word")].distance, abs=1e-5)
        assert hit.vector is not None

    def test_a_very_long_text_is_stored_and_found_by_its_first_words(self, make: Make) -> None:
        collection = indexed(make())
        long = " ".join(f"w{n:x}" for n in range(200_000))
        collection.add([Document("long", "zeppelin " + long, vector=vector(1))])
        assert found(indexed(collection), "zeppelin") == "long"

    def test_many_different_words_may_be_asked_for(self, make: Make) -> None:
        collection = fill(make())
        question = "plumber " + " ".join(f"w{n:x}" for n in range(900))
        assert found(collection, question) == "a"

    def test_arguments_that_cannot_be_used_are_named(self, make: Make) -> None:
        collection = fill(make())
        faults: list[tuple[dict[str, object], str]] = [
            ({"text": ""}, "text"),
            ({"text": " \n"}, "text"),
            ({"text": 3}, "text"),
            ({"text": "a\x00b"}, "text"),
            ({"text": "a", "limit": 0}, "limit"),
            ({"text": "a", "timeout_seconds": -1}, "timeout_seconds"),
            ({"text": "a", "namespace": ""}, "namespace"),
            ({"text": "a", "with_vectors": "yes"}, "with_vectors"),
        ]
        for options, argument in faults:
            with pytest.raises(InputError, match=argument):
                collection.keywords(**options)  # type: ignore[arg-type]
            with pytest.raises(InputError, match=argument):
                collection.hybrid(vector=vector(1), **options)  # type: ignore[arg-type]
        mixtures: list[tuple[dict[str, object], str]] = [
            ({"fusion": "sum"}, "fusion"),
            ({"weights": (0, 0)}, "weights"),
        ]
        for options, argument in mixtures:
            with pytest.raises(InputError, match=argument):
                collection.hybrid(text="a", vector=vector(1), **options)  # type: ignore[arg-type]


def _ranking(result: SearchResult) -> list[tuple[tuple[str, str], float]]:
    return [((hit.namespace, hit.id), hit.score) for hit in result]
