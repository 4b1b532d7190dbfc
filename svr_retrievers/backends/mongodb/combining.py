"""Puts compiled leaves together, so that the whole is exact or matches a superset. PURE.

A leaf that cannot be said exactly stands for more than it means, and for nothing where it is negated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from svr_retrievers.filters import And, Compare, Contains, EqualsList, Exists, In, IsNull, Like, Node, Not, Or

Filter: TypeAlias = dict[str, object]
Leaf: TypeAlias = Compare | In | IsNull | EqualsList | Contains | Exists | Like

MATCH_ALL: Final[Filter] = {}
MATCH_NONE: Final[Filter] = {"$nor": [{}]}
MAX_LEVELS: Final = 50
"""Groups inside each other; the server refuses documents nested 200 levels deep, a group takes two."""


@dataclass(frozen=True, slots=True)
class Bounded:
    """A leaf's filter: exactly the leaf, or all of it and more (`at_least`: all it surely matches)."""

    at_most: Filter
    at_least: Filter

    @classmethod
    def exactly(cls, filter_: Filter) -> Bounded:
        return cls(filter_, filter_)

    @classmethod
    def superset(cls, filter_: Filter = MATCH_ALL) -> Bounded:
        return cls(filter_, MATCH_NONE)


def combine(node: Node, leaf: Callable[[Leaf], Bounded]) -> tuple[Filter, bool]:
    """The filter, and whether it is exact. Otherwise it matches a superset of what the node does."""
    combiner = _Combiner(leaf)
    return combiner.filter(node, at_most=True, level=1), combiner.exact


class _Combiner:
    def __init__(self, leaf: Callable[[Leaf], Bounded]) -> None:
        self.leaf = leaf
        self.exact = True

    def filter(self, node: Node, *, at_most: bool, level: int) -> Filter:
        match node:
            case Not(Not(child)):
                return self.filter(child, at_most=at_most, level=level)
            case Not(child):
                return negation(self.filter(child, at_most=not at_most, level=level + 1))
            case And(children) | Or(children) if level > MAX_LEVELS and children:
                self.exact = False
                return MATCH_ALL if at_most else MATCH_NONE
            case And(children):
                return conjunction([self.filter(c, at_most=at_most, level=level + 1) for c in children])
            case Or(children):
                return disjunction([self.filter(c, at_most=at_most, level=level + 1) for c in children])
            case _:
                bounded = self.leaf(node)
                self.exact = self.exact and bounded.at_most is bounded.at_least
                return bounded.at_most if at_most else bounded.at_least


def conjunction(parts: list[Filter]) -> Filter:
    if any(part is MATCH_NONE for part in parts):
        return MATCH_NONE
    kept = _spliced("$and", [part for part in parts if part is not MATCH_ALL])
    return MATCH_ALL if not kept else kept[0] if len(kept) == 1 else {"$and": kept}


def disjunction(parts: list[Filter]) -> Filter:
    if any(part is MATCH_ALL for part in parts):
        return MATCH_ALL
    kept = _spliced("$or", [part for part in parts if part is not MATCH_NONE])
    return MATCH_NONE if not kept else kept[0] if len(kept) == 1 else {"$or": kept}


def negation(part: Filter) -> Filter:
    if part is MATCH_ALL:
        return MATCH_NONE
    if part is MATCH_NONE:
        return MATCH_ALL
    match part:
        case {"$or": list(inner)}:
            return {"$nor": inner}
        case {"$nor": list(inner)}:
            return disjunction(inner)
        case _:
            return {"$nor": [part]}


def _spliced(operator: str, parts: list[Filter]) -> list[Filter]:
    """The parts, with those of groups of the same kind in place of the group."""
    found: list[Filter] = []
    for part in parts:
        match part.get(operator):
            case list(inner) if len(part) == 1:
                found.extend(inner)
            case _:
                found.append(part)
    return found
