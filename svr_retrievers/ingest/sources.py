"""Records from JSON, JSON Lines and CSV files, one at a time: a bad one is told with its place, the rest is read."""

from __future__ import annotations

import codecs
import csv
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

from svr_retrievers.errors import InputError
from svr_retrievers.ingest.json_stream import BadRest, elements
from svr_retrievers.ingest.records import Column, Columns, Item, Reader, Unreadable, as_item, told

MAX_RECORD_BYTES = 64 * 2**20
"""A longer line or record is refused without being read into memory as a whole."""
_CSV_LOCK = threading.Lock()
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
         (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
Convert: TypeAlias = Callable[[str], object]


def read_jsonl(
    path: str | Path,
    *,
    id: Column = "id",
    text: Column = "text",
    vector: str | None = "vector",
    namespace: str | None = "namespace",
    metadata: Sequence[str] | None = None,
    max_record_bytes: int = MAX_RECORD_BYTES,
) -> Reader:
    """One document a line (JSON Lines, UTF-8); arguments as of `Columns`. Blank lines are skipped.

    Raises InputError when there is no such file.
    """
    file, columns = existing(path), Columns(id, text, vector, namespace, metadata)

    def read() -> Iterator[Item]:
        with file.open("rb") as stream:
            for number, line in enumerate(_lines(stream, max_record_bytes), start=1):
                if line is None or line.strip():
                    yield _of_line(line, f"{file.name}:{number}", columns, max_record_bytes)

    return Reader(f"read_jsonl({str(path)!r})", guarded(read, file), stamp(file))


def _lines(stream: BinaryIO, most: int) -> Iterator[bytes | None]:
    """The lines of a file in UTF-8; None for one that is too long, of which no more is held than that."""
    skip_bom(stream)
    while line := stream.readline(most + 1):
        if len(line) <= most or line.endswith(b"\n"):
            yield line
            continue
        while (rest := stream.readline(2**20)) and not rest.endswith(b"\n"):
            pass
        yield None


def _of_line(line: bytes | None, place: str, columns: Columns, most: int) -> Item:
    if line is None:
        return Unreadable(
            place, f"The line is longer than {most:,} bytes. Raise max_record_bytes if that is right."
        )
    raw = line.decode("utf-8", "backslashreplace").rstrip("\r\n")
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Unreadable(place, f"Byte {error.start + 1} of the line is not UTF-8.", raw=raw)
    except (ValueError, RecursionError) as error:
        return Unreadable(place, f"The line is not JSON: {told(error)}.", raw=raw)
    return as_item(record, place, columns)


def read_json(
    path: str | Path,
    *,
    id: Column = "id",
    text: Column = "text",
    vector: str | None = "vector",
    namespace: str | None = "namespace",
    metadata: Sequence[str] | None = None,
    max_record_bytes: int = MAX_RECORD_BYTES,
) -> Reader:
    """The records of a JSON array, or one record alone (UTF-8); arguments as of `Columns`.

    The array is read record by record, never as a whole. Behind a place that is no JSON nothing more can be read:
    it is refused as one, and what stood before it stays. Raises InputError when there is no such file.
    """
    file, columns = existing(path), Columns(id, text, vector, namespace, metadata)

    def read() -> Iterator[Item]:
        with file.open("rb") as stream:
            skip_bom(stream)
            decoded = io.TextIOWrapper(stream, "utf-8", newline="")
            try:
                for number, record in enumerate(elements(decoded, max_record_bytes), start=1):
                    yield as_item(record, f"{file.name}: record {number}", columns)
            except UnicodeDecodeError:
                yield Unreadable(file.name, "From some byte on it is not UTF-8; the rest was not read.")
            except BadRest as bad:
                yield Unreadable(f"{file.name}: record {bad.number}", bad.reason, raw=bad.raw)

    return Reader(f"read_json({str(path)!r})", guarded(read, file), stamp(file))


def read_csv(
    path: str | Path,
    *,
    id: Column = "id",
    text: Column = "text",
    namespace: str | None = "namespace",
    metadata: Sequence[str] | None = None,
    types: Mapping[str, Convert] | None = None,
    delimiter: str = ",",
    encoding: str | None = None,
    max_record_bytes: int = MAX_RECORD_BYTES,
) -> Reader:
    """One document a row; the first row names the columns. Further arguments as of `Columns`.

    `types` says what a column holds besides text: `types={"year": int, "price": Decimal}`; an empty cell of such a
    column is left out, a file without such a column is refused as a whole. `encoding` is UTF-8, or what the file's
    byte order mark says. A row with too many or too few cells is refused. Raises InputError when there is no such file.
    """
    file = existing(path)
    columns = Columns(id, text, None, namespace, metadata)

    def read() -> Iterator[Item]:
        with file.open(
            "r", encoding=encoding or encoding_of(file), newline="", errors="surrogateescape"
        ) as stream:
            rows = _rows(stream, delimiter, max_record_bytes)
            header = next(rows, (0, []))[1]
            if isinstance(header, str):
                yield Unreadable(f"{file.name}:1", header)
                return
            if header and (unknown := [name for name in types or {} if name not in header]):
                told_ = f"types names {', '.join(map(repr, unknown))}, but the columns are {header}"
                yield Unreadable(f"{file.name}:1", f"{told_:.400}. No row was read.", code="input")
                return
            for line, cells in rows:
                yield _of_cells(header, cells, f"{file.name}:{line}", types or {}, columns)

    return Reader(f"read_csv({str(path)!r})", guarded(read, file), stamp(file))


def _rows(stream: io.TextIOWrapper, delimiter: str, most: int) -> Iterator[tuple[int, list[str] | str]]:
    """Each row with the line it ends on, or why it could not be read; empty lines are skipped."""
    rows = csv.reader(stream, delimiter=delimiter, strict=True)
    while True:
        try:
            with _long_cells(most):
                cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield rows.line_num, f"The row is not CSV: {error}."
            continue
        if cells:
            yield rows.line_num, cells


@contextmanager
def _long_cells(most: int) -> Iterator[None]:
    """Python's limit on a cell is the whole process's, and too small for a text: raised only while a row is read."""
    with _CSV_LOCK:
        before = csv.field_size_limit(most)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _of_cells(
    header: list[str], cells: list[str] | str, place: str, types: Mapping[str, Convert], columns: Columns
) -> Item:
    if isinstance(cells, str):
        return Unreadable(place, cells)
    raw = json.dumps(_shown(cells))
    if len(cells) != len(header):
        return Unreadable(place, f"The row has {len(cells)} cells, the header {len(header)}.", raw=raw)
    record: dict[str, object] = {}
    for name, cell in zip(header, cells, strict=True):
        if name in types and not cell.strip():
            continue
        try:
            record[name] = types[name](cell) if name in types else _decoded(cell)
        except Exception as error:  # noqa: BLE001 - the functions are the user's
            return Unreadable(place, f"Column {name!r}: {told(error)}", raw=raw)
    return as_item(record, place, columns)


def _shown(cells: list[str]) -> list[str]:
    return [cell.encode("utf-8", "backslashreplace").decode() for cell in cells]


def _decoded(cell: str) -> str:
    try:
        cell.encode()
    except UnicodeEncodeError:
        raise InputError("it holds bytes of another encoding. Name the file's with encoding=.") from None
    return cell


def existing(path: str | Path) -> Path:
    """Raises InputError where there is no such file."""
    file = Path(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise InputError(f"The file {str(file)!r} {what}.", hint="read_folder() reads folders.")
    return file


def stamp(file: Path) -> str:
    """What changes when the file does."""
    found = file.stat()
    return f"{file.absolute()}|{found.st_size}|{found.st_mtime_ns}"


def encoding_of(file: Path) -> str:
    """By its byte order mark; UTF-8 without one."""
    with file.open("rb") as stream:
        start = stream.read(4)
    return next((name for mark, name in _BOMS if start.startswith(mark)), "utf-8")


def skip_bom(stream: BinaryIO) -> None:
    if stream.read(3) != codecs.BOM_UTF8:
        stream.seek(0)


def guarded(read: Callable[[], Iterator[Item]], file: Path) -> Callable[[], Iterator[Item]]:
    """The same, with a file that cannot be read any further as one more thing that is unreadable."""

    def safe() -> Iterator[Item]:
        try:
            yield from read()
        except OSError as error:
            yield Unreadable(str(file), f"The file cannot be read: {error.strerror or type(error).__name__}.")

    return safe
