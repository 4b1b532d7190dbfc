"""The operators of `$search` that are offered: text, phrase, compound, equals, in, range and exists."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from svr_retrievers.testing.mongodb import filters
from svr_retrievers.testing.mongodb.documents import Document, section, whole
from svr_retrievers.testing.mongodb.found import Found
from svr_retrievers.testing.mongodb.mappings import STRING
from svr_retrievers.testing.mongodb.refusals import QueryFailed, in_query
from svr_retrievers.testing.mongodb.textstore import Scores, TextStore

_AROUND = {"index", "returnStoredSource", "scoreDetails"}
_CLAUSES = ("must", "mustNot", "should", "filter")
_BOUNDS = {"gt": "$gt", "gte": "$gte", "lt": "$lt", "lte": "$lte"}
Operator = Callable[["Question", Document], Scores]


def answer(store: TextStore, asked: Document) -> list[Found]:
    """The hits of a whole `$search` stage."""
    stored = asked.get("returnStoredSource") is True
    if stored and not store.stores:
        raise in_query("storedSource is not configured for this index.")
    given = {name: value for name, value in asked.items() if name not in _AROUND}
    with store.lock:
        return store.found(Question(store).scores(given), stored=stored)


class Question:
    """Asks one index."""

    def __init__(self, store: TextStore) -> None:
        self._store = store

    def scores(self, given: object) -> Scores:
        """Of an operator, as it stands under its name."""
        if not isinstance(given, dict) or len(given) != 1:
            raise in_query('"$search" must have exactly one operator')
        [(name, argument)] = given.items()
        operator = _OPERATORS.get(name)
        if operator is None:
            raise in_query(
                f'"$search" unrecognized operator "{name}", or one that the stand-in does not offer'
            )
        if not isinstance(argument, dict):
            raise in_query(f'"{name}" must be a document')
        return _scored(operator(self, argument), argument)

    def text(self, given: Document) -> Scores:
        _only(given, "text", "query", "path", "matchCriteria")
        all_of_them = given.get("matchCriteria", "any") == "all"
        return self._by_text(
            given, lambda path, terms: self._store.with_terms(path, terms, all_of_them=all_of_them)
        )

    def phrase(self, given: Document) -> Scores:
        _only(given, "phrase", "query", "path", "slop")
        if whole(given.get("slop", 0)) != 0:
            raise in_query('"phrase.slop" other than 0 is not offered by the stand-in')
        return self._by_text(given, self._store.with_phrase)

    def equals(self, given: Document) -> Scores:
        _only(given, "equals", "path", "value")
        return self._by_value(given, filters.leaf("$eq", given.get("value"), _path(given)))

    def among(self, given: Document) -> Scores:
        _only(given, "in", "path", "value")
        value = given.get("value")
        values = value if isinstance(value, list) else [value]
        return self._by_value(given, filters.leaf("$in", values, _path(given)))

    def range(self, given: Document) -> Scores:
        _only(given, "range", "path", *_BOUNDS)
        tests = [filters.leaf(_BOUNDS[name], given[name], _path(given)) for name in _BOUNDS if name in given]
        if not tests:
            raise in_query('"range" must have at least one of gt, gte, lt, lte')
        return self._by_value(given, lambda held: all(test(held) for test in tests))

    def exists(self, given: Document) -> Scores:
        _only(given, "exists", "path")
        return self._store.having(_path(given))

    def compound(self, given: Document) -> Scores:
        _only(given, "compound", "minimumShouldMatch", *_CLAUSES)
        must, must_not, should, filtering = (self._clauses(given, name) for name in _CLAUSES)
        if not (must or must_not or should or filtering):
            raise in_query('"compound" must have at least one of must, mustNot, should, filter')
        least = whole(given.get("minimumShouldMatch", 0 if must or filtering or not should else 1)) or 0
        found: Scores = {}
        for key in self._store.all():
            kept = all(key in each for each in (*must, *filtering)) and not any(
                key in each for each in must_not
            )
            if kept and sum(key in each for each in should) >= least:
                found[key] = sum(each.get(key, 0.0) for each in (*must, *should))
        return found

    def _clauses(self, given: Document, name: str) -> list[Scores]:
        clauses = given.get(name, [])
        return [self.scores(each) for each in (clauses if isinstance(clauses, list) else [clauses])]

    def _by_text(self, given: Document, ask: Callable[[str, list[str]], Scores]) -> Scores:
        query = given.get("query")
        queries = query if isinstance(query, list) else [query]
        if not queries or not all(isinstance(each, str) and each for each in queries):
            raise in_query('"query" must be a text, or texts, that are not empty')
        total: Scores = {}
        for path in self._text_paths(given.get("path")):
            best: Scores = {}
            for words in queries:
                for key, score in ask(path, self._store.mapping.terms(path, str(words))).items():
                    best[key] = best.get(key, 0.0) + score
            for key, score in best.items():
                total[key] = total.get(key, 0.0) + score
        return total

    def _text_paths(self, path: object) -> list[str]:
        if path == {"wildcard": "*"}:
            return self._store.text_paths()
        paths = [str(each) for each in (path if isinstance(path, list) else [path]) if isinstance(each, str)]
        if not paths:
            raise in_query('"path" must be a path, paths, or {"wildcard": "*"}')
        return [each for each in paths if STRING in self._store.mapping.fields(each)]

    def _by_value(self, given: Document, test: filters.Test) -> Scores:
        path = _path(given)
        if not self._store.mapping.fields(path):
            raise in_query(f"Path '{path}' needs to be indexed")
        return self._store.with_cell(path, test)


_OPERATORS: Mapping[str, Operator] = {
    "text": Question.text,
    "phrase": Question.phrase,
    "equals": Question.equals,
    "in": Question.among,
    "range": Question.range,
    "exists": Question.exists,
    "compound": Question.compound,
}


def _scored(found: Scores, given: Document) -> Scores:
    """As the operator's `score` has it: multiplied, or the same for all."""
    score = section(given, "score")
    if not score:
        return found
    boost, constant = section(score, "boost").get("value"), section(score, "constant").get("value")
    if isinstance(boost, int | float):
        return {key: each * boost for key, each in found.items()}
    if isinstance(constant, int | float):
        return dict.fromkeys(found, float(constant))
    raise in_query('"score" must be {"boost": {"value": n}} or {"constant": {"value": n}}')


def _path(given: Document) -> str:
    path = given.get("path")
    if not isinstance(path, str) or not path:
        raise _missing_path()
    return path


def _missing_path() -> QueryFailed:
    return in_query('"path" is required')


def _only(given: Document, operator: str, *known: str) -> None:
    unknown = sorted(given.keys() - {*known, "score"})
    if unknown:
        raise in_query(
            f'"{operator}" unrecognized field "{unknown[0]}", or one that the stand-in does not offer'
        )
