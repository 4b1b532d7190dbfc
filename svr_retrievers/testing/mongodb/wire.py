"""MongoDB's wire protocol as far as a front needs it: frames, the command within one, and replies."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass

from svr_retrievers.testing.mongodb.documents import Document, decode, encode

_HEAD = struct.Struct("<iiii")
_HEAD_SIZE = 16
_OP_REPLY, OP_QUERY, _OP_MSG = 1, 2004, 2013
_MOST_BYTES = 64 * 1024 * 1024
_CHECKSUM, _MORE_TO_COME = 1, 2
_BODY, _SEQUENCE = 0, 1
_LENGTH = struct.Struct("<i")
_REPLY_HEAD = 36  # of OP_REPLY: the frame's head, flags, a cursor, where it starts, how many


@dataclass(frozen=True, slots=True)
class Message:
    """One frame, kept as it came; only what must be looked into is decoded."""

    raw: bytes

    @property
    def number(self) -> int:
        return self._head()[1]

    @property
    def answers(self) -> int:
        return self._head()[2]

    @property
    def kind(self) -> int:
        return self._head()[3]

    @property
    def more_to_come(self) -> bool:
        return self.kind == _OP_MSG and bool(self._flags() & _MORE_TO_COME)

    @property
    def command(self) -> str:
        """The command's name, read without decoding the rest; empty where the frame holds none."""
        if self.kind == OP_QUERY:
            start = self.raw.index(0, 20) + 1 + 8 + 5
        elif self.kind == _OP_MSG and self.raw[20] == _BODY:
            start = 26
        else:
            return ""
        return self.raw[start : self.raw.index(0, start)].decode(errors="replace")

    def document(self) -> Document:
        """The command or the reply, with document sequences put where their names say."""
        if self.kind == _OP_REPLY:
            return decode(self.raw[_REPLY_HEAD:])
        body: Document = {}
        sequences: Document = {}
        for kind, data in self._sections():
            if kind == _BODY:
                body = decode(data)
            else:
                name, documents = _sequence(data)
                sequences[name] = documents
        return body | sequences

    def holding(self, document: Document) -> Message:
        """The same frame with other content."""
        if self.kind == _OP_REPLY:
            return _frame(self.raw[:_REPLY_HEAD], encode(document))
        flags = struct.pack("<IB", self._flags() & ~_CHECKSUM, _BODY)
        return _frame(self.raw[:_HEAD_SIZE], flags + encode(document))

    def reply(self, document: Document) -> Message:
        """An answer of our own to this request."""
        head = _HEAD.pack(0, 0, self.number, _OP_MSG)
        return _frame(head, struct.pack("<IB", 0, _BODY) + encode(document))

    def _head(self) -> tuple[int, int, int, int]:
        size, number, answers, kind = _HEAD.unpack_from(self.raw)
        return size, number, answers, kind

    def _flags(self) -> int:
        return int(struct.unpack_from("<I", self.raw, _HEAD_SIZE)[0])

    def _sections(self) -> list[tuple[int, bytes]]:
        end = len(self.raw) - (4 if self._flags() & _CHECKSUM else 0)
        at, found = _HEAD_SIZE + 4, []
        while at < end:
            size = int(_LENGTH.unpack_from(self.raw, at + 1)[0])
            found.append((self.raw[at], self.raw[at + 1 : at + 1 + size]))
            at += 1 + size
        return found


def _sequence(data: bytes) -> tuple[str, list[Document]]:
    end = data.index(0, 4)
    at, documents = end + 1, []
    while at < len(data):
        size = int(_LENGTH.unpack_from(data, at)[0])
        documents.append(decode(data[at : at + size]))
        at += size
    return data[4:end].decode(), documents


def _frame(head: bytes, body: bytes) -> Message:
    return Message(_LENGTH.pack(len(head) + len(body)) + head[4:] + body)


async def read(reader: asyncio.StreamReader) -> Message:
    """The next frame. Raises ConnectionError for what cannot be one."""
    head = await reader.readexactly(_HEAD_SIZE)
    size = _HEAD.unpack(head)[0]
    if not _HEAD_SIZE <= size <= _MOST_BYTES:
        raise ConnectionError(f"a frame of {size} bytes is no message of MongoDB's")
    return Message(head + await reader.readexactly(size - _HEAD_SIZE))
