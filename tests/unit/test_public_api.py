"""The public API is what it says it is, in both forms, and the code keeps the house's rules."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import svr_retrievers
import svr_retrievers.blocking
import svr_retrievers.embedding
import svr_retrievers.filters
import svr_retrievers.reranking
import svr_retrievers.search
from svr_retrievers import AsyncCollection, AsyncSVRClient, Collection, SVRClient

ROOT = Path(__file__).parents[2]
PACKAGES = [
    ROOT / "svr_retrievers",
    ROOT / "integrations/langchain-svr/langchain_svr",
    ROOT / "integrations/llama-index-vector-stores-svr/llama_index",
]
MODULES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
TWINS = [(AsyncSVRClient, SVRClient), (AsyncCollection, Collection)]
OPENED_BY_THE_CONSTRUCTOR = {(AsyncSVRClient, "open")}

every_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


# The root


def test_all_names_exactly_what_the_root_imports() -> None:
    imported = {
        alias.asname or alias.name
        for node in _tree(ROOT / "svr_retrievers/__init__.py").body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }

    assert set(svr_retrievers.__all__) == imported
    assert len(svr_retrievers.__all__) == len(imported)


def test_all_is_in_order() -> None:
    """Constants, classes, the rest: each by name."""
    order = sorted(svr_retrievers.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n))

    assert svr_retrievers.__all__ == order


def test_the_root_is_short_enough_to_read() -> None:
    assert len((ROOT / "svr_retrievers/__init__.py").read_text().splitlines()) < 40


@pytest.mark.parametrize("name", svr_retrievers.__all__)
def test_each_public_name_says_what_it_is(name: str) -> None:
    value = getattr(svr_retrievers, name)
    if not isinstance(value, type | FunctionType | ModuleType):
        assert name.isupper()
        return
    written = vars(value).get("__doc__") if isinstance(value, type) else value.__doc__

    assert written
    assert not written.startswith(f"{name}("), "that is the docstring dataclass made"


# The two forms


def _public(cls: type) -> dict[str, object]:
    return {name: inspect.getattr_static(cls, name) for name in dir(cls) if not name.startswith("_")}


def _coroutines() -> Iterator[tuple[type, type, str]]:
    for slow, fast in TWINS:
        for name, value in _public(slow).items():
            if inspect.iscoroutinefunction(value) and (slow, name) not in OPENED_BY_THE_CONSTRUCTOR:
                yield slow, fast, name


def _told(signature: inspect.Signature) -> list[tuple[str, object, object, str]]:
    return [(p.name, p.kind, p.default, str(p.annotation)) for p in signature.parameters.values()]


@pytest.mark.parametrize(("slow", "fast", "name"), list(_coroutines()))
def test_each_coroutine_has_a_blocking_twin(slow: type, fast: type, name: str) -> None:
    theirs, ours = inspect.signature(getattr(slow, name)), inspect.signature(getattr(fast, name))

    assert not inspect.iscoroutinefunction(getattr(fast, name))
    assert _told(ours) == _told(theirs)
    assert ours.return_annotation == theirs.return_annotation.replace("AsyncCollection", "Collection")


@pytest.mark.parametrize(("slow", "fast"), TWINS)
def test_the_blocking_form_has_nothing_of_its_own_but_the_way_back(slow: type, fast: type) -> None:
    without = {name for cls, name in OPENED_BY_THE_CONSTRUCTOR if cls is slow}
    properties = {name for name, value in _public(slow).items() if isinstance(value, property)}

    assert set(_public(fast)) - set(_public(slow)) - _attributes(slow) == {"aio"}
    assert set(_public(slow)) - set(_public(fast)) == without
    assert properties <= {name for name, value in _public(fast).items() if isinstance(value, property)}


def _attributes(cls: type) -> set[str]:
    """The public attributes that its methods set."""
    trees = [ast.parse(inspect.getsource(base)) for base in cls.__mro__ if base is not object]
    stored = (n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Attribute))
    return {n.attr for n in stored if isinstance(n.ctx, ast.Store) and not n.attr.startswith("_")}


def test_the_clients_open_alike() -> None:
    assert inspect.signature(SVRClient) == inspect.signature(AsyncSVRClient)


# The adapters


@pytest.mark.parametrize(
    "path", [p for p in MODULES if "integrations" in p.parts], ids=lambda path: str(path.relative_to(ROOT))
)
def test_an_adapter_uses_public_names_only(path: Path) -> None:
    errors = {name for name in vars(svr_retrievers.errors) if not name.startswith("_")}
    allowed = {f"svr_retrievers.{name}" for name in svr_retrievers.__all__}
    allowed |= {f"svr_retrievers.filters.{name}" for name in svr_retrievers.filters.__all__}
    allowed |= {f"svr_retrievers.reranking.{name}" for name in svr_retrievers.reranking.__all__}
    allowed |= {f"svr_retrievers.embedding.{name}" for name in svr_retrievers.embedding.__all__}
    allowed |= {f"svr_retrievers.search.{name}" for name in svr_retrievers.search.__all__}
    allowed |= {f"svr_retrievers.blocking.{name}" for name in svr_retrievers.blocking.__all__}
    allowed |= {"svr_retrievers", "svr_retrievers.__version__"} | {
        f"svr_retrievers.errors.{name}" for name in errors
    }

    assert set(_used(_tree(path))) - allowed == set()


def _used(tree: ast.Module) -> Iterator[str]:
    """Every name of the core that a module imports, or reaches through an imported module."""
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "svr_retrievers":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "svr_retrievers":
                    modules[alias.asname or "svr_retrievers"] = (
                        alias.name if alias.asname else "svr_retrievers"
                    )
                    yield alias.name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield f"{modules[node.value.id]}.{node.attr}"


# The house


def test_the_import_rules_cover_every_module() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = [name for row in settings["contracts"][0]["layers"] for name in re.findall(r"[\w.]+", row)]
    package = ROOT / "svr_retrievers"
    names = [".".join(p.relative_to(package).with_suffix("").parts) for p in package.rglob("*.py")]
    inner = [name for name in names if not name.endswith("__init__")]

    assert [name for name in inner if not any(f"{name}.".startswith(f"{layer}.") for layer in layers)] == []


@every_module
def test_a_module_says_its_job_in_its_first_line(path: Path) -> None:
    said = ast.get_docstring(_tree(path))

    assert said
    assert said.splitlines()[0].strip()


@every_module
def test_nothing_is_left_open(path: Path) -> None:
    assert re.findall(r"\b(?:TODO|FIXME|XXX|NotImplementedError)\b", path.read_text("utf-8")) == []


@every_module
def test_functions_stay_short(path: Path) -> None:
    functions = [n for n in ast.walk(_tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]

    assert [f.name for f in functions if _lines(f) > 70] == []


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


@every_module
def test_a_file_is_named_after_its_subject(path: Path) -> None:
    assert re.search(r"util|helper|manager|common|misc", path.stem) is None
