"""The statement of a search by words: BM25 over the documents that hold one of them.

PostgreSQL's own ranking functions do not know how rare a word is, which decides most of a question in a sentence.
`ts_rank` of one word with weights of 1 is the sum of 1/k² up to the word's count, over π²/6; the count is had back
from it, and with it Robertson's formula: idf * count * (k1 + 1) / (count + k1 * (1 - b + b * length / mean)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psycopg import sql

from svr_retrievers.backends.postgres import words
from svr_retrievers.backends.postgres.filters import compile_filter
from svr_retrievers.backends.postgres.selects import Form, text_of
from svr_retrievers.backends.postgres.tables import Tables
from svr_retrievers.backends.protocol import KeywordQuery

MOST_WORDS: Final = 256
"""Different words of a question that are asked for."""
MOST_RANKED: Final = 10_000
"""Documents that one search ranks, about: words that would bring more decide only among those with a rarer one."""
_K1, _B = sql.SQL("1.2::float8"), sql.SQL("0.75::float8")

_TEXT: Final = """
with asked as materialized (
  select '''' || replace(replace(u.lexeme, '\\', '\\\\'), '''', '''''') || '''' as word
  from unnest({question}) u order by u.positions[1], u.lexeme limit {most_words}),
named as materialized (select ('''' || {namespace} || '''')::tsquery as term),
counted as materialized (
  select a.word, a.word::tsquery as term, c.rows from asked a cross join lateral (
    select count(*) as rows from (
      select from {documents} s where s.words @@ ((select term from named) && a.word::tsquery) limit {most}) f) c
  where c.rows > 0),
size as materialized (
  select case when count(*) < {most} then count(*) else greatest({most}, %s::bigint) end as rows,
    greatest(1, avg(octet_length(f.text)))::float8 as length
  from (select s.text from {documents} s where s.namespace = %s limit {most}) f),
rated as materialized (
  select c.term, ({k1} + 1) * ln(1 + greatest(0, z.rows - c.rows + 0.5)::float8 / (c.rows + 0.5)) as rarity
  from counted c cross join size z),
chosen as materialized (
  select string_agg(w.word, ' | ')::tsquery as term from (
    select c.word, sum(c.rows) over o as together, row_number() over o as at
    from counted c window o as (order by c.rows, c.word)) w
  where w.at = 1 or w.together <= {most}),
best as (
  select s.part, s.namespace, s.id, (
    select sum(r.rarity * f.count / (f.count + t.longer)) from rated r cross join lateral (
      select round(1 / (1.6449340668482264::float8 - 1.64493406685::float8 * h.rank) - 0.5::float8) as count
      from (select ts_rank('{{1,1,1,1}}', t.words, r.term) as rank) h) f
    where f.count > 0) as score
  from {documents} s cross join lateral (select s.metadata as metadata) d
  cross join lateral (
    select s.words || ''::tsvector as words,
      {k1} * (1 - {b} + {b} * octet_length(s.text) / (select length from size)) as longer offset 0) t
  where s.words @@ ((select term from named) && (select term from chosen))
    and s.namespace || '' = %s and s.part = any(%s::int[]) and {condition}
  order by score desc, s.namespace, s.id limit {limit})
select k.part, k.namespace, k.id, d.text, d.metadata, d.version, k.score,
  (select c.generation from {collections} c where c.id = {collection}){vector}
from best k join {documents} d on d.namespace = k.namespace and d.id = k.id{join}
order by k.score desc, k.namespace, k.id
"""
_JOIN = sql.SQL(
    " left join lateral (select v.embedding from {space} v"
    " where v.part in (k.part, -k.part) and v.namespace = k.namespace and v.id = k.id) e on true"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """The statement and its parameters. Its rows: part, namespace, id, text, metadata, version, score, generation,
    and then the vector, where `vectors` is set.
    """

    text: bytes
    params: list[object]
    vectors: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form(Form):
    config: str


def ranked(tables: Tables, query: KeywordQuery, rows: int, *, vectors: bool) -> Asked:
    """The documents with the best words; `rows` is how many the collection has, `vectors` whether theirs come along."""
    condition, values, needs_metadata = compile_filter(query.filter, tables.columns)
    form = _Form(
        condition=condition.as_string(None),
        needs_metadata=needs_metadata,
        limit=query.limit,
        with_vectors=vectors,
        config=tables.text_search,
    )
    text = text_of(tables, form, lambda: _text(tables, form, condition))
    asked = [query.text] * 3
    params = [
        *asked,
        query.namespace,
        rows,
        query.namespace,
        query.namespace,
        list(query.partitions),
        *values,
    ]
    return Asked(text, params, vectors)


def _text(tables: Tables, form: _Form, condition: sql.Composable) -> sql.Composed:
    return sql.SQL(_TEXT).format(
        question=_question(tables),
        most_words=sql.Literal(MOST_WORDS),
        namespace=words.of_namespace(sql.SQL("%s::text")),
        documents=tables.documents,
        most=sql.Literal(MOST_RANKED),
        condition=condition,
        k1=_K1,
        b=_B,
        limit=sql.Literal(form.limit),
        collections=tables.collections,
        collection=sql.Literal(tables.ref.id),
        vector=sql.SQL(", e.embedding" if form.with_vectors else ""),
        join=_JOIN.format(space=tables.space) if form.with_vectors else sql.SQL(""),
    )


def _question(tables: Tables) -> sql.Composed:
    return words.words_of(tables.text_search, sql.SQL("%s::text"))


def emptiness(tables: Tables, query: KeywordQuery) -> Asked:
    """Why nothing was found: the map's generation, and how many words the question has."""
    text = sql.SQL(
        "select c.generation, (select length({question})) from {collections} c where c.id = {collection}"
    ).format(
        question=_question(tables), collections=tables.collections, collection=sql.Literal(tables.ref.id)
    )
    return Asked(text.as_bytes(None), [query.text] * 3, vectors=False)
