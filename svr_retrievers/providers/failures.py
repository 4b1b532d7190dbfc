"""Reads what went wrong off any SDK's exception, without importing the SDK: reason, status, Retry-After, message."""

from __future__ import annotations

import email.utils
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from svr_retrievers.errors import ProviderReason

RETRIED_STATUS = frozenset({408, 409, 425, 429, *range(500, 600)}) - {501, 505}
_MESSAGE_CHARACTERS = 300
_TIMEOUTS = frozenset({"APITimeoutError", "Timeout", "TimeoutException", "TimeoutError"})
_CONNECTIONS = frozenset({"APIConnectionError", "TransportError", "ClientError", "OSError"})


@dataclass(frozen=True, slots=True)
class Failure:
    """`again` is whether a repeated call may succeed; `retry_after` the seconds that the provider asked to wait."""

    reason: ProviderReason
    again: bool
    message: str
    status: int | None = None
    retry_after: float | None = None


def read_failure(error: BaseException, *, wall: float) -> Failure:
    """What an SDK's exception tells. `wall` is now, in seconds since 1970, for a Retry-After that is a date.

    Exceptions are told by their attributes and the names of their classes: httpx, httpx2, aiohttp, requests and
    three SDKs name the same things alike, and none of them need be installed for another to be read.
    """
    status = _status(error)
    if status is not None and status >= 400:
        headers = _headers(error)
        return Failure(
            _reason(status),
            status in RETRIED_STATUS,
            _message(error),
            status,
            retry_after(headers, wall=wall),
        )
    names = {base.__name__ for base in type(error).__mro__}
    if status is None and names & _TIMEOUTS:
        return Failure("timeout", again=True, message="no answer in time")
    if status is None and names & _CONNECTIONS:
        return Failure("unavailable", again=True, message=_innermost(error))
    if status is not None or _is_about_content(names):
        return Failure("answer", again=False, message=_message(error), status=status)
    return Failure("failed", again=False, message=f"{type(error).__name__}: {_message(error)}")


def retry_after(headers: Mapping[str, str], *, wall: float) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `Retry-After` (seconds or an HTTP date); None where unreadable."""
    low = {name.lower(): value for name, value in headers.items()}
    milliseconds = _number(low.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = low.get("retry-after")
    seconds = _number(value)
    if seconds is not None or value is None:
        return seconds
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return max(moment.timestamp() - wall, 0.0)


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _reason(status: int) -> ProviderReason:
    if status in {401, 403}:
        return "key"
    if status == 429:
        return "limited"
    if status == 408:
        return "timeout"
    return "unavailable" if status >= 500 or status in RETRIED_STATUS else "request"


def _is_about_content(names: set[str]) -> bool:
    return bool(
        names & {"ValueError", "APIResponseValidationError", "TypeError", "LookupError", "AttributeError"}
    )


def _status(error: BaseException) -> int | None:
    for name in ("status_code", "http_status"):
        value = getattr(error, name, None)
        if isinstance(value, int):
            return value
    return None


def _headers(error: BaseException) -> Mapping[str, str]:
    found = getattr(getattr(error, "response", None), "headers", None) or getattr(error, "headers", None)
    return found if isinstance(found, Mapping) else {}


def _message(error: BaseException) -> str:
    """The provider's own words where there are any: bodies name them message, detail or error."""
    body: object = getattr(error, "body", None) or getattr(error, "json_body", None)
    found = _words(body) or getattr(error, "user_message", None) or str(error)
    return " ".join(str(found).split())[:_MESSAGE_CHARACTERS]


def _words(body: object) -> str | None:
    while isinstance(body, Mapping):
        body = next((body[name] for name in ("message", "detail", "error") if body.get(name)), None)
    if body is None or isinstance(body, str):
        return body
    return json.dumps(body, default=str)


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(f"{type(error).__name__} {error}".split())[:_MESSAGE_CHARACTERS]
