"""The Atlas stand-in: `$search` over text indexes, and `$rankFusion` of several rankings."""

from __future__ import annotations

import datetime as dt
import math
import os
from collections.abc import Iterator

import pytest
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import OperationFailure
from pymongo.operations import SearchIndexModel

from svr_retrievers.testing.mongodb.waiting import built, counted, status, told, until

pytestmark = [
    pytest.mark.usefixtures("mongodb_server"),
    pytest.mark.skipif("SVR_TEST_MONGODB_URI" in os.environ, reason="these test the stand-in itself"),
]

DYNAMIC = {"mappings": {"dynamic": True}}
VECTORS = {"fields": [
    {"type": "vector", "path": "v", "numDimensions": 2, "similarity": "cosine"},
    {"type": "filter", "path": "n"},
]}  # fmt: skip
TEXTS = ["the red fox jumps", "a fox and a red car, a red one", "green tea", "The Fox's tail"]


@pytest.fixture
def db(mongodb_url: str) -> Iterator[Database]:
    with MongoClient(mongodb_url) as client:
        db = client.get_default_database()
        db.c.insert_many([
            {"_id": n, "text": each, "n": n, "kind": "even" if n % 2 == 0 else "odd", "v": [1.0, float(n)]}
            for n, each in enumerate(TEXTS)
        ])  # fmt: skip
        yield db


@pytest.fixture
def texts(db: Database) -> Collection:
    fields = {
        "text": {"type": "string"}, "n": {"type": "number"}, "kind": {"type": "token"}, "at": {"type": "date"},
        "deep": {"type": "document", "fields": {"note": [{"type": "string"}, {"type": "token"}]}},
        "exact": {"type": "string", "analyzer": "lucene.keyword"},
    }  # fmt: skip
    built(db.c, "default", {"mappings": {"dynamic": False, "fields": fields}}, kind="search")
    return db.c


def found(coll: Collection, **operator: object) -> dict[object, float]:
    stages = [{"$search": operator}, {"$project": {"s": {"$meta": "searchScore"}}}]
    return {each["_id"]: each["s"] for each in coll.aggregate(stages)}


def bm25(terms: list[str], documents: dict[object, list[str]]) -> dict[object, float]:
    average = sum(len(words) for words in documents.values()) / len(documents)
    scores: dict[object, float] = {}
    for term in terms:
        having = sum(term in words for words in documents.values())
        rarity = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
        for key, words in documents.items():
            if times := words.count(term):
                weight = times / (times + 1.2 * (0.25 + 0.75 * len(words) / average))
                scores[key] = scores.get(key, 0) + rarity * weight
    return scores


WORDS = {
    0: ["the", "red", "fox", "jumps"],
    1: ["a", "fox", "and", "a", "red", "car", "a", "red", "one"],
    2: ["green", "tea"],
    3: ["the", "fox's", "tail"],
}


def test_words_are_found_best_first_with_bm25_scores(texts: Collection) -> None:
    hits = found(texts, text={"query": "red Fox", "path": "text"})
    assert hits == pytest.approx(bm25(["red", "fox"], WORDS), abs=1e-9)
    assert list(hits) == sorted(hits, key=lambda key: -hits[key])
    assert found(texts, text={"query": "red tail", "path": "text", "matchCriteria": "all"}) == {}
    assert set(found(texts, text={"query": "red fox", "path": "text", "matchCriteria": "all"})) == {0, 1}
    assert set(found(texts, text={"query": ["tea", "tail"], "path": ["text", "deep.note"]})) == {2, 3}


def test_a_phrase_needs_its_words_side_by_side(texts: Collection) -> None:
    assert set(found(texts, phrase={"query": "red fox", "path": "text"})) == {0}
    assert set(found(texts, phrase={"query": "RED", "path": "text"})) == {0, 1}
    assert set(found(texts, phrase={"query": ["green tea", "the fox's tail"], "path": "text"})) == {2, 3}
    assert found(texts, phrase={"query": "fox red", "path": "text"}) == {}


@pytest.mark.parametrize(("operator", "expected"), [
    ({"equals": {"path": "kind", "value": "odd"}}, {1, 3}),
    ({"equals": {"path": "n", "value": 2.0}}, {2}),
    ({"equals": {"path": "n", "value": "2"}}, set()),
    ({"in": {"path": "n", "value": [0, 3]}}, {0, 3}),
    ({"range": {"path": "n", "gt": 0, "lte": 2}}, {1, 2}),
    ({"exists": {"path": "deep"}}, set()),
    ({"exists": {"path": "text"}}, {0, 1, 2, 3}),
    ({"compound": {"must": [{"text": {"query": "fox", "path": "text"}}],
                   "filter": [{"equals": {"path": "kind", "value": "odd"}}]}}, {1}),
    ({"compound": {"should": [{"text": {"query": "tea", "path": "text"}},
                              {"text": {"query": "tail", "path": "text"}}]}}, {2, 3}),
    ({"compound": {"must": {"exists": {"path": "text"}},
                   "mustNot": [{"text": {"query": "fox", "path": "text"}}]}}, {2, 3}),
    ({"compound": {"should": [{"text": {"query": "red", "path": "text"}}, {"range": {"path": "n", "gte": 1}}],
                   "minimumShouldMatch": 2}}, {1}),
    ({"compound": {"mustNot": [{"range": {"path": "n", "gte": 1}}]}}, {0}),
])  # fmt: skip
def test_values_and_compounds_choose(texts: Collection, operator: dict, expected: set[int]) -> None:
    assert set(found(texts, **operator)) == expected


def test_filters_do_not_score_and_scores_can_be_turned(texts: Collection) -> None:
    red = found(texts, text={"query": "red", "path": "text"})
    word = {"text": {"query": "red", "path": "text"}}
    kept = found(texts, compound={"must": [word], "filter": [{"range": {"path": "n", "lt": 9}}]})
    assert kept == pytest.approx(red)
    assert found(texts, compound={"filter": [word]}) == {0: 0.0, 1: 0.0}
    boosted = found(texts, text={"query": "red", "path": "text", "score": {"boost": {"value": 3}}})
    assert boosted == pytest.approx({key: 3 * score for key, score in red.items()})
    constant = found(texts, text={"query": "red", "path": "text", "score": {"constant": {"value": 7}}})
    assert constant == {0: 7.0, 1: 7.0}


def test_a_dynamic_index_takes_every_text_and_follows_changes(db: Database) -> None:
    built(db.c, "ix", DYNAMIC, kind="search")
    everywhere = {"index": "ix", "text": {"query": "tea", "path": {"wildcard": "*"}}}
    db.c.insert_one(
        {"_id": "new", "list": [{"note": "tea time"}], "at": dt.datetime(2024, 1, 1, tzinfo=dt.UTC)}
    )
    db.c.update_one({"_id": 2}, {"$set": {"text": "coffee"}})
    db.c.delete_one({"_id": 0})
    told(db, settle=True)
    assert set(found(db.c, **everywhere)) == {"new"}
    assert set(found(db.c, index="ix", text={"query": "the", "path": "text"})) == {3}
    assert set(found(db.c, index="ix", text={"query": "time", "path": "list.note"})) == {"new"}
    since = {"path": "at", "gte": dt.datetime(2023, 1, 1, tzinfo=dt.UTC)}
    assert set(found(db.c, index="ix", range=since)) == {"new"}


def test_analyzers_decide_what_a_word_is(texts: Collection) -> None:
    texts.insert_one({"_id": "k", "exact": "Red Fox", "deep": {"note": "so what"}})
    told(texts.database, settle=True)
    assert set(found(texts, text={"query": "Red Fox", "path": "exact"})) == {"k"}
    assert found(texts, text={"query": "red", "path": "exact"}) == {}
    assert set(found(texts, text={"query": "what", "path": "deep.note"})) == {"k"}
    assert set(found(texts, equals={"path": "deep.note", "value": "so what"})) == {"k"}


def test_stored_source_and_limits_after_a_text_search(db: Database) -> None:
    built(db.c, "default", DYNAMIC | {"storedSource": {"include": ["kind"]}}, kind="search")
    asked = {"text": {"query": "fox", "path": "text"}, "returnStoredSource": True}
    hits = db.c.aggregate([{"$search": asked}, {"$limit": 1}]).to_list()
    assert hits == [{"_id": 0, "kind": "even"}]


@pytest.mark.parametrize(("operator", "said"), [
    ({}, "exactly one operator"),
    ({"text": {"query": "a", "path": "text"}, "phrase": {}}, "exactly one operator"),
    ({"moreLikeThis": {}}, "moreLikeThis"),
    ({"text": {"query": "", "path": "text"}}, "not empty"),
    ({"text": {"query": "a"}}, "path"),
    ({"text": {"query": "a", "path": "text", "fuzzy": {}}}, "fuzzy"),
    ({"phrase": {"query": "a", "path": "text", "slop": 2}}, "slop"),
    ({"compound": {}}, "at least one"),
    ({"range": {"path": "n"}}, "at least one"),
    ({"equals": {"path": "other", "value": 1}}, "needs to be indexed"),
    ({"highlight": {}, "text": {"query": "a", "path": "text"}}, "exactly one operator"),
])  # fmt: skip
def test_a_text_question_that_cannot_be_answered_is_refused(
    texts: Collection, operator: dict, said: str
) -> None:
    with pytest.raises(OperationFailure) as caught:
        found(texts, **operator)
    assert caught.value.code == 8
    assert said in str(caught.value)


@pytest.mark.parametrize("definition", [
    {},
    {"mappings": {}},
    {"mappings": {"dynamic": "yes"}},
    {"mappings": {"fields": {"a": {"type": "knnVector"}}}},
    {"mappings": {"dynamic": True}, "analyzer": "lucene.klingon"},
    {"mappings": {"dynamic": True}, "surprise": 1},
])  # fmt: skip
def test_a_text_definition_that_cannot_be_served_is_refused(db: Database, definition: dict) -> None:
    with pytest.raises(OperationFailure) as caught:
        db.c.create_search_index(SearchIndexModel(definition, "ix", "search"))
    assert caught.value.code == 2


def test_each_kind_of_index_answers_its_own_stage(texts: Collection) -> None:
    built(texts, "vectors", VECTORS)
    with pytest.raises(OperationFailure, match="not of type search"):
        found(texts, index="vectors", text={"query": "a", "path": "text"})
    asked = {"index": "default", "path": "v", "queryVector": [1.0, 0.0], "limit": 1, "exact": True}
    with pytest.raises(OperationFailure, match="not of type vectorSearch"):
        texts.aggregate([{"$vectorSearch": asked}])
    assert found(texts, index="none", text={"query": "a", "path": "text"}) == {}


def test_a_text_index_that_is_not_built_refuses_to_answer(db: Database) -> None:
    told(db, build=60)
    db.c.create_search_index(SearchIndexModel(DYNAMIC, "default", "search"))
    until(lambda: status(db.c, "default") == "BUILDING")
    with pytest.raises(OperationFailure, match="INITIAL_SYNC"):
        found(db.c, text={"query": "a", "path": "text"})


def vector_stage(limit: int = 3) -> dict[str, object]:
    asked = {"index": "vectors", "path": "v", "queryVector": [0.0, 1.0], "limit": limit, "numCandidates": 10}
    return {"$vectorSearch": asked}


TEXT_STAGE = {"$search": {"text": {"query": "red tea", "path": "text"}}}


@pytest.fixture
def both(texts: Collection) -> Collection:
    built(texts, "vectors", VECTORS)
    return texts


def fuse(
    coll: Collection, weights: dict | None = None, *after: dict, details: bool = False, **pipelines: list
) -> list:
    stage: dict[str, object] = {"input": {"pipelines": pipelines}, "scoreDetails": details}
    if weights is not None:
        stage["combination"] = {"weights": weights}
    score = {"$project": {"s": {"$meta": "score"}, **({"d": {"$meta": "scoreDetails"}} if details else {})}}
    return coll.aggregate([{"$rankFusion": stage}, *(after or (score,))]).to_list()


def test_rankings_are_fused_by_the_reciprocal_of_their_ranks(both: Collection) -> None:
    fused = fuse(both, text=[TEXT_STAGE], vector=[vector_stage()])
    by_text = list(found(both, **TEXT_STAGE["$search"]))
    expected: dict[object, float] = {}
    for ranking in (by_text, [3, 2, 1]):
        for rank, key in enumerate(ranking, start=1):
            expected[key] = expected.get(key, 0) + 1 / (60 + rank)
    assert {each["_id"]: each["s"] for each in fused} == pytest.approx(expected)
    assert [each["_id"] for each in fused] == sorted(expected, key=lambda key: (-expected[key], key))


def test_weights_turn_rankings_and_zero_silences_one(both: Collection) -> None:
    fused = fuse(both, {"vector": 3, "text": 0}, text=[TEXT_STAGE], vector=[vector_stage(1)])
    scores = {each["_id"]: each["s"] for each in fused}
    assert fused[0]["_id"] == 3
    assert scores[3] == pytest.approx(3 / 61)
    assert {scores[key] for key in scores if key != 3} == {0.0}


def test_sorted_and_filtered_pipelines_are_rankings_too(both: Collection) -> None:
    pipeline = [{"$match": {"n": {"$gte": 1}}}, {"$sort": {"n": -1}}, {"$limit": 2}]
    assert [(each["_id"], each["s"]) for each in fuse(both, sort=pipeline)] == [(3, 1 / 61), (2, 1 / 62)]


def test_score_details_say_what_each_pipeline_gave(both: Collection) -> None:
    fused = fuse(both, {"text": 2}, details=True, text=[TEXT_STAGE], vector=[vector_stage(1)])
    best = next(each for each in fused if each["_id"] == 3)["d"]
    assert best["value"] == pytest.approx(1 / 61)
    assert best["description"].startswith("value output by reciprocal rank fusion")
    text, vector = best["details"]
    assert text == {"inputPipelineName": "text", "rank": "NA", "weight": 2, "details": []}
    value = (1 + 3 / math.sqrt(10)) / 2
    assert vector == {
        "inputPipelineName": "vector", "rank": 1, "weight": 1, "value": pytest.approx(value), "details": [],
    }  # fmt: skip


def test_equal_scores_share_a_rank(both: Collection) -> None:
    stage = {"$search": {"exists": {"path": "text"}}}
    assert {each["s"] for each in fuse(both, all=[stage])} == {1 / 61}


def test_what_follows_a_fusion_sees_whole_documents(both: Collection) -> None:
    stages = [{"$match": {"n": {"$gt": 0}}}, {"$limit": 1}]
    [best] = fuse(both, None, *stages, vector=[vector_stage()])
    assert best == {"_id": 3, "text": TEXTS[3], "n": 3, "kind": "odd", "v": [1.0, 3.0]}


@pytest.mark.parametrize(("stage", "code"), [
    ({"input": {"pipelines": {}}}, 40414),
    ({"input": {"pipelines": {"a": []}}}, 9834300),
    ({"input": {"pipelines": {"a": [{"$match": {}}]}}}, 9191100),
    ({"input": {"pipelines": {"a": [{"$sort": {"n": 1}}, {"$project": {"n": 1}}]}}}, 9191103),
    ({"input": {"pipelines": {"a": [{"$sort": {"n": 1}}]}}, "combination": {"weights": {"b": 1}}}, 9967500),
    ({"input": {"pipelines": {"a": [{"$sort": {"n": 1}}]}}, "combination": {"weights": {"a": -1}}}, 9460300),
    ({"input": {"pipelines": {"a": [{"$sort": {"n": 1}}]}}, "combination": {"weights": {"a": 1, "b": 1}}}, 9460301),
    ({"input": {"pipelines": {"a": [{"$sort": {"n": 1}}]}}, "surprise": 1}, 40415),
    ({"input": {"pipelines": {"$a": [{"$sort": {"n": 1}}]}}}, 9921000),
])  # fmt: skip
def test_a_fusion_that_the_server_refuses_is_refused(both: Collection, stage: dict, code: int) -> None:
    with pytest.raises(OperationFailure) as caught:
        both.aggregate([{"$rankFusion": stage}])
    assert caught.value.code == code


def test_there_is_no_fusion_before_8_0_and_what_is_not_offered_says_so(both: Collection) -> None:
    told(both.database, serverVersion="7.0.12")
    with pytest.raises(OperationFailure, match="Unrecognized pipeline stage name"):
        fuse(both, vector=[vector_stage()])
    told(both.database, serverVersion="8.1.0")
    assert fuse(both, vector=[vector_stage()])
    assert counted(both.database, "$rankFusion") == 2
    for stage in ("$scoreFusion", "$rerank", "$searchMeta"):
        with pytest.raises(OperationFailure, match="does not offer") as caught:
            both.aggregate([{stage: {}}])
        assert caught.value.code == 40324


def test_a_fusion_over_a_view_sees_the_view(both: Collection) -> None:
    both.database.create_collection(
        "odd", viewOn="c", pipeline=[{"$match": {"$expr": {"$eq": ["$kind", "odd"]}}}]
    )
    built(both.database["odd"], "of-odd", VECTORS)
    asked = vector_stage()["$vectorSearch"] | {"index": "of-odd"}
    assert [each["_id"] for each in fuse(both.database["odd"], vector=[{"$vectorSearch": asked}])] == [3, 1]
