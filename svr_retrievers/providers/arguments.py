"""Checks of what the parts around a provider are told: each names the argument, and what it should have been."""

from __future__ import annotations

from svr_retrievers.errors import InputError


def check_number(argument: str, value: object, *, zero: bool = False) -> None:
    """Raises InputError for anything but a number above 0, or from 0 on; a text or a truth is none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and ((zero and value >= 0) or value > 0):  # type: ignore[operator]
        return
    what = "must be a number and not be negative" if zero else "must be a positive number"
    raise InputError(f"{argument} {what}; it is {value!r:.60}.")


def check_model(argument: str, value: object) -> None:
    """Raises InputError for anything but a model's name."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{argument} must be the name of a model, not {value!r:.60}.")


def check_address(value: object) -> None:
    """Raises InputError for a base_url that is no address over HTTP."""
    if value is None:
        return
    if not isinstance(value, str) or not value.lower().startswith(("http://", "https://")):
        raise InputError(
            f"base_url must be the address of an API, beginning with http:// or https://, or None, not {value!r:.60}.",
            hint='e.g. "https://gateway.example.com/v1"',
        )


def check_kind(argument: str, value: object, kind: type) -> None:
    """Raises InputError for anything but an object of the kind, or None."""
    if value is not None and not isinstance(value, kind):
        raise InputError(f"{argument} must be {kind.__name__}(...) or None, not {type(value).__name__}.")


def check_truth(argument: str, value: object) -> None:
    """Raises InputError for anything but True and False."""
    if not isinstance(value, bool):
        raise InputError(f"{argument} must be True or False, not {value!r:.60}.")
