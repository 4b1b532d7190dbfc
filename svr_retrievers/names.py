"""The only place where a name from outside becomes a checked name or a database identifier."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from svr_retrievers.errors import InputError, InvalidName

MAX_NAME_CHARACTERS = 200
MAX_KEY_BYTES = 1300
"""Longest id, namespace or declared text: a b-tree entry over two of them must fit in a third of an 8 kB page."""
_IDENTIFIER_BYTES = 63
_PLAIN = re.compile(r"[^a-z0-9]+")


def check_text(value: object, argument: str) -> str:
    """The value as storable text. Refuses other types, NUL and lone surrogates.

    Raises:
        InputError: with the argument's name and what was given.
    """
    if not isinstance(value, str):
        raise InputError(
            f"{argument} must be text, not {type(value).__name__}.", hint="Convert it with str()."
        )
    if "\x00" in value:
        raise InputError(f"{argument} holds a NUL character, which no database stores.", hint="Remove it.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{argument} holds half of a surrogate pair, which is not text.",
            hint="Decode the bytes as UTF-8, with errors='replace' if need be.",
        ) from None
    return value


def check_key(value: object, argument: str) -> str:
    """An id or a namespace: any text that is not empty and fits a b-tree key."""
    text = check_text(value, argument)
    if not text:
        raise InputError(f"{argument} is empty.", hint="Give it at least one character.")
    if len(text.encode()) > MAX_KEY_BYTES:
        raise InputError(
            f"{argument} is {len(text.encode())} bytes long; at most {MAX_KEY_BYTES} fit an index key.",
            hint="Use a hash of it and keep the original in the metadata.",
        )
    return text


def check_name(value: object, argument: str) -> str:
    """A collection's name: any printable text of up to 200 characters; it never becomes SQL."""
    try:
        text = check_text(value, argument)
    except InputError as error:
        raise InvalidName(error.message, hint=error.hint) from None
    if not text.strip():
        raise InvalidName(f"{argument} is empty.", hint="Give it at least one visible character.")
    if len(text) > MAX_NAME_CHARACTERS:
        raise InvalidName(
            f"{argument} has {len(text)} characters; at most {MAX_NAME_CHARACTERS} are allowed.",
            hint="Shorten it.",
        )
    if any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} for c in text):
        raise InvalidName(f"{argument} holds control characters.", hint="Use printable text.")
    return text


def column_for(field: str, position: int) -> str:
    """The physical column of a declared filter field: injective by its position, readable by its name."""
    readable = _PLAIN.sub("_", unicodedata.normalize("NFKD", field).lower()).strip("_")[:40]
    return f"f{position}_{readable}" if readable else f"f{position}"


def table_for(collection_id: int, part: str) -> str:
    """A physical table or index name, made of numbers and fixed words only."""
    name = f"c{collection_id}_{part}"
    assert len(name.encode()) <= _IDENTIFIER_BYTES
    return name


def foreign_server_for(schema: str, server_id: int) -> str:
    """A server's name in the database's catalog, where the servers of all schemas stand side by side."""
    return f"svr_{stable_hash(schema):x}_s{server_id}"


def foreign_table_for(part: str, server_id: int) -> str:
    """The local name of a table that lies on another server."""
    name = f"{part}_on_s{server_id}"
    assert len(name.encode()) <= _IDENTIFIER_BYTES
    return name


def stable_hash(text: str) -> int:
    """A 64-bit hash that is the same in every process and release."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
