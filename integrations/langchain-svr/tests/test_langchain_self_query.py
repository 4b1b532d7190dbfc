"""The self-query translator: every comparator and operator, against an oracle and under LangChain's own retriever."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.structured_query import Comparator, Comparison, Operation, Operator, StructuredQuery
from langchain_svr import SVRTranslator

from svr_retrievers.errors import FilterError
from svr_retrievers.filters import FieldType, parse

FIELDS = {"year": int, "made": datetime, "labels": list[str], "lang": str}
C = Comparator


def moment(day: int, hour: int) -> str:
    return f"2024-05-{day:02}T{hour:02}:00:00Z"


ROWS: dict[str, dict[str, Any]] = {
    "a": {"year": 2020, "lang": "en", "labels": ["art", "party"], "made": moment(1, 0), "title": "Ducks", "n": 1},
    "b": {"year": 2021, "lang": "de", "labels": ["art"], "made": moment(1, 23), "title": "ducks 100%", "n": 1.0},
    "c": {"year": 2022, "lang": "en", "labels": [], "made": moment(2, 0), "title": ["Ducks", "Geese"], "n": "1"},
    "d": {"year": 2023, "lang": "fr_CA", "made": moment(3, 12), "title": "A_B", "day": "2024-05-02", "n": True},
    "e": {"labels": ["party"], "title": None, "day": moment(2, 12), "n": [1, 2]},
}  # fmt: skip


def holds(comparator: Comparator, stored: Any, wanted: Any, declared: Any = None) -> bool:
    """What a comparison means, said another way: by the elements of the stored value."""
    if comparator is C.NE:
        return not holds(C.EQ, stored, wanted)
    if comparator is C.NIN:
        return not holds(C.IN, stored, wanted)
    if comparator is C.IN:
        return any(holds(C.EQ, stored, each) for each in wanted)
    several = stored if isinstance(stored, list) else [stored]
    if comparator is C.CONTAIN:
        return contained(several, wanted, by_parts=declared is None or declared is str) or (
            isinstance(stored, list) and any(compared(C.EQ, each, wanted) for each in stored)
        )
    if comparator is C.LIKE:
        return contained(several, wanted.strip("%"), by_parts=True)
    return any(compared(comparator, each, wanted) for each in several)


def contained(stored: list[Any], wanted: Any, *, by_parts: bool) -> bool:
    """Fields that are not declared are looked into both ways: lists of texts too are searched for parts."""
    return by_parts and any(isinstance(v, str) and isinstance(wanted, str) and wanted in v for v in stored)


def compared(comparator: Comparator, stored: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(stored, str) and dated(comparator, stored, wanted)
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (stored, wanted))
    if not (numbers or (isinstance(stored, str) and isinstance(wanted, str))):
        return comparator is C.EQ and stored is wanted
    return {
        C.EQ: stored == wanted, C.GT: stored > wanted, C.GTE: stored >= wanted,
        C.LT: stored < wanted, C.LTE: stored <= wanted,
    }[comparator]  # fmt: skip


def dated(comparator: Comparator, stored: str, wanted: dict[str, str]) -> bool:
    """Dates compare as days, moments as moments."""
    if wanted["type"] == "date":
        return compared(comparator, stored[:10], wanted["date"])
    return compared(comparator, stored, wanted["datetime"])


def day(number: int) -> dict[str, str]:
    return {"date": f"2024-05-{number:02}", "type": "date"}


ORDERED = (C.EQ, C.NE, C.GT, C.GTE, C.LT, C.LTE)
COMPARISONS = [
    *(Comparison(c, "year", 2021) for c in ORDERED),
    *(Comparison(c, "lang", "en") for c in ORDERED),
    *(Comparison(c, "n", 1) for c in ORDERED),
    *(Comparison(c, "made", day(d)) for c in ORDERED for d in (1, 2)),
    *(Comparison(c, "day", day(2)) for c in ORDERED),
    *(Comparison(c, "made", {"datetime": moment(2, 0), "type": "datetime"}) for c in ORDERED),
    *(Comparison(c, "year", [2020, 2023]) for c in (C.IN, C.NIN)),
    *(Comparison(c, "made", [day(1), day(3)]) for c in (C.IN, C.NIN)),
    *(Comparison(c, "title", ["Ducks", "A_B"]) for c in (C.IN, C.NIN)),
    *(Comparison(c, "labels", []) for c in (C.IN, C.NIN)),
    *(Comparison(C.CONTAIN, name, part) for name in ("labels", "title") for part in ("art", "Ducks", "100%")),
    Comparison(C.CONTAIN, "lang", "r_C"),
    Comparison(C.CONTAIN, "n", 2),
    *(Comparison(C.LIKE, "title", pattern) for pattern in ("uck", "%uck%", "Du", "ucks 100")),
    Comparison(C.LIKE, "lang", "n"),
]  # fmt: skip


def expected(directive: Any) -> set[str]:
    if isinstance(directive, Comparison):
        return {key for key, row in ROWS.items()
                if holds(directive.comparator, row.get(directive.attribute), directive.value,
                         FIELDS.get(directive.attribute))}  # fmt: skip
    parts = [expected(each) for each in directive.arguments]
    if directive.operator is Operator.AND:
        return set.intersection(*parts)
    return set.union(*parts) if directive.operator is Operator.OR else set(ROWS) - set.union(*parts)


@pytest.fixture
def store(make_store: Any) -> Any:
    made = make_store(filter_fields=FIELDS)
    made.add_documents([Document(id=key, page_content="text", metadata=row) for key, row in ROWS.items()])
    return made


def found(store: Any, directive: Any) -> set[str]:
    translator = SVRTranslator(store.filter_fields)
    query, options = translator.visit_structured_query(StructuredQuery("text", directive))
    return {d.id for d in store.similarity_search(query, k=9, **options)}


def test_every_comparator_and_operator_of_langchain_is_covered() -> None:
    translator = SVRTranslator()
    assert set(translator.allowed_comparators or ()) == set(Comparator)
    assert set(translator.allowed_operators or ()) == set(Operator)
    for comparator in Comparator:
        assert translator.visit_comparison(Comparison(comparator, "a", "x"))
    for operator in Operator:
        assert translator.visit_operation(Operation(operator, [Comparison(C.EQ, "a", 1)]))
    assert {each.comparator for each in COMPARISONS} == set(Comparator)


@pytest.mark.parametrize("comparator", [*ORDERED, C.IN, C.NIN])
def test_a_whole_number_written_as_text_is_one_where_the_field_holds_such(
    store: Any, comparator: Any
) -> None:
    several = comparator in (C.IN, C.NIN)
    told = Comparison(comparator, "year", ["2021", 2022] if several else "2021")
    meant = Comparison(comparator, "year", [2021, 2022] if several else 2021)
    assert found(store, told) == found(store, meant) != set()


def test_text_stays_text_where_numbers_are_not_declared_or_it_is_none() -> None:
    visit = SVRTranslator({"year": int, "lang": str, "sizes": list[int]}).visit_comparison
    assert visit(Comparison(C.EQ, "lang", "2021")) == {"lang": {"$eq": "2021"}}
    assert visit(Comparison(C.EQ, "undeclared", "2021")) == {"undeclared": {"$eq": "2021"}}
    assert visit(Comparison(C.EQ, "year", "last year")) == {"year": {"$eq": "last year"}}
    assert visit(Comparison(C.EQ, "year", "2021.5")) == {"year": {"$eq": "2021.5"}}
    assert visit(Comparison(C.CONTAIN, "sizes", "-7")) == {"sizes": {"$contains": -7}}


@pytest.mark.parametrize("declared", [int, float, list[int]])
@pytest.mark.parametrize("comparator", [*ORDERED, C.IN])
def test_a_date_for_a_field_of_numbers_says_so(declared: Any, comparator: Any) -> None:
    value = [day(1)] if comparator is C.IN else day(1)
    with pytest.raises(FilterError, match=r"'year' is declared .*a date, 2024-05-01\..* as a number"):
        SVRTranslator({"year": declared}).visit_comparison(Comparison(comparator, "year", value))


def test_every_comparison_finds_what_the_oracle_finds(store: Any) -> None:
    for each in COMPARISONS:
        assert found(store, each) == expected(each), each


def test_nested_operations_find_what_the_oracle_finds(store: Any) -> None:
    chance = random.Random(7)

    def grown(depth: int) -> Any:
        if depth == 0:
            return chance.choice(COMPARISONS)
        return Operation(
            chance.choice(list(Operator)), [grown(depth - 1) for _ in range(chance.randint(1, 3))]
        )

    asked = [grown(depth) for depth in (1, 2, 3) for _ in range(8)]
    for each in asked:
        assert found(store, each) == expected(each), each
    assert len({frozenset(expected(each)) for each in asked}) > 4


def test_of_several_parts_each_must_be_contained(store: Any) -> None:
    assert found(store, Comparison(C.CONTAIN, "labels", ["art", "party"])) == {"a"}
    assert found(store, Comparison(C.CONTAIN, "labels", [])) == set(ROWS)


def test_a_pattern_with_wildcards_is_taken_as_it_is(store: Any) -> None:
    assert found(store, Comparison(C.LIKE, "lang", "f%")) == {"d"}
    assert found(store, Comparison(C.LIKE, "lang", "_n")) == {"a", "c"}
    assert found(store, Comparison(C.LIKE, "lang", "n%")) == set()


def test_a_single_value_may_stand_where_a_list_belongs(store: Any) -> None:
    assert found(store, Comparison(C.IN, "lang", "de")) == {"b"}
    assert found(store, Comparison(C.NIN, "lang", "de")) == {"a", "c", "d", "e"}


def test_the_last_day_of_all_is_an_open_end(store: Any) -> None:
    end = {"date": "9999-12-31", "type": "date"}
    assert found(store, Comparison(C.LTE, "made", end)) == {"a", "b", "c", "d"}
    assert found(store, Comparison(C.GT, "made", end)) == set()
    assert found(store, Comparison(C.EQ, "made", end)) == set()


def test_dates_of_python_serve_too() -> None:
    translator = SVRTranslator({"made": datetime})
    for comparator, number in itertools.product(ORDERED, (1, 2)):
        as_text = translator.visit_comparison(Comparison(comparator, "made", day(number)))
        assert translator.visit_comparison(Comparison(comparator, "made", date(2024, 5, number))) == as_text
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC) + timedelta(hours=1)
    assert translator.visit_comparison(Comparison(C.GT, "made", noon)) == {"made": {"$gt": noon}}


@pytest.mark.parametrize(
    "value",
    [{"date": "2024-13-01", "type": "date"}, {"datetime": "noon", "type": "datetime"}, {"type": "date"}],
)
def test_a_date_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(FilterError, match="is no date"):
        SVRTranslator().visit_comparison(Comparison(C.GT, "made", value))


def test_a_field_that_is_called_like_an_operator_stays_a_field(store: Any) -> None:
    store.add_texts(["odd"], [{"$or": "x"}], ids=["odd"])
    assert found(store, Comparison(C.EQ, "$or", "x")) == {"odd"}
    assert found(store, Comparison(C.EQ, "$where", "x")) == set()


def test_what_a_field_cannot_be_asked_is_refused_by_its_name(store: Any) -> None:
    for wrong in (
        Comparison(C.GT, "year", "x"),
        Comparison(C.LIKE, "year", "2"),
        Comparison(C.CONTAIN, "year", 2020),
        Comparison(C.CONTAIN, "lang", 3),
        Comparison(C.EQ, "year", {"$gt": 1}),
        Comparison(C.GT, "year", day(1)),
    ):
        with pytest.raises(FilterError, match=wrong.attribute):
            found(store, wrong)


FUZZED = FIELDS | {"open": bool, "score": float}
SCALARS = st.one_of(
    st.integers(), st.floats(), st.text(max_size=5), st.booleans(), st.none(), st.dates(), st.datetimes(),
    st.dates().map(lambda d: {"date": d.isoformat(), "type": "date"}),
    st.sampled_from([{"date": "x", "type": "date"}, {"a": 1}, {"type": ["date"]}, {"$gt": 1}]),
)  # fmt: skip
CONDITIONS = st.builds(
    Comparison,
    comparator=st.sampled_from(list(Comparator)),
    attribute=st.one_of(st.sampled_from([*FUZZED, "a.b", "$or"]), st.text(max_size=4)),
    value=st.one_of(SCALARS, st.lists(SCALARS, max_size=3)),
)
TREES = st.recursive(
    CONDITIONS,
    lambda parts: st.builds(
        Operation, operator=st.sampled_from(list(Operator)), arguments=st.lists(parts, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(TREES)
def test_whatever_a_model_writes_becomes_a_filter_or_is_refused_with_the_reason(tree: Any) -> None:
    translator = SVRTranslator(FUZZED)
    try:
        _, options = translator.visit_structured_query(StructuredQuery("q", tree))
        parse(options["filter"], {name: FieldType.of(kind) for name, kind in FUZZED.items()})
    except FilterError as refused:
        assert refused.message  # noqa: PT017 - either outcome is right, any other error is not


def test_without_a_filter_nothing_is_added_and_the_limit_is_left_to_langchain() -> None:
    assert SVRTranslator().visit_structured_query(StructuredQuery("q", None, 3)) == ("q", {})


def model(answer: str) -> FakeListChatModel:
    return FakeListChatModel(responses=[f"```json\n{answer}\n```"] * 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("search_type", ["similarity", "mmr"])
async def test_langchains_self_query_retriever_answers_with_it(store: Any, search_type: str) -> None:
    from langchain_classic.retrievers.self_query.base import SelfQueryRetriever

    answer = (
        '{"query": "text", "limit": 1, '
        '"filter": "and(gt(\\"made\\", \\"2024-05-01\\"), not(contain(\\"title\\", \\"Ducks\\")))"}'
    )
    about = [{"name": name, "description": name, "type": "string"} for name in ("made", "title")]
    retriever = SelfQueryRetriever.from_llm(
        model(answer),
        store,
        "texts",
        about,
        structured_query_translator=SVRTranslator(store.filter_fields),
        enable_limit=True,
        search_type=search_type,
    )
    assert [d.id for d in retriever.invoke("new texts not about ducks")] == ["d"]
    assert [d.id for d in await retriever.ainvoke("new texts not about ducks")] == ["d"]
