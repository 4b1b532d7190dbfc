"""API keys: where one comes from, and how it is kept out of every text."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Sequence

from pydantic import SecretStr

from svr_retrievers.errors import ConfigError, InputError

_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[^\s,;'\"]+")
_SHORTEST = 4
"""Replacing anything shorter would blot out ordinary words, and no provider's key is as short."""


def find_key(provider: str, given: str | SecretStr | None, variables: Sequence[str]) -> SecretStr:
    """The key given, or that of the first variable that is set.

    Raises:
        ConfigError: when there is none; it names the variables. InputError for what is no text.
    """
    if given is not None and not isinstance(given, str | SecretStr):
        raise InputError(f"api_key must be text or a SecretStr, not {type(given).__name__}.")
    if given is not None:
        key = given if isinstance(given, SecretStr) else SecretStr(given)
    else:
        key = SecretStr(next((os.environ[name] for name in variables if os.environ.get(name)), ""))
    fault = _fault(provider, key, variables)
    if fault is not None:
        raise fault
    return SecretStr(key.get_secret_value().strip())


def _fault(provider: str, key: SecretStr, variables: Sequence[str]) -> ConfigError | None:
    """Not raised here, where a traceback would show the key among the locals."""
    plain = key.get_secret_value().strip()
    if not plain:
        return ConfigError(
            f"There is no API key for {provider}.",
            hint=f"Set the environment variable {' or '.join(variables)}, or pass api_key=...",
        )
    if not (plain.isascii() and plain.isprintable() and " " not in plain):
        return ConfigError(
            f"The API key for {provider} holds characters that no key has.",
            hint="Keys are of printable ASCII without spaces; look for a line break or a second word in it.",
        )
    return None


def fingerprint(key: SecretStr) -> str:
    """Tells keys apart without telling them: the start of a hash."""
    return hashlib.sha256(key.get_secret_value().encode()).hexdigest()[:12]


def scrubbed(text: str, key: SecretStr | None) -> str:
    """The text without the key, and without anything that stands behind `Bearer`."""
    secret = key.get_secret_value() if key is not None else ""
    if len(secret) >= _SHORTEST:
        text = text.replace(secret, "***")
    return _BEARER.sub(r"\1 ***", text)


class KeyFilter(logging.Filter):
    """Keeps a key out of a logger whose SDK logs what servers answer: some servers repeat the key they refuse."""

    def __init__(self, key: SecretStr) -> None:
        super().__init__()
        self._key = key

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        clean = scrubbed(said, self._key)
        if clean != said:
            record.msg, record.args = clean, ()
        return True
