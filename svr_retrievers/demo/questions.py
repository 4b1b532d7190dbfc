"""The questions of the demo: natural ones about the standard library, and passages of the corpus itself."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from svr_retrievers.model import Document

PASSAGE_START = 200

ABOUT_THE_LIBRARY: dict[str, tuple[str, ...]] = {
    "async": (
        "How do I wait for several coroutines to finish?",
        "run a blocking function without stopping the event loop",
        "cancel a task after a timeout",
    ),
    "binary": (
        "decode bytes of an unknown encoding",
        "pack integers into bytes",
        "decode a stream piece by piece",
    ),
    "compression": (
        "add a file to an archive",
        "extract only safe members of a tar file",
        "read a gzip file line by line",
    ),
    "concurrency": (
        "share memory between processes",
        "a lock that the same thread may take twice",
        "run a command and capture its output",
    ),
    "cryptography": (
        "compare two digests safely",
        "verify a server certificate",
        "ask for a secret",
    ),
    "data types": (
        "convert a timestamp to local time",
        "count how often each element occurs",
        "the days of a month as weeks",
    ),
    "debugging": (
        "set a breakpoint",
        "measure the run time of a small snippet",
        "step into the next call",
    ),
    "email": (
        "attach a file to a message",
        "log in to a mail server",
        "parse the headers of a message",
    ),
    "file formats": (
        "read a configuration file with sections",
        "write rows to a comma separated file",
        "serialise an object to JSON",
    ),
    "files": (
        "create a temporary directory that removes itself",
        "list files that match a pattern",
        "the absolute path without symbolic links",
    ),
    "functional": (
        "cache the results of a function",
        "close a resource when a block is left",
        "apply only some arguments of a function",
    ),
    "graphical interfaces": (
        "draw a circle",
        "put a button into a window",
        "move the cursor to the end of the text",
    ),
    "importing": (
        "find the loader of a module",
        "run a module as a script",
        "read a data file that belongs to a package",
    ),
    "internet": (
        "download a page and follow redirects",
        "split a URL into its parts",
        "is this address private?",
    ),
    "language reference": (
        "How does the with statement work?",
        "order of evaluation of expressions",
        "what does a star in a function call mean?",
    ),
    "language tools": (
        "turn source text into tokens",
        "walk over the nodes of a syntax tree",
        "show the byte code of a function",
    ),
    "logging": (
        "rotate a log file when it becomes too large",
        "format an exception with its traceback",
        "ignore a warning",
    ),
    "markup": (
        "find all elements with a tag",
        "escape characters for HTML",
        "handle the start of an element while parsing",
    ),
    "media": (
        "number of frames in a sound",
        "convert a colour from RGB to HSV",
        "width of a sample",
    ),
    "networking": (
        "wait until a socket can be read",
        "listen on a port",
        "register a file object",
    ),
    "numbers": (
        "round to two places, half to even",
        "the standard deviation of a sample",
        "choose a random element",
    ),
    "operating system": (
        "add an option to a command line parser",
        "create a directory with its parents",
        "the name of the operating system",
    ),
    "packaging": ("create a virtual environment", "compile a C extension", "install pip"),
    "persistence": (
        "open a small database of keys and values",
        "pickle an object",
        "copy a database in use",
    ),
    "runtime": (
        "the signature of a callable",
        "run a function when the interpreter exits",
        "where are site packages installed?",
    ),
    "testing": (
        "check that an exception is raised",
        "replace an object with a mock during a test",
        "skip a test on some platforms",
    ),
    "text": (
        "wrap a long line at 70 characters",
        "show the differences between two texts",
        "replace every match of a regular expression",
    ),
    "typing and documentation": (
        "a type that may be None",
        "make HTML documentation",
        "a class nobody may inherit",
    ),
}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and the category that it is about."""

    text: str
    category: str


def questions_for(
    documents: Sequence[Document], count: int, *, mine: bool = False, seed: int = 7
) -> tuple[Question, ...]:
    """`count` questions: half of them written ones for the standard library, the rest random passages."""
    rng = random.Random(seed)  # noqa: S311 - the same questions on every run
    present = set() if mine else {str(d.metadata["category"]) for d in documents}
    written = [Question(text, c) for c in sorted(present) for text in ABOUT_THE_LIBRARY.get(c, ())]
    rng.shuffle(written)
    drawn = _passages(rng.sample(documents, min(count, len(documents))))
    return (*written[: count // 2], *drawn)[:count]


def _passages(documents: Sequence[Document]) -> Iterator[Question]:
    for document in documents:
        yield Question(document.text[:PASSAGE_START], str(document.metadata["category"]))


def shown_question(documents: Sequence[Document], *, mine: bool) -> Question:
    """The one question whose answers the demo prints. A user's own folder is asked one of its passages."""
    written = Question("a lock that the same thread may take twice", "concurrency")
    if not mine and any(d.metadata["category"] == written.category for d in documents):
        return written
    longest = max(documents, key=lambda d: len(d.text))
    return Question(" ".join(longest.text[:PASSAGE_START].split()), str(longest.metadata["category"]))
