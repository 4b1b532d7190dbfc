"""Real texts for the benchmark: read from package lists, each once, and embedded apart from the queries."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from svr_retrievers.bench import real_text
from svr_retrievers.bench.real_text import Described, from_apt, from_python

APT = """Package: zlib-tools
Section: contrib/utils
Description: compress and inspect files
 Longer words about compression,
 .
 on several lines.
Homepage: none

Package: no-section
Description: has no section

Package: brief
Section: utils
Description-md5: 123
"""


def test_a_package_list_gives_name_description_and_section():
    assert list(from_apt(APT)) == [
        Described(
            "zlib-tools: compress and inspect files Longer words about compression, on several lines.",
            "utils",
        )
    ]


def test_python_packages_give_their_summary_and_paragraphs_by_their_first_topic():
    classifiers = ["License :: X", "Topic :: Database :: Front-Ends", "Topic :: Text"]
    found = list(from_python([("p", "keeps rows", classifiers, "# P\n\n<img>\n\nIt keeps\nrows well.")]))

    assert Described("p: keeps rows", "Database") in found
    assert Described("p: It keeps rows well.", "Database") in found
    assert not any("<img" in one.text for one in found)
    assert next(from_python([("q", "s", [], "")])).section == "other"


@pytest.fixture
def machine(monkeypatch):
    """A machine with a list of 900 packages, every third described like the one before it."""

    def listed(count):
        words = ["router", "driver", "editor", "viewer", "parser", "server", "mirror"]
        entries = [
            f"Package: p{i}\nSection: s{i % 7}\n"
            f"Description: a {words[i % 7]} for number {i - (i % 3 == 2)} of the fleet"
            for i in range(count)
        ]
        monkeypatch.setattr(real_text, "_apt", lambda: "\n\n".join(entries))

    return listed


def test_queries_are_not_among_the_rows_and_the_seed_decides(machine):
    machine(900)
    made, source = real_text.corpus(200, 40, seed=3, other_python=sys.executable)
    again, _ = real_text.corpus(200, 40, seed=3, other_python=sys.executable)
    other, _ = real_text.corpus(200, 40, seed=4, other_python=sys.executable)

    assert "apt" in source
    assert len(made.queries) == 40
    assert 100 < len(made.rows) <= 200
    assert len(np.unique(np.round(made.rows.vectors, 5), axis=0)) == len(made.rows)
    assert made.rows.texts == again.rows.texts != other.rows.texts
    assert np.allclose(np.linalg.norm(made.rows.vectors, axis=1), 1.0, atol=1e-5)
    assert (made.queries.vectors @ made.rows.vectors.T).max() < 1.0 - 1e-5
    assert made.rows.metadata(0) == {"section": made.rows.value("section", 0)}
    assert {made.queries.value("section", q) for q in range(40)} <= {f"s{n}" for n in range(7)}


def test_a_machine_without_texts_is_told_so(machine, monkeypatch):
    machine(10)
    monkeypatch.setattr(
        real_text, "_python_packages", lambda *pythons: [("p", "one rather short summary", [], "")]
    )

    with pytest.raises(real_text.TooFewTexts, match="Only 1 descriptions"):
        real_text.corpus(200, 40, seed=3, other_python=sys.executable)


def test_python_packages_are_read_from_this_python_and_another_is_passed_over_where_it_fails():
    found = real_text._python_packages(sys.executable, "/bin/false")

    assert any(name == "numpy" and classifiers for name, _, classifiers, _ in found)
