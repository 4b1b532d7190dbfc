"""Text patterns as regular expressions, and in steps for texts too long for one. PURE.

The server gives an expression up after some 200,000 steps and then says, without an error, that it does not
match. Whatever scans for more than one part is therefore used only on texts of up to LONG characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from svr_retrievers.backends.mongodb.expressions import Expression, any_true, literal
from svr_retrievers.filters.patterns import Segment, segments

LONG: Final = 20_000
IS_LONG: Final = f"^.{{{LONG}}}"
OPTIONS: Final = "s"
"""`.` matches line breaks too."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """`regex` is right for every text, or, if it `scans`, for those that are not long."""

    regex: str
    scans: bool
    steps: list[dict[str, object]]
    """Each part in turn, to be found in what is left of the text, with its length."""


def pattern(like: str, *, ignore_case: bool) -> Pattern:
    first, *rest = segments(like, ignore_case=ignore_case)
    if not rest:
        return Pattern(rf"^{first.regex}\z", scans=False, steps=[])
    *between, last = rest
    middle = [segment for segment in between if segment.length]
    if len(middle) == 1 and not first.length and not last.length:
        return Pattern(middle[0].regex, scans=False, steps=[])
    scan = "".join(f"(?>.*?{segment.regex})" for segment in middle)
    tail = rf".{{{last.length},}}+(?<={last.regex})\z" if last.length else ""
    steps = [_step("^", first), *(_step("", segment) for segment in middle), _step("", last, r"\z")]
    return Pattern(f"^{first.regex}{scan}{tail}", scans=bool(middle), steps=steps)


def _step(before: str, segment: Segment, after: str = "") -> dict[str, object]:
    return {"regex": before + segment.regex + after, "length": segment.length}


def matches(values: Expression, like: Pattern) -> Expression:
    """Whether one of the values is a text that matches, however long."""
    whole: Expression = {"$regexMatch": {"input": "$$v", "regex": literal(like.regex), "options": OPTIONS}}
    if like.scans:
        whole = {"$cond": [{"$gt": [{"$strLenCP": "$$v"}, LONG]}, _stepwise("$$v", like), whole]}
    return any_true(values, {"$cond": [{"$eq": [{"$type": "$$v"}, "string"]}, whole, False]})


def _stepwise(text: str, like: Pattern) -> Expression:
    """The text is cut behind each part as it is found; what is left is null once one is missing."""
    find = {"$regexFind": {"input": "$$value", "regex": "$$this.regex", "options": OPTIONS}}
    behind = {"$add": ["$$found.idx", "$$this.length"]}
    left = {"$substrCP": ["$$value", behind, {"$strLenCP": "$$value"}]}
    cut = {"$let": {"vars": {"found": find}, "in": {"$cond": [{"$eq": ["$$found", None]}, None, left]}}}
    left_over = {"$reduce": {"input": literal(like.steps), "initialValue": text, "in": cut}}
    return {"$ne": [left_over, None]}
