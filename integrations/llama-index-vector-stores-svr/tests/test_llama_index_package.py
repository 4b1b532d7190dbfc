"""What the distribution promises: a namespace package, its metadata, and a README whose code runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import llama_index.vector_stores.svr as package

ROOT = Path(__file__).parents[1]


def test_the_parents_are_namespaces_and_the_package_is_typed() -> None:
    assert not (ROOT / "llama_index" / "__init__.py").exists()
    assert not (ROOT / "llama_index" / "vector_stores" / "__init__.py").exists()
    assert (Path(package.__file__).parent / "py.typed").exists()


def test_the_hub_metadata_names_what_can_be_imported() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    hub = told["tool"]["llamahub"]
    assert hub["import_path"] == package.__name__
    assert list(hub["class_authors"]) == package.__all__
    assert told["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["llama_index"]


ATLAS = "mongodb+srv://user:password@cluster0.example.mongodb.net/library"


def run_readme(replaced: str | None = None) -> None:
    """Every example in its order; the one of Atlas only where a URL is given for it."""
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(code) == 9
    assert sum(ATLAS in block for block in code) == 1
    chosen = [block.replace(ATLAS, replaced or ATLAS) for block in code if replaced or ATLAS not in block]
    scope: dict[str, Any] = {}
    exec(compile("\n".join(chosen), "README.md", "exec"), scope)
    scope["store"].close()


def test_the_code_in_the_readme_runs() -> None:
    run_readme()


def test_the_code_for_mongodb_runs(mongodb_url: str) -> None:
    run_readme(mongodb_url)


def test_every_extra_is_one_of_the_core() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    core = tomllib.loads((ROOT.parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(told) == {"postgres", "embedded", "mongodb"} <= set(core)
    assert all(needs == [f"svr-retrievers[{name}]"] for name, needs in told.items())


def test_the_readme_explains_every_operator_and_option() -> None:
    from llama_index.core.vector_stores import FilterOperator
    from llama_index.vector_stores.svr import options

    readme = (ROOT / "README.md").read_text()
    for name in [*(o.value for o in FilterOperator), *options._ALL]:
        assert f"`{name}`" in readme, name
