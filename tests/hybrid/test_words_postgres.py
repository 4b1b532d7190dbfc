"""The words of texts on PostgreSQL: how they come about, beside whom, in which language, and what BM25 says of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from svr_retrievers import AsyncSVRClient, Collection, Document, SVRClient, by_field, errors
from svr_retrievers.backends.memory_words import words_of as words_in_memory
from svr_retrievers.backends.postgres import PostgresBackend, keyword_queries, words
from svr_retrievers.backends.postgres.words_building import column
from svr_retrievers.model import Legs

pytestmark = [pytest.mark.hybrid, pytest.mark.postgres]

TEXTS = [
    "the paid invoice of a plumber",
    "invoices are being paid",
    "harbours at dawn",
    "the dawn of the invoice",
]


@pytest.fixture
def admin(postgres_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        yield conn


def filled(client: SVRClient, name: str = "papers", rows: int = 4, **options: object) -> Collection:
    collection = client.create_collection(name, dimensions=2, **options)  # type: ignore[arg-type]
    collection.add([Document(f"d{n}", TEXTS[n % 4], {"n": n}, vector=[1.0, n / rows]) for n in range(rows)])
    return collection


def documents(collection: Collection) -> str:
    return f"svr.c{collection._async._ref.id}_documents"


def columns(admin: psycopg.Connection, collection: Collection) -> dict[str, str]:
    """The columns of words: `a` generated or written by a trigger."""
    rows = admin.execute(
        "select attname, attgenerated from pg_attribute where attrelid = %s::regclass and attname like 'words%%'",
        (documents(collection),),
    )
    return {str(name): (bytes(how).decode() if isinstance(how, bytes) else str(how)) for name, how in rows}


def indexes(admin: psycopg.Connection, collection: Collection) -> list[str]:
    return [
        str(row[0])
        for row in admin.execute(
            "select indexdef from pg_indexes where schemaname || '.' || tablename = %s and indexdef like '%%gin%%'",
            (documents(collection),),
        )
    ]


class TestLanguages:
    def test_a_declared_language_is_a_generated_column_from_the_beginning(
        self, svr_client: SVRClient, admin: psycopg.Connection
    ) -> None:
        collection = filled(svr_client, text_search="english")
        assert columns(admin, collection) == {"words": "s"}
        assert len(indexes(admin, collection)) == 1
        assert set(collection.keywords(text="invoice").ids) == {"d0", "d1", "d3"}
        assert collection.keywords(text="harbour").ids == ("d2",)
        assert columns(admin, collection) == {"words": "s"}

    def test_without_one_every_word_is_kept_as_it_is(self, svr_client: SVRClient) -> None:
        collection = filled(svr_client)
        assert set(collection.keywords(text="invoice").ids) == {"d0", "d3"}
        assert set(collection.keywords(text="the").ids) == {"d0", "d3"}

    def test_stop_words_alone_say_so(self, svr_client: SVRClient) -> None:
        collection = filled(svr_client, text_search="english")
        alone = collection.keywords(text="the of a")
        assert alone.incomplete is not None
        assert "stop words" in alone.incomplete.message
        both = collection.hybrid(text="the of a", vector=[1.0, 0.0], limit=2)
        assert both.ids == ("d0", "d1")
        assert "vectors alone decided" in both.notes[0]
        assert both.incomplete is None
        assert both[0].legs == Legs(1, None)

    def test_it_is_remembered(self, svr_client: SVRClient, postgres_url: str) -> None:
        filled(svr_client, text_search="english")
        with SVRClient(postgres_url) as other:
            assert other.collection("papers").keywords(text="harbour").ids == ("d2",)
            other.create_collection("papers", dimensions=2, if_exists="open")
            other.create_collection("papers", dimensions=2, text_search="english", if_exists="open")
            with pytest.raises(errors.CollectionMismatch, match="text_search english, not german"):
                other.create_collection("papers", dimensions=2, text_search="german", if_exists="open")

    def test_a_collection_without_one_is_simple(self, svr_client: SVRClient) -> None:
        filled(svr_client)
        svr_client.create_collection("papers", dimensions=2, text_search="simple", if_exists="open")
        with pytest.raises(errors.CollectionMismatch, match="text_search simple, not english"):
            svr_client.create_collection("papers", dimensions=2, text_search="english", if_exists="open")

    @pytest.mark.parametrize("odd", ["klingon", "no.such", "a'; drop table x", '"', "a b", "x.y.z"])
    def test_unknown_ones_are_refused_with_those_there_are(self, svr_client: SVRClient, odd: str) -> None:
        with pytest.raises(errors.InputError, match="english"):
            svr_client.create_collection("odd", dimensions=2, text_search=odd)
        assert svr_client.list_collections() == []

    @pytest.mark.parametrize("odd", ["", 3, b"english", "a\x00"])
    def test_what_is_no_name_is_refused(self, svr_client: SVRClient, odd: object) -> None:
        with pytest.raises(errors.InputError, match="text_search"):
            svr_client.create_collection("odd", dimensions=2, text_search=odd)  # type: ignore[arg-type]

    def test_a_configuration_of_ones_own(self, svr_client: SVRClient, admin: psycopg.Connection) -> None:
        admin.execute("create text search configuration public.shouts (copy = simple)")
        collection = filled(svr_client, text_search="public.shouts")
        assert collection.keywords(text="HARBOURS").ids == ("d2",)

    def test_other_backends_refuse_languages(self) -> None:
        with SVRClient("memory://") as memory:
            with pytest.raises(errors.InputError, match="english"):
                memory.create_collection("odd", dimensions=2, text_search="english")
            memory.create_collection("plain", dimensions=2, text_search="simple")


class TestMaking:
    def test_the_first_search_makes_them_beside_existing_documents(
        self, svr_client: SVRClient, admin: psycopg.Connection
    ) -> None:
        collection = filled(svr_client, rows=1_203)
        assert columns(admin, collection) == {}
        found = collection.keywords(text="harbours", limit=1_000)
        assert len(found) == 301
        assert columns(admin, collection) == {"words": ""}
        assert len(indexes(admin, collection)) == 1
        collection.add([Document("new", "harbours", vector=[1.0, 0.0])])
        collection.add([Document("d2", "nothing of it", vector=[1.0, 0.0])])
        assert collection.keywords(text="harbours").ids[0] == "new"
        assert "d2" not in collection.keywords(text="harbours", limit=1_000).ids

    def test_nothing_of_a_document_changes(self, svr_client: SVRClient) -> None:
        collection = filled(svr_client, rows=40)
        before = collection.find(with_vectors=True)
        collection.keywords(text="dawn")
        assert collection.find(with_vectors=True) == before

    def test_others_write_and_search_meanwhile(self, svr_client: SVRClient, postgres_url: str) -> None:
        filled(svr_client, rows=3_000)

        async def run() -> None:
            async with AsyncSVRClient(postgres_url) as one, AsyncSVRClient(postgres_url) as two:
                first, second = await one.collection("papers"), await two.collection("papers")

                async def write() -> None:
                    for n in range(30):
                        rows = [Document(f"d{n * 100 + k}", "zeppelin", vector=[1.0, 0.5]) for k in range(3)]
                        await first.add([*rows, Document(f"z{n}", "zeppelin", vector=[1.0, 0.5])])
                        await second.delete([f"d{n * 100 + 50}"])

                await asyncio.gather(
                    write(), *(each.keywords(text="zeppelin") for each in (first, second, first))
                )
                await first.refresh()
                found = await second.keywords(text="zeppelin", limit=500)
                assert len(found) == 120
                assert await second.count() == 3_000

        asyncio.run(run())

    def test_a_build_that_was_interrupted_is_brought_to_its_end(
        self, svr_client: SVRClient, admin: psycopg.Connection
    ) -> None:
        """Left over: the column, the trigger, half of the words, and an index that cannot be used."""
        collection = filled(svr_client, rows=1_100)
        table = documents(collection)
        tables = _tables(collection)
        for statement in words.begin(tables):
            admin.execute(statement)
        admin.execute(words.fill(tables), ("", "", 500))
        admin.execute(words.index(tables))
        admin.execute(
            "update pg_index set indisvalid = false where indexrelid = %s::regclass", (f"{table}_words",)
        )
        assert columns(admin, collection) == {"words_new": ""}
        assert len(collection.keywords(text="harbours", limit=1_000)) == 275
        assert columns(admin, collection) == {"words": ""}
        valid = admin.execute(
            "select indisvalid from pg_index where indexrelid = %s::regclass", (f"{table}_words",)
        )
        assert valid.fetchone() == (True,)

    def test_a_column_without_its_trigger_is_no_trap(
        self, svr_client: SVRClient, admin: psycopg.Connection
    ) -> None:
        collection = filled(svr_client)
        admin.execute(f"alter table {documents(collection)} add column words_new tsvector")
        assert collection.keywords(text="harbours").ids == ("d2",)
        collection.add([Document("x", "harbours", vector=[1.0, 0.0])])
        assert set(collection.keywords(text="harbours").ids) == {"d2", "x"}

    def test_a_table_that_is_held_delays_them_and_harms_nobody(
        self, svr_client: SVRClient, admin: psycopg.Connection
    ) -> None:
        collection = filled(svr_client)
        with admin.transaction():
            admin.execute(f"select count(*) from {documents(collection)}")
            result = collection.hybrid(text="harbours", vector=[1.0, 0.0], timeout_seconds=1.0)
            assert result.ids == ("d0", "d1", "d2", "d3")
            assert result.incomplete is not None
            assert result.incomplete.code == "not_indexed"
            alone = collection.keywords(text="harbours", timeout_seconds=1.0)
            assert len(alone) == 0
            assert alone.incomplete is not None
            assert alone.incomplete.code == "not_indexed"
        collection.keywords(text="harbours")
        collection.refresh()
        assert collection.keywords(text="harbours").ids == ("d2",)

    def test_closing_ends_the_making(self, svr_client: SVRClient, postgres_url: str) -> None:
        filled(svr_client)
        with psycopg.connect(postgres_url) as holder, SVRClient(postgres_url) as other:
            collection = other.collection("papers")
            holder.execute(f"select 1 from {documents(collection)}")
            assert len(collection.keywords(text="harbours", timeout_seconds=0.5)) == 0
        assert svr_client.collection("papers").keywords(text="harbours").ids == ("d2",)

    def test_dropping_leaves_nothing(self, svr_client: SVRClient, admin: psycopg.Connection) -> None:
        collection = filled(svr_client)
        collection.keywords(text="harbours")
        number = collection._async._ref.id
        svr_client.drop_collection("papers")
        left = admin.execute(
            "select relname from pg_class where relname like %s"
            " union all select proname from pg_proc where proname like %s",
            (f"c{number}\\_%", f"c{number}\\_%"),
        )
        assert left.fetchall() == []
        with pytest.raises(errors.CollectionNotFound):
            collection.keywords(text="harbours")

    def test_a_role_that_may_not_is_told_who_may(
        self, svr_client: SVRClient, admin: psycopg.Connection, postgres_url: str
    ) -> None:
        owner = filled(svr_client)
        role = f"guest_{admin.info.dbname}"
        admin.execute(f"create role {role} login")
        admin.execute(f"grant usage on schema svr to {role}")
        admin.execute(f"grant select, insert, update, delete on all tables in schema svr to {role}")
        admin.execute(f"grant usage on all sequences in schema svr to {role}")
        with SVRClient(postgres_url.replace("postgres@", f"{role}@")) as guest:
            collection = guest.collection("papers")
            with pytest.raises(errors.PermissionDenied, match="role that owns the tables"):
                collection.keywords(text="harbours")
            result = collection.hybrid(text="harbours", vector=[1.0, 0.0], limit=2)
            assert result.ids == ("d0", "d1")
            assert result.incomplete is not None
            assert result.incomplete.code == "leg_failed"
            assert "role that owns" in result.incomplete.message
            owner.keywords(text="harbours")
            assert collection.keywords(text="harbours").ids == ("d2",)
            collection.add([Document("mine", "harbours", vector=[1.0, 0.0])])
            assert set(collection.keywords(text="harbours").ids) == {"d2", "mine"}
        admin.execute(f"drop owned by {role}")
        admin.execute(f"drop role {role}")


class TestRanking:
    def test_the_score_is_robertsons(self, svr_client: SVRClient) -> None:
        texts = ["apple apple apple pear", "apple", "pear pear plum", "plum " * 20, "fig " * 300 + "apple"]
        collection = svr_client.create_collection("fruit", dimensions=2)
        collection.add([Document(f"d{n}", text, vector=[1.0, 0.0]) for n, text in enumerate(texts)])
        result = collection.keywords(text="apple pear")
        mean = sum(map(len, texts)) / len(texts)

        def score(text: str) -> float:
            total = 0.0
            for word in ("apple", "pear"):
                having = sum(word in each.split() for each in texts)
                count = text.split().count(word)
                rarity = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
                total += rarity * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(text) / mean))
            return total

        for hit in result:
            assert hit.score == pytest.approx(score(hit.text), rel=1e-6)
        assert set(result.ids) == {"d0", "d1", "d2", "d4"}

    @pytest.mark.parametrize("count", [1, 2, 3, 10, 63, 100, 255])
    def test_counts_are_had_back_exactly(
        self, svr_client: SVRClient, admin: psycopg.Connection, count: int
    ) -> None:
        rank = admin.execute(
            "select ts_rank('{1,1,1,1}', to_tsvector('simple', repeat('a ', %s)), 'a')", (count,)
        ).fetchone()
        assert rank is not None
        assert round(1 / (1.6449340668482264 - 1.64493406685 * rank[0]) - 0.5) == count

    def test_the_index_is_used(self, svr_client: SVRClient, admin: psycopg.Connection) -> None:
        collection = filled(svr_client, rows=3_000, text_search="simple")
        admin.execute("set enable_seqscan = off")
        asked = _ranked(collection, "harbours plumber")
        plan = "\n".join(str(row[0]) for row in admin.execute(b"explain " + asked.text, asked.params))
        assert plan.count("_documents_words") == 2

    def test_common_words_decide_only_among_those_with_a_rarer_one(
        self, svr_client: SVRClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keyword_queries, "MOST_RANKED", 150)
        collection = filled(svr_client, rows=400)
        result = collection.keywords(text="the plumber of dawn", limit=400)
        assert {hit.text for hit in result} == {TEXTS[0]}
        assert len(collection.keywords(text="dawn", limit=400)) == 200

    def test_words_are_taken_apart_as_in_memory(self, admin: psycopg.Connection) -> None:
        statement = sql.SQL("select tsvector_to_array({})").format(
            words.words_of("simple", sql.SQL("%s::text"))
        )
        for text in (
            "json.dumps(obj, indent=2)", "snake_case __init__ _x", "a/b/c.txt C:\\temp", "mail me@example.com now",
            "http://example.com/a?b=c#d", "x-ray by-product -5 +7 3.14 1,000", "<p>text</p> &amp; a<b>c",
            "it's ‘so’ “quoted”", "one.two.three. Four", "ÄÖÜ straße ÉCLAIR", "東京 タワー", "a~b a+b a=b a:b", "!?",
        ):  # fmt: skip
            row = admin.execute(statement, (text,) * 3).fetchone()
            assert row is not None
            found = {word.replace("zqz", "_") for word in row[0]}
            assert found == set(words_in_memory(text)), text


class TestLegs:
    def test_both_dead_is_an_error(self, svr_client: SVRClient, monkeypatch: pytest.MonkeyPatch) -> None:
        collection = filled(svr_client)
        assert collection.keywords(text="dawn").ids

        async def dead(*_: object, **__: object) -> None:
            raise errors.BackendError("It burns.")

        monkeypatch.setattr(PostgresBackend, "_ranked", dead)
        half = collection.hybrid(text="dawn", vector=[1.0, 0.0], limit=2)
        assert half.ids == ("d0", "d1")
        assert half.incomplete is not None
        assert (half.incomplete.code, "burns" in half.incomplete.message) == ("leg_failed", True)
        with pytest.raises(errors.BackendError, match="burns"):
            collection.keywords(text="dawn")
        monkeypatch.setattr("svr_retrievers.search.legs.run", dead)
        with pytest.raises(errors.BackendError, match="burns"):
            collection.hybrid(text="dawn", vector=[1.0, 0.0])

    def test_a_dead_search_by_vector_leaves_words(
        self, svr_client: SVRClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        collection = filled(svr_client)

        async def dead(*_: object, **__: object) -> None:
            raise errors.BackendError("It burns.")

        collection.keywords(text="dawn")
        monkeypatch.setattr("svr_retrievers.search.legs.run", dead)
        half = collection.hybrid(text="dawn", vector=[1.0, 0.0])
        assert set(half.ids) == {"d2", "d3"}
        assert half.incomplete is not None
        assert half.incomplete.code == "leg_failed"

    def test_a_map_that_moves_on_is_read_again(self, svr_client: SVRClient, postgres_url: str) -> None:
        collection = filled(svr_client, partition_by=by_field("n"))
        collection.keywords(text="dawn")
        with SVRClient(postgres_url) as other:
            behind = other.collection("papers")
            collection.add([Document("new", "zeppelin", {"n": 77}, vector=[1.0, 0.0])])
            assert behind.keywords(text="zeppelin").ids == ("new",)
            collection.add([Document("newer", "airship", {"n": 78}, vector=[1.0, 0.0])])
            assert behind.keywords(text="airship").ids == ("newer",)
            assert behind.keywords(text="none such").ids == ()

    def test_reranking_reads_more_than_is_answered(self, svr_client: SVRClient) -> None:
        class Backwards:
            name = "backwards"

            def rerank(self, query: str, texts: list[str]) -> list[float]:
                self.seen = (query, list(texts))
                return [float(at) for at in range(len(texts))]

        reranker = Backwards()
        collection = filled(svr_client)
        plain = collection.hybrid(text="dawn", vector=[1.0, 0.0], limit=4)
        result = collection.hybrid(text="dawn", vector=[1.0, 0.0], limit=1, reranker=reranker)  # type: ignore[arg-type]
        assert reranker.seen == ("dawn", [hit.text for hit in plain])
        assert result.ids == plain.ids[-1:]
        assert result.reranked
        assert result[0].legs == plain[-1].legs


def _tables(collection: Collection) -> words.Tables:
    backend = collection._async._backend
    assert isinstance(backend, PostgresBackend)
    return backend.tables(collection._async._ref)


def _ranked(collection: Collection, text: str) -> keyword_queries.Asked:
    import numpy as np

    from svr_retrievers.backends.protocol import KeywordQuery
    from svr_retrievers.filters import ALL

    partitions = tuple(leaf.id for leaf in collection.partitions.leaves)
    query = KeywordQuery(text, np.empty(0, np.float32), 10, "default", ALL, partitions)
    return keyword_queries.ranked(_tables(collection), query, collection.partitions.rows, vectors=False)


def test_nobody_has_words_before_they_are_asked_for(svr_client: SVRClient, postgres_url: str) -> None:
    collection = filled(svr_client)
    collection.refresh()

    async def named() -> str | None:
        async with await psycopg.AsyncConnection.connect(postgres_url) as conn:
            return await column(conn, _tables(collection))

    assert asyncio.run(named()) is None
