"""What is published: the wheels' content and metadata, and the pins that the checks run with."""

from __future__ import annotations

import re
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECTS = {
    "svr-retrievers": (ROOT, "svr_retrievers"),
    "langchain-svr": (ROOT / "integrations/langchain-svr", "langchain_svr"),
    "llama-index-vector-stores-svr": (
        ROOT / "integrations/llama-index-vector-stores-svr",
        "llama_index/vector_stores/svr",
    ),
}


class Wheel:
    """A wheel as users get it, built without network."""

    def __init__(self, project: str, folder: Path) -> None:
        self.root, self.package = PROJECTS[project]
        built = next(WheelBuilder(str(self.root)).build(directory=str(folder), versions=["standard"]))
        with zipfile.ZipFile(built) as archive:
            self.files = set(archive.namelist())
            (metadata,) = (n for n in self.files if n.endswith(".dist-info/METADATA"))
            self.metadata: Message = HeaderParser().parsestr(archive.read(metadata).decode())

    @property
    def code(self) -> set[str]:
        return {name for name in self.files if ".dist-info/" not in name}


@pytest.fixture(scope="module", params=PROJECTS)
def wheel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return Wheel(request.param, tmp_path_factory.mktemp("wheel"))


def test_a_wheel_holds_its_package_and_nothing_else(wheel: Wheel) -> None:
    sources = {str(p.relative_to(wheel.root)) for p in (wheel.root / wheel.package).rglob("*.py")}

    assert sources <= wheel.code
    assert {name for name in wheel.code if not name.startswith(f"{wheel.package}/")} == set()


def test_a_wheel_says_that_it_is_typed(wheel: Wheel) -> None:
    assert f"{wheel.package}/py.typed" in wheel.files
    assert "Typing :: Typed" in wheel.metadata.get_all("Classifier", [])


def test_a_wheel_carries_its_licence_and_readme(wheel: Wheel) -> None:
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.files)
    assert wheel.metadata["License-Expression"] == "MIT"
    assert wheel.metadata["Description-Content-Type"] == "text/markdown"
    assert len(str(wheel.metadata.get_payload())) > 20


def test_the_core_wheel_carries_every_sql_file(tmp_path: Path) -> None:
    wheel = Wheel("svr-retrievers", tmp_path)
    scripts = {str(p.relative_to(ROOT)) for p in (ROOT / "svr_retrievers").rglob("*.sql")}

    assert scripts
    assert scripts <= wheel.files


def test_the_llama_index_namespace_has_no_parent_module(tmp_path: Path) -> None:
    """A parent `__init__` would hide llama-index-core, which shares the namespace."""
    wheel = Wheel("llama-index-vector-stores-svr", tmp_path)

    assert not {"llama_index/__init__.py", "llama_index/vector_stores/__init__.py"} & wheel.files


def test_the_namespace_is_shared_with_llama_index_core() -> None:
    import llama_index.core
    import llama_index.vector_stores.svr as ours

    assert Path(str(ours.__file__)).parents[2] != Path(str(llama_index.core.__file__)).parents[1]


def test_the_versions_agree() -> None:
    import svr_retrievers

    versions = {name: _project(root)["version"] for name, (root, _) in PROJECTS.items()}

    assert set(versions.values()) == {svr_retrievers.__version__}


def test_every_python_that_is_tested_is_declared() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    tested = set(re.findall(r'"(3\.\d+)"', workflow))

    for root, _ in PROJECTS.values():
        classifiers = " ".join(map(str, _project(root)["classifiers"]))
        assert set(re.findall(r"Python :: (3\.\d+)", classifiers)) == tested


# The pins


def _project(root: Path) -> dict[str, list[str] | str]:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def _direct() -> Iterator[Requirement]:
    for root, _ in PROJECTS.values():
        given = tomllib.loads((root / "pyproject.toml").read_text())
        extras = given["project"].get("optional-dependencies", {}).values()
        groups = given.get("dependency-groups", {}).values()
        for listed in ([given["project"]["dependencies"]], extras, groups):
            for line in (line for lines in listed for line in lines):
                requirement = Requirement(line)
                if canonicalize_name(requirement.name) not in PROJECTS:
                    yield requirement


UNPINNED = {"sentence-transformers"}


def _pins() -> list[Requirement]:
    return [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines()]


@pytest.mark.parametrize("requirement", sorted(set(_direct()), key=str), ids=str)
def test_the_pins_satisfy_the_declared_dependencies(requirement: Requirement) -> None:
    if requirement.name in UNPINNED:
        pytest.skip(f"{requirement.name} brings PyTorch, which no check installs")
    pinned = [p for p in _pins() if canonicalize_name(p.name) == canonicalize_name(requirement.name)]

    assert pinned, f"run `make constraints`: {requirement} is not pinned"
    for pin in pinned:
        (version,) = (specifier.version for specifier in pin.specifier)
        assert requirement.specifier.contains(version, prereleases=True)


def test_the_pins_are_plain_versions() -> None:
    """Neither an index nor a folder: the file must fit every machine."""
    for pin in _pins():
        assert pin.url is None
        assert [specifier.operator for specifier in pin.specifier] == ["=="]
