"""From items of a source to documents on their way: checked, placed and cut, in a thread of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import TypeVar

import anyio.to_thread

from svr_retrievers.concurrency import foreign
from svr_retrievers.errors import InputError, SVRError
from svr_retrievers.ingest.chunking import Chunk
from svr_retrievers.ingest.letters import Refusal
from svr_retrievers.ingest.options import Options
from svr_retrievers.ingest.placement import Wanted
from svr_retrievers.ingest.records import Columns, Read, Source, Unreadable, as_item, told
from svr_retrievers.ingest.refusing import Refusing
from svr_retrievers.ingest.report import Tally
from svr_retrievers.ingest.work import Work, check_chunks, check_document
from svr_retrievers.model import Document

CHARACTERS_AT_ONCE = 8 * 2**20
"""What is read ahead and what a batch holds, in characters, however few documents that are."""
_COLUMNS = Columns()
A = TypeVar("A")
T = TypeVar("T")


class Intake:
    """Reads a source some documents at a time, never ahead of what is asked for."""

    def __init__(self, options: Options, wanted: Wanted, refusing: Refusing, tally: Tally, skip: int) -> None:
        self._options, self._wanted = options, wanted
        self._refusing, self._tally = refusing, tally
        self._skip = skip
        self.position = 0
        self.broken: Exception | None = None
        """What the source itself raised, which ended it."""

    async def works(self, source: Source) -> AsyncGenerator[list[Work], None]:
        """Lists of documents that can be written, until the source ends or breaks."""
        if isinstance(source, AsyncIterable):
            async with aclosing(self._awaited(source)) as parts:
                async for values in parts:
                    yield await foreign(anyio.to_thread.run_sync(self._prepared, values))
            return
        iterator = await foreign(anyio.to_thread.run_sync(self._started, source))
        try:
            while iterator is not None:
                works, more = await foreign(anyio.to_thread.run_sync(self._pulled, iterator))
                yield works
                if not more:
                    return
        finally:
            _close(iterator)

    def _started(self, source: Iterable[object]) -> Iterator[object] | None:
        try:
            return iter(source)
        except Exception as error:  # noqa: BLE001 - the source is the caller's
            self.broken = error
            return None

    async def _awaited(self, source: AsyncIterable[object]) -> AsyncGenerator[list[object], None]:
        values: list[object] = []
        iterator = aiter(source)
        try:
            while True:
                try:
                    values.append(await foreign(anext(iterator)))
                except StopAsyncIteration:
                    break
                except Exception as error:  # noqa: BLE001 - the source is the caller's
                    self.broken = error
                    break
                if len(values) >= self._options.batch_size or _characters(values[-1]) > CHARACTERS_AT_ONCE:
                    yield values
                    values = []
            yield values
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()

    def _prepared(self, values: Iterable[object]) -> list[Work]:
        return [work for value in values if (work := self._work(value)) is not None]

    def _pulled(self, iterator: Iterator[object]) -> tuple[list[Work], bool]:
        """About a batch of documents, and whether there may be more."""
        works: list[Work] = []
        rows = characters = looked = 0
        while (
            rows < self._options.batch_size
            and characters < CHARACTERS_AT_ONCE
            and looked < self._options.batch_size
        ):
            try:
                value = next(iterator)
            except StopIteration:
                return works, False
            except Exception as error:  # noqa: BLE001 - the source is the caller's
                self.broken = error
                return works, False
            looked += 1
            work = self._work(value)
            if work is not None:
                works.append(work)
                rows, characters = rows + work.size, characters + len(work.document.text)
        return works, True

    def _work(self, value: object) -> Work | None:
        """The document, unless it is skipped or refused."""
        self.position += 1
        if self.position <= self._skip:
            self._tally.add(skipped=1)
            return None
        self._tally.add(read=1)
        item = as_item(value, f"item {self.position}", _COLUMNS)
        if isinstance(item, Unreadable):
            self._refusing.refuse(Refusal(item.id, item.place, item.code, item.message, raw=item.raw))
            return None
        try:
            work = self._checked(item)
        except InputError as error:
            self._refuse(item, error.code, told(error))
            return None
        work.position = self.position
        if not work.size:
            self._tally.add(empty=1)
        return work

    def _checked(self, item: Read) -> Work:
        document = item.document
        namespace, metadata = check_document(document, self._options.namespace)
        path: object = _asked("The function given as partition", self._options.partition_of, document)
        if isinstance(path, str):
            metadata = self._wanted.filled(path, metadata)
        elif path is not None:
            raise InputError(f"partition is a {type(path).__name__}, not the path of one.")
        return Work(document, item.place, namespace, metadata, self._cut(document), path)

    def _cut(self, document: Document) -> list[Chunk] | None:
        """A document with a vector of its own stays whole: the vector stands for all of it."""
        if document.vector is not None:
            return None
        if not document.text.strip():
            return []
        chunker = _asked("The function given as chunker", self._options.chunker_of, document)
        if chunker is None:
            return None
        return check_chunks(
            document, _asked(f"{chunker!r}", lambda text: list(chunker.cut(text)), document.text)
        )

    def _refuse(self, item: Read, code: str, message: str) -> None:
        doc_id = item.document.id if isinstance(item.document.id, str) else repr(item.document.id)
        self._refusing.refuse(Refusal(doc_id, item.place, code, message, item.document))


def _asked(what: str, call: Callable[[A], T], argument: A) -> T:
    """What a part of the caller's own gives; where it fails, the document is refused, and others may be fine."""
    try:
        return call(argument)
    except SVRError:
        raise
    except Exception as error:
        raise InputError(f"{what} failed: {type(error).__name__}: {told(error)}") from error


def _characters(value: object) -> int:
    document = value.document if isinstance(value, Read) else value
    return len(document.text) if isinstance(document, Document) and isinstance(document.text, str) else 0


def _close(iterator: object) -> None:
    """A generator that stops early closes its files now, not when it is collected."""
    close = getattr(iterator, "close", None)
    if callable(close):
        close()
