"""Writes a parsed filter as one readable line."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Final

from svr_retrievers.filters.tree import (
    And,
    Compare,
    Contains,
    EqualsList,
    Exists,
    In,
    IsNull,
    Like,
    Node,
    Not,
    Op,
    Or,
    Path,
)
from svr_retrievers.filters.values import iso_utc

_SIGNS: Final = {Op.EQ: "=", Op.GT: ">", Op.GTE: ">=", Op.LT: "<", Op.LTE: "<="}
_SHOWN = 10
_TEXT_SHOWN = 80


def describe(node: Node) -> str:
    """Long lists and texts are shortened; what cannot be printed is shown as an escape."""
    match node:
        case And(()):
            return "everything"
        case Or(()):
            return "nothing"
        case And(children):
            return _joined(" and ", children)
        case Or(children):
            return _joined(" or ", children)
        case Not(child):
            return f"not ({describe(child)})"
        case _:
            return f"{_name(node.path)} {_condition(node)}"


def _joined(word: str, children: tuple[Node, ...]) -> str:
    shown = [f"({text})" if _is_group(c) else text for c in children[:_SHOWN] for text in [describe(c)]]
    more = [f"{len(children) - _SHOWN:,} more"] if len(children) > _SHOWN else []
    return word.join(shown + more)


def _is_group(node: Node) -> bool:
    return isinstance(node, (And, Or)) and len(node.children) > 1


def _condition(
    node: Compare | In | IsNull | EqualsList | Contains | Exists | Like,
) -> str:
    match node:
        case Compare(op, _, operand):
            return f"{_SIGNS[op]} {_value(operand)}"
        case In(_, operands):
            return f"in {_value(operands)}"
        case IsNull():
            return "is null"
        case EqualsList(_, operand):
            return f"= {_value(operand)}"
        case Contains(_, operand):
            return f"contains {_value(operand)}"
        case Exists():
            return "exists"
        case Like(_, pattern, ignore_case):
            return f"{'ilike' if ignore_case else 'like'} {_value(pattern)}"


def _name(path: Path) -> str:
    return ".".join(key if key.isidentifier() and key.isascii() else _value(key) for key in path)


def _value(value: object) -> str:
    if isinstance(value, tuple):
        more = f", {len(value) - _SHOWN:,} more" if len(value) > _SHOWN else ""
        return f"[{', '.join(_value(v) for v in value[:_SHOWN])}{more}]"
    if isinstance(value, datetime):
        return iso_utc(value)
    if isinstance(value, str):
        text = value if len(value) <= _TEXT_SHOWN else value[: _TEXT_SHOWN - 3] + "..."
        quoted = json.dumps(text, ensure_ascii=False)
        return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in quoted)
    return json.dumps(value)
