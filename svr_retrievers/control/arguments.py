"""Checks of what callers give to leases, operations and the outbox, so that every store refuses the same."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping

from svr_retrievers.errors import InputError
from svr_retrievers.names import check_text
from svr_retrievers.values import JsonValue

MAX_JSON_BYTES = 262_144
"""Details and data say what happened; what they are about stays in its own table."""
MAX_JSON_DEPTH = 64
MIN_TTL_SECONDS = 0.01
MAX_TTL_SECONDS = 86_400.0
"""A lease is renewed while the work goes on; one that outlives a day would hold up everybody after a crash."""
MAX_ROWS = 10_000
"""The most events or operations that one call reads, writes or deletes."""


def check_seconds(value: object, argument: str, least: float, most: float) -> float:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not least <= number <= most:
        raise InputError(
            f"{argument} must be between {least:g} and {most:g}, not {value!r}.", hint="It is in seconds."
        )
    return float(number)


def check_ttl(value: object) -> float:
    return check_seconds(value, "ttl_seconds", MIN_TTL_SECONDS, MAX_TTL_SECONDS)


def check_limit(value: object) -> int:
    return check_number(value, "limit", 1, MAX_ROWS)


def check_number(value: object, argument: str, least: int, most: int = 2**63 - 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(f"{argument} must be a whole number from {least} to {most}, not {value!r}.")
    return value


def json_text(value: object, argument: str) -> str:
    """A JSON object as text that every store keeps exactly.

    Raises:
        InputError: it is no mapping of text to JSON, holds NaN or text that no database stores, or is too large.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"{argument} must be a mapping, not {type(value).__name__}.")
    try:
        for text in _texts(value, argument):
            check_text(text, argument)
        made = json.dumps(dict(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{argument} cannot be written as JSON: {error}.",
            hint="Use None, booleans, finite numbers, text, lists and mappings with text as keys.",
        ) from None
    if len(made.encode()) > MAX_JSON_BYTES:
        raise InputError(
            f"{argument} is {len(made.encode())} bytes of JSON; at most {MAX_JSON_BYTES} are kept.",
            hint="Keep the bulk elsewhere and name it here.",
        )
    return made


def _texts(value: object, argument: str, depth: int = 0) -> Iterator[str]:
    """All keys and texts inside; refuses keys that JSON would turn into text."""
    if depth > MAX_JSON_DEPTH:
        raise InputError(f"{argument} is nested more than {MAX_JSON_DEPTH} deep.")
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InputError(f"{argument} has the key {key!r}; keys must be text.")
            yield key
            yield from _texts(inner, argument, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, argument, depth + 1)


def copied_json(value: object, argument: str) -> dict[str, JsonValue]:
    """A copy that later changes by the caller do not reach, equal to what a store would give back."""
    return loaded_json(json_text(value, argument))


def loaded_json(text: str) -> dict[str, JsonValue]:
    made: dict[str, JsonValue] = json.loads(text)
    return made
