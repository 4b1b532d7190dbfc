"""The filter step: which partitions can hold a match, judged from their keys alone. PURE.

A partition key says something about every document below it: the field has this value, the time lies
in this interval, the value has no partition of its own. Under such a fact each node of a filter can be
true, can be false, or both. A partition is left out only when the whole filter can not be true in it,
so whatever the nesting of and, or and not, no match is ever left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from svr_retrievers.filters import (
    ALL,
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
    evaluate,
)
from svr_retrievers.model import JsonValue, Partition, PartitionKey, PartitionMap, PartitionState
from svr_retrievers.routing.schemes import (
    REST,
    FieldLevel,
    HashLevel,
    Level,
    NamespaceLevel,
    Scheme,
    TimeLevel,
    canonical,
    from_canonical,
)


@dataclass(frozen=True, slots=True)
class Exactly:
    """Every document below has this value in the field."""

    value: bool | float | str


@dataclass(frozen=True, slots=True)
class Within:
    """Every document below has a time in [start, end)."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Bucket:
    """Every document below has a value that hashes to this bucket."""

    level: HashLevel
    number: str


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """No document below has a value that has a partition of its own beside this one."""

    known: PartitionMap
    parent: int | None


@dataclass(frozen=True, slots=True)
class Nothing:
    """No document below has a value in the field: it is missing or null."""


Fact: TypeAlias = Exactly | Within | Bucket | Elsewhere | Nothing
Facts: TypeAlias = Mapping[str, Fact]
Can: TypeAlias = tuple[bool, bool]
"""(can be true, can be false)"""

_EITHER: Can = (True, True)
_CALENDAR_END = datetime.max.replace(tzinfo=UTC)
_LEAF_NODES = (Compare, In, IsNull, EqualsList, Contains, Exists, Like)
_READABLE = (PartitionState.ACTIVE, PartitionState.RETIRING, PartitionState.RETIRED)


def matching(
    scheme: Scheme | None, known: PartitionMap, node: Node, namespace: str
) -> list[tuple[Partition, Facts]] | None:
    """The leaves that can hold a match with what is known about each; None when nothing can be ruled out."""
    if scheme is None or not _decides(scheme, node):
        return None
    found: list[tuple[Partition, Facts]] = []
    _descend(scheme, known, node, namespace, None, 0, {}, found)
    return found


def residual(node: Node, facts: list[Facts]) -> Node:
    """What is left to check on rows: the filter without the conditions that hold in every chosen partition."""
    conditions = node.children if isinstance(node, And) else (node,)
    left = [c for c in conditions if not all(can(c, known) == (True, False) for known in facts)]
    if len(left) == len(conditions):
        return node
    return left[0] if len(left) == 1 else And(tuple(left)) if left else ALL


def can(node: Node, facts: Facts) -> Can:
    """Whether the filter can be true and can be false for a document of which `facts` hold."""
    match node:
        case And(children):
            parts = [can(c, facts) for c in children]
            return all(t for t, _ in parts), any(f for _, f in parts)
        case Or(children):
            parts = [can(c, facts) for c in children]
            return any(t for t, _ in parts), all(f for _, f in parts)
        case Not(child):
            can_hold, can_fail = can(child, facts)
            return can_fail, can_hold
        case _:
            fact = facts.get(_field_of(node))
            return _EITHER if fact is None else _under(node, fact)


def _field_of(node: Node) -> str:
    """The field as a scheme names it; "" for a key with a dot in it, which is another field than the path."""
    if not isinstance(node, _LEAF_NODES):
        return ""
    declared = getattr(node, "field", None)
    if isinstance(declared, str):
        return declared
    return "" if any("." in step for step in node.path) else ".".join(node.path)


def _under(node: Node, fact: Fact) -> Can:
    match fact:
        case Exactly(value):
            return _exactly(node, value)
        case Within(start, end):
            return _within(node, start, end)
        case Bucket(level, number):
            return _bucket(node, level, number)
        case Elsewhere(known, parent):
            return _elsewhere(node, known, parent)
        case Nothing():
            return _EITHER if isinstance(node, Exists) else _exactly(node, None)


def _exactly(node: Node, value: bool | float | str | None) -> Can:
    holds = evaluate(node, _nested(_path_of(node), value), {_field_of(node): value})
    return holds, not holds


def _path_of(node: Node) -> tuple[str, ...]:
    return node.path if isinstance(node, _LEAF_NODES) else ()


def _nested(path: tuple[str, ...], value: JsonValue) -> dict[str, JsonValue]:
    body: JsonValue = value
    for step in reversed(path):
        body = {step: body}
    return body if isinstance(body, dict) else {}


def _within(node: Node, start: datetime, end: datetime) -> Can:
    """Judged by the last moment before `end`; the calendar's own end is itself the last."""
    last = end if end == _CALENDAR_END else end - datetime.resolution
    match node:
        case IsNull():
            return False, True
        case Exists():
            return True, False
        case In(operands=operands):
            times = [o for o in operands if isinstance(o, datetime)]
            return (any(start <= t <= last for t in times), True) if len(times) == len(operands) else _EITHER
        case Compare(op=op, operand=datetime() as t):
            match op:
                case Op.EQ:
                    return start <= t <= last, True
                case Op.GT:
                    return last > t, start <= t
                case Op.GTE:
                    return last >= t, start < t
                case Op.LT:
                    return start < t, last >= t
                case Op.LTE:
                    return start <= t, last > t
    return _EITHER


def _bucket(node: Node, level: HashLevel, number: str) -> Can:
    match node:
        case IsNull():
            return level.key(level.field_text(None)).value == number, True
        case Compare(op=Op.EQ, operand=operand) if not isinstance(operand, datetime):
            return level.key(canonical(operand)).value == number, True
        case In(operands=operands):
            plain = [o for o in operands if not isinstance(o, datetime)]
            if len(plain) == len(operands):
                return any(level.key(canonical(o)).value == number for o in plain), True
    return _EITHER


def _elsewhere(node: Node, known: PartitionMap, parent: int | None) -> Can:
    operands = _equal_to(node)
    if operands is None:
        return _EITHER
    homes = (known.child(parent, PartitionKey("field", canonical(o))) for o in operands)
    return any(home is None or not known.leaves_under(home.id) for home in homes), True


def _equal_to(node: Node) -> list[bool | float | str] | None:
    """The values one of which the field must equal; None when the node says something else."""
    match node:
        case Compare(op=Op.EQ, operand=operand) if not isinstance(operand, datetime):
            return [operand]
        case In(operands=operands):
            plain = [o for o in operands if not isinstance(o, datetime)]
            return plain if len(plain) == len(operands) else None
    return None


def _decides(scheme: Scheme, node: Node) -> bool:
    if any(isinstance(level, NamespaceLevel) for level in scheme.levels):
        return True
    fields = set(scheme.fields)
    return bool(fields) and any(_field_of(leaf) in fields for leaf in _leaves_of(node))


def _leaves_of(node: Node) -> list[Node]:
    match node:
        case And(children) | Or(children):
            return [leaf for child in children for leaf in _leaves_of(child)]
        case Not(child):
            return _leaves_of(child)
    return [node]


def _descend(
    scheme: Scheme,
    known: PartitionMap,
    node: Node,
    namespace: str,
    parent: int | None,
    depth: int,
    facts: Facts,
    found: list[tuple[Partition, Facts]],
) -> None:
    level = scheme.levels[depth] if depth < len(scheme.levels) else None
    for child in _candidates(level, known, node, namespace, parent):
        if child.state not in _READABLE or (child.key.kind == "namespace" and child.key.value != namespace):
            continue
        fact = _fact(level, known, parent, child.key)
        here = facts if fact is None or level is None else {**facts, _level_field(level): fact}
        if not can(node, here)[0]:
            continue
        if known.is_leaf(child.id):
            found.append((child, here))
        else:
            _descend(scheme, known, node, namespace, child.id, depth + 1, here, found)


def _candidates(
    level: Level | None, known: PartitionMap, node: Node, namespace: str, parent: int | None
) -> list[Partition]:
    """The children worth a look: found by their key where the filter names it and the level made all, else all."""
    kinds = known.kinds(parent)
    if isinstance(level, NamespaceLevel) and kinds <= {"namespace"}:
        keys = [level.key(namespace), REST]
    elif (
        isinstance(level, FieldLevel)
        and kinds <= {"field"}
        and (values := _required(node, level.field)) is not None
    ):
        keys = [PartitionKey("field", text) for text in dict.fromkeys(map(canonical, values))] + [REST]
    else:
        return list(known.children(parent))
    return [child for key in keys if (child := known.child(parent, key)) is not None]


def _required(node: Node, field: str) -> list[bool | float | str] | None:
    """The values one of which `field` must equal for the filter to hold; None when it need not."""
    for condition in node.children if isinstance(node, And) else (node,):
        if _field_of(condition) == field and (values := _equal_to(condition)) is not None:
            return values
    return None


def _level_field(level: Level) -> str:
    return getattr(level, "field", None) or ""


def _fact(level: Level | None, known: PartitionMap, parent: int | None, key: PartitionKey) -> Fact | None:
    match level, key.kind:
        case FieldLevel(), "field":
            return Exactly(from_canonical(key.value))
        case FieldLevel(), "rest":
            return Elsewhere(known, parent)
        case TimeLevel() as time_level, "time":
            return Within(*time_level.interval(key))
        case TimeLevel(), "rest":
            return Nothing()
        case HashLevel(field=str()) as hash_level, "hash":
            return Bucket(hash_level, key.value)
    return None
