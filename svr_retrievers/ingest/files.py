"""The text of one file, by its kind: plain text, Markdown, HTML through Markdown, PDF."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from svr_retrievers.errors import InputError, MissingExtra
from svr_retrievers.ingest.sources import encoding_of

_QUIET_LOCK = threading.Lock()
_QUIETED: dict[str, tuple[int, int]] = {}
"""How many files are being read without what a logger says, and the level it had before."""
_INSTALL = 'Run: pip install "svr-retrievers[ingest]"'


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file's text and what the file says about itself."""

    text: str
    metadata: Mapping[str, object] = field(default_factory=dict)


def load_text(file: Path, encoding: str | None) -> Loaded:
    return Loaded(_decoded(file, encoding), {"format": "text"})


def load_markdown(file: Path, encoding: str | None) -> Loaded:
    return Loaded(_decoded(file, encoding), {"format": "markdown"})


def _decoded(file: Path, encoding: str | None) -> str:
    """The text, with line feeds as line ends and without a byte order mark."""
    used = encoding or encoding_of(file)
    try:
        return file.read_text(used)
    except UnicodeError as error:
        at = f" (byte {error.start + 1})" if isinstance(error, UnicodeDecodeError) else ""
        raise InputError(f"It is not {used}{at}.", hint="Name the file's encoding with encoding=.") from None
    except LookupError:
        raise InputError(f"There is no encoding {used!r}.") from None


def load_html(file: Path, encoding: str | None) -> Loaded:
    """The page as Markdown, without scripts, styles and navigation; the encoding is the one the page declares."""
    try:
        from bs4 import BeautifulSoup
        from markdownify import MarkdownConverter
    except ImportError:
        raise MissingExtra("Reading HTML needs beautifulsoup4 and markdownify.", hint=_INSTALL) from None
    with _quiet("bs4.dammit"):
        page = BeautifulSoup(file.read_bytes(), "html.parser", from_encoding=encoding)
    title = page.title.get_text(" ", strip=True) if page.title else ""
    for part in page(["script", "style", "template", "noscript", "nav", "head"]):
        part.decompose()
    try:
        text = MarkdownConverter(heading_style="atx").convert_soup(page)
    except RecursionError:
        raise InputError("Its elements are nested too deeply.") from None
    return Loaded(text.strip(), {"format": "html", **({"title": title} if title else {})})


def load_pdf(file: Path, encoding: str | None) -> Loaded:  # noqa: ARG001 - a PDF says its encodings itself
    """The text of all pages, separated by form feeds. A scanned page has none."""
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    except ImportError:
        raise MissingExtra("Reading PDF needs pypdf.", hint=_INSTALL) from None
    with _quiet("pypdf"):
        try:
            with PdfReader(file) as reader:
                pages = [page.extract_text() for page in reader.pages]
                title = reader.metadata.title if reader.metadata else None
        except PyPdfError as error:
            raise InputError(f"It is no PDF that can be read: {error}.") from None
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - damaged files make the parser fail in many ways
            raise InputError(f"It is a damaged PDF: {type(error).__name__}.") from None
    return Loaded(
        "\f".join(pages), {"format": "pdf", "pages": len(pages), **({"title": str(title)} if title else {})}
    )


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without what a parser logs about faulty files: the document's own error says it.

    The level holds for the loggers below as well. It is set back when the last file that is read at the time is done.
    """
    log = logging.getLogger(name)
    with _QUIET_LOCK:
        files, before = _QUIETED.get(name, (0, log.level))
        _QUIETED[name] = files + 1, before
        log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        with _QUIET_LOCK:
            files, before = _QUIETED.pop(name)
            if files > 1:
                _QUIETED[name] = files - 1, before
            else:
                log.setLevel(before)


Loader: TypeAlias = Callable[[Path, str | None], Loaded]
LOADERS: dict[str, Loader] = {
    ".txt": load_text,
    ".text": load_text,
    ".md": load_markdown,
    ".markdown": load_markdown,
    ".html": load_html,
    ".htm": load_html,
    ".pdf": load_pdf,
}
