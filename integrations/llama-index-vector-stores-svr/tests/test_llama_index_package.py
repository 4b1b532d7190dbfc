"""What the distribution promises: a namespace package, its metadata, and a README whose code runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import llama_index.vector_stores.svr as package
import pytest

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


def test_the_code_in_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(code) == 4
    scope: dict[str, object] = {}
    exec(compile("\n".join(code), "README.md", "exec"), scope)
    scope["store"].close()  # type: ignore[attr-defined]


def test_the_readme_explains_every_operator_and_option() -> None:
    from llama_index.core.vector_stores import FilterOperator
    from llama_index.vector_stores.svr import querying

    readme = (ROOT / "README.md").read_text()
    for name in [*(o.value for o in FilterOperator), *querying._SEARCH, *querying._MMR, *querying._OWN]:
        assert f"`{name}`" in readme, name
