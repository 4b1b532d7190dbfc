"""The default corpus: the documentation inside this Python's standard library, read without imports."""

from __future__ import annotations

import ast
import inspect
import os
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from svr_retrievers.demo.chapters import chapter_of
from svr_retrievers.demo.corpus import Source, Undecodable, passages, read_utf8
from svr_retrievers.errors import InputError
from svr_retrievers.model import Document

# Tests, third-party code and tools with a life of their own.
LEFT_OUT = frozenset(
    {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "turtledemo", "idle_test"}
)

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def standard_library_corpus() -> Source:
    """Docstrings of modules, classes and functions, and the language topics of `help()`."""
    root = Path(sysconfig.get_path("stdlib")).resolve()
    files = tuple(sorted(_sources(root)))
    if not files:
        raise InputError(
            f"This Python has no standard library sources in {root}.",
            hint="Give the demo texts of your own with --path FOLDER.",
        )
    return Source("the Python standard library", root, files, _read_module)


def _sources(root: Path) -> Iterator[Path]:
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name not in LEFT_OUT]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def module_name(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _read_module(root: Path, path: Path) -> Iterator[Document]:
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(read_utf8(path))
    except (SyntaxError, ValueError) as error:
        raise Undecodable(path) from error
    module = module_name(root, path)
    numbers: Counter[str] = Counter()
    for name, kind, line, text in _texts(module, tree):
        for passage_line, passage in passages(text):
            yield _document(module, name, kind, line + passage_line - 1, passage, numbers)


def _document(module: str, name: str, kind: str, line: int, passage: str, numbers: Counter[str]) -> Document:
    """One passage. It begins with its dotted name, as a reader of documentation would see it."""
    key = f"{module}:{name}"
    number = numbers[key]
    numbers[key] += 1
    title = f"{module}.{name}" if name else module
    text = f"{title}\n{passage}"
    return Document(
        id=f"{key}#{number}",
        text=text,
        metadata={
            "category": chapter_of(module),
            "module": module,
            "kind": kind,
            "name": name.rpartition(".")[2] or module.rpartition(".")[2],
            "line": line,
            "length": len(text),
        },
    )


def _texts(module: str, tree: ast.Module) -> Iterator[tuple[str, str, int, str]]:
    """(qualified name, kind, first line, text) of everything documented in a module."""
    if module == "pydoc_data.topics":
        yield from _topics(tree)
    else:
        yield from _docstrings(tree, "", "module")


def _docstrings(node: Documented, name: str, kind: str) -> Iterator[tuple[str, str, int, str]]:
    if text := ast.get_docstring(node, clean=True):
        yield name, kind, node.body[0].lineno, text
    for child in _definitions(node):
        inner = f"{name}.{child.name}" if name else child.name
        yield from _docstrings(child, inner, _kind(node, child))


def _kind(parent: ast.AST, child: ast.AST) -> str:
    if isinstance(child, ast.ClassDef):
        return "class"
    return "method" if isinstance(parent, ast.ClassDef) else "function"


def _definitions(node: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Classes and functions directly inside, also under `if` and `try`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        elif isinstance(child, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _definitions(child)


def _topics(tree: ast.Module) -> Iterator[tuple[str, str, int, str]]:
    """The texts behind `help("while")` and the like: one dictionary of strings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                    yield str(key.value), "topic", value.lineno, inspect.cleandoc(str(value.value))
