"""`collection.analyze()` and `svr analyze` look at what is stored, whatever keeps it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from svr_retrievers import Document, SVRClient, by_field
from svr_retrievers.cli import main

DOCUMENTS = [
    Document(
        f"{row:03d}",
        metadata={"lang": "en" if row % 2 else "de", "owner": row % 5, "page": row},
        namespace="a" if row % 3 else "b",
    )
    for row in range(300)
]
VECTORS = np.random.default_rng(0).standard_normal((300, 8)) + np.eye(2, 8)[np.arange(300) % 2] * 9


@pytest.fixture(params=["memory", "postgres"])
def url(request: pytest.FixtureRequest, postgres_url: str) -> str:
    return postgres_url if request.param == "postgres" else "memory://"


def test_it_says_what_to_declare_and_what_was_asked_for(url: str) -> None:
    with SVRClient(url) as client:
        made = client.create_collection("analysed", dimensions=8, filter_fields={"lang": str})
        assert [f.verdict for f in made.analyze().fields] == ["drop"]
        made.add(DOCUMENTS, vectors=VECTORS)
        for _ in range(3):
            made.search(vector=VECTORS[0], filter={"$not": {"owner": 3}}, namespace="a")
        found = made.analyze()
        assert (found.rows, found.sampled, found.filtered_searches) == (300, 300, 3)
        by_name = {f.field: f for f in found.fields}
        assert by_name["owner"].searches == 3
        assert [by_name[n].verdict for n in ("lang", "owner", "page")] == ["keep", "declare", "leave"]
        assert found.declare == {"owner": "int", "lang": "str"}
        assert found.partition_keys == ("lang",)
        client.drop_collection("analysed")


def test_the_command_prints_a_table_and_json(postgres_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with SVRClient(postgres_url) as client:
        client.drop_collection("told", missing_ok=True)
        made = client.create_collection("told", dimensions=8, partition_by=by_field("lang"))
        made.add(DOCUMENTS, vectors=VECTORS)
        assert main(["analyze", "told", "--url", postgres_url]) == 0
        shown = capsys.readouterr().out
        assert "owner" in shown
        assert "filter_fields={'owner': int, 'lang': str}" in " ".join(shown.split())
        assert "by_field('lang')" in shown
        assert main(["analyze", "told", "--url", postgres_url, "--json"]) == 0
        body = json.loads(capsys.readouterr().out)
        assert body["filter_fields"] == {"lang": "str", "owner": "int"}
        assert body["partition_keys"] == ["lang"]
        assert {f["field"] for f in body["fields"]} == {"lang", "owner", "page"}
        client.drop_collection("told")


def test_an_empty_collection_says_so(postgres_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with SVRClient(postgres_url) as client:
        client.create_collection("bare", dimensions=2, if_exists="open")
        assert main(["analyze", "bare", "--url", postgres_url]) == 0
        assert "no metadata" in capsys.readouterr().out
        client.drop_collection("bare")
