"""The README is true: its code runs, its commands, links, settings and operators exist."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from svr_retrievers import Settings, SVRClient
from svr_retrievers.cli.app import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SECTIONS = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", README, flags=re.DOTALL), flags=re.MULTILINE)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    """Every line of the shell blocks, in words, without its comment."""
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


def rows(header: str) -> list[list[str]]:
    """The cells of the table whose first row begins so."""
    lines = iter(README.splitlines())
    assert any(line.startswith(f"| {header} |") for line in lines), f"no table {header!r}"
    next(lines)
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def run(code: str) -> list[str]:
    """Runs a block as a program of its own; the lines that it printed."""
    output = io.StringIO()
    program = compile(code, "README.md", "exec", dont_inherit=True)
    with contextlib.redirect_stdout(output):
        exec(program, {"__name__": "__main__"})
    return output.getvalue().splitlines()


def promised(code: str) -> list[str]:
    """What the comments behind `print` say is printed."""
    return re.findall(r"^ *print\(.*\)  # (.+)$", code, flags=re.MULTILINE)


@pytest.fixture(autouse=True)
def _own_database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "postgres_url" in request.fixturenames:
        monkeypatch.setenv("SVR_URL", request.getfixturevalue("postgres_url"))
    if "mongodb_url" in request.fixturenames:
        monkeypatch.setenv("MONGODB_URI", request.getfixturevalue("mongodb_url"))


@pytest.mark.parametrize(
    ("number", "printed", "collection", "documents"),
    [
        (0, "category=accounts  How to reset a lost password", "articles", 3),
        (2, "p1 Sourdough rises overnight", "langchain_notes", 3),
        (3, "n1 Sourdough rises overnight", "llama_notes", 2),
    ],
)
def test_a_quick_start_runs_twice_and_prints_what_it_promises(
    number: int, printed: str, collection: str, documents: int, postgres_url: str
) -> None:
    code = blocks("python")[number]

    first, second = run(code), run(code)

    assert first == second
    assert any(line.endswith(printed) for line in first)
    assert [line for line in promised(code) if line not in first] == []
    with SVRClient(postgres_url) as client:
        assert client.collection(collection).count() == documents


def test_what_comes_later_works_on_the_collection_of_the_quick_start(postgres_url: str) -> None:
    start, later = blocks("python")[:2]
    run(start)

    first, second = run(later), run(later)

    assert first == second == promised(later)
    with SVRClient(postgres_url) as client:
        assert client.collection("articles").count() == 3


def test_the_langchain_quick_start_answers_awaited_as_well(postgres_url: str) -> None:
    code = blocks("python")[2]

    printed = run(code)

    assert "await retriever.ainvoke(" in code
    assert len(printed) == 4
    assert printed[:2] == printed[2:]


def test_the_quick_start_for_atlas_runs_twice_and_prints_what_it_promises(mongodb_url: str) -> None:
    code = blocks("python")[4]

    first, second = run(code), run(code)

    assert first == second == promised(code)
    with SVRClient(mongodb_url) as client:
        assert client.collection("tickets").count() == 2


@pytest.mark.ingest
def test_a_folder_is_ingested_once_and_searched_by_both_rankings(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    code = blocks("python")[5]

    first, second = run(code), run(code)

    assert " written=" in first[0]
    assert " written=" not in second[0]
    assert first[1:] == second[1:]
    assert len(first) == 4
    assert all(
        re.fullmatch(r"\S+\.md#\d+  (\d+|None) by meaning, (\d+|None) by words", line) for line in first[1:]
    )


@pytest.mark.slow
def test_what_the_readme_says_of_recall_targets_runs_and_routes(postgres_url: str) -> None:
    route, recall, *suggestions = run(blocks("python")[6])

    assert route.startswith("Route(centroid: ")
    assert 0.5 < float(route.rpartition(" ")[2]) <= 1.0
    assert "0.95" in recall
    assert any("source" in line for line in suggestions)


def test_every_python_block_is_one_of_the_tested_quick_starts() -> None:
    assert len(blocks("python")) == 7
    assert len(promised(blocks("python")[0])) == 2
    assert len(promised(blocks("python")[1])) == 4


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))
    named = {words[1] for words in commands() if words[0] == "make"}
    named |= {text.split()[1] for text in quoted(README) if text.startswith("make ")}

    assert {"demo", "test"} <= named
    assert named <= targets


def test_every_svr_command_exists() -> None:
    lines = [text.split() for text in quoted(README) if text.startswith("svr ")]
    assert ["svr", "demo"] in lines

    for words in lines:
        names = [word for word in words[1:] if word.islower() and not word.startswith("-")]
        options = [word for word in words if word.startswith("--")]
        assert names, words
        assert app.parse_commands(names)[0] == tuple(names)
        help_text = io.StringIO()
        with contextlib.redirect_stdout(help_text):
            app([*names, "--help"], result_action="return_value")
        assert [option for option in options if option not in help_text.getvalue()] == [], words


def test_pip_installs_folders_and_extras_that_exist() -> None:
    (install,) = (words for words in commands() if words[:2] == ["pip", "install"])
    folders = {re.sub(r"\[.*\]$", "", word) for word in install[2:]}
    extras = set(re.findall(r"\[(\w+)\]", " ".join(install)))

    assert {str(Path(f)) for f in folders} == {
        ".",
        "integrations/langchain-svr",
        "integrations/llama-index-vector-stores-svr",
    }
    assert all((ROOT / folder / "pyproject.toml").is_file() for folder in folders)
    assert extras == {"all"}
    assert extras <= PROJECT["project"]["optional-dependencies"].keys()


def test_the_extras_and_markers_it_names_exist() -> None:
    extras_line = next(p for p in README.split("\n\n") if "Extras of the core" in p)
    named = set(quoted(extras_line.partition("Extras of the core")[2]))
    assert named == PROJECT["project"]["optional-dependencies"].keys() - {"demo"}

    markers = re.search(r"markers: ([\w, ]+)", README)
    assert markers is not None
    known = {line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    assert set(markers[1].split(", ")) == known


@pytest.mark.parametrize(
    "page",
    [*PAGES, *sorted(ROOT.glob("integrations/*/README.md"))],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_no_page_installs_from_an_index_what_is_on_none(page: Path) -> None:
    text = page.read_text("utf-8")
    if page == ROOT / "README.md":
        text = "\n\n".join(p for p in text.split("\n\n") if not p.startswith("Errors name an extra"))

    extras = PROJECT["project"]["optional-dependencies"]
    assert re.findall(r"pip install [^`\n]*svr-retrievers|`svr-retrievers\[", text) == []
    named = ",".join(re.findall(r'pip install "?\.\[([\w,]+)\]', text)).split(",")
    assert {name for name in named if name} <= extras.keys()


def test_the_settings_table_is_the_settings_class() -> None:
    stated = {quoted(name)[0]: "".join(quoted(default)) for name, default, _ in rows("setting")}

    fields = Settings.model_fields
    assert stated == {
        f"SVR_{name.upper()}": "" if field.default is None else str(field.default)
        for name, field in fields.items()
    }


def test_the_operator_table_is_the_parser() -> None:
    stated = [operator for names, _ in rows("operator") for operator in quoted(names)]

    parser = import_module("svr_retrievers.filters.parse")
    assert len(stated) == len(set(stated))
    assert set(stated) == {*parser._ON_FIELDS, *parser._ON_FILTERS}


def test_the_full_name_stands_once_beneath_the_title() -> None:
    assert SECTIONS[0] == "Semantic Vector Router"
    assert README.count("Semantic Vector Router") == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_within_the_repository_resolves(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)

    dead = [t for t in targets if "://" not in t and not (page.parent / t.partition("#")[0]).exists()]
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_page_is_left_open_or_tells_where_it_was_written(page: Path) -> None:
    text = page.read_text("utf-8")

    assert re.findall(r"\b(?:TODO|TBD|FIXME|XXX|coming soon)\b", text, flags=re.IGNORECASE) == []
    assert re.findall(r"(?<![\w.])/(?:work|tmp|root|home)\b", text) == []
