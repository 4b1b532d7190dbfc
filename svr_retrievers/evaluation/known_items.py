"""Known-item questions about the demo corpus: a documented object, a sentence about it, and its exact name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from svr_retrievers.model import Document

Judged = Mapping[str, float]
"""Document id to its grade; what is not named is not relevant."""

SENTENCES: tuple[tuple[str, str], ...] = (
    ("json.dumps", "turn a Python object into a JSON string"),
    ("json.load", "read JSON from an open file and get Python objects"),
    ("textwrap.shorten", "cut a text down to a width and put an ellipsis at the end"),
    ("textwrap.dedent", "remove the common leading whitespace of all lines"),
    ("shutil.copytree", "copy a whole directory with everything below it"),
    ("shutil.rmtree", "delete a folder and all that is in it"),
    ("shutil.disk_usage", "how many bytes are free on a disk"),
    ("tempfile.TemporaryDirectory", "a directory that deletes itself when the block ends"),
    ("functools.partial", "fix some arguments of a function and call it later with the rest"),
    ("functools.lru_cache", "remember the results of a function for the arguments used most recently"),
    ("functools.reduce", "fold a sequence into one value with a function of two arguments"),
    ("contextlib.contextmanager", "write a with statement's context as a generator"),
    ("contextlib.suppress", "ignore certain exceptions inside a with block"),
    ("contextlib.redirect_stdout", "send what is printed to another stream for a while"),
    ("collections.Counter", "count how often each element occurs"),
    ("collections.OrderedDict", "a dictionary that remembers the order of insertion"),
    ("collections.ChainMap", "look a key up in several dictionaries as if they were one"),
    ("random.Random.shuffle", "bring a list into random order in place"),
    ("random.Random.sample", "draw several different elements at random without replacement"),
    ("statistics.median", "the middle value of numeric data"),
    ("statistics.stdev", "how far a sample spreads, the square root of its variance"),
    ("heapq.nlargest", "find the n biggest elements of a dataset"),
    ("subprocess.run", "start a command, wait until it has finished and get its result"),
    ("subprocess.check_output", "call a program and return what it wrote"),
    ("asyncio.tasks.gather", "await many coroutines at once and collect what they return in a list"),
    ("asyncio.tasks.wait_for", "give up on an awaitable when it takes longer than a timeout"),
    ("asyncio.threads.to_thread", "run a blocking function in another thread and await it"),
    ("threading.RLock", "a lock that the thread which holds it may take again"),
    ("threading.Event.wait", "block until the internal flag is true"),
    ("threading.Barrier", "let a fixed number of threads wait for each other"),
    ("concurrent.futures._base.as_completed", "iterate over futures in the order in which they finish"),
    ("queue.Queue.task_done", "tell the queue that an item which was taken has been worked on"),
    ("csv.DictReader", "rows of a comma separated file as dictionaries"),
    ("csv.Sniffer.sniff", "guess the dialect of a delimited text file"),
    ("configparser.ConfigParser", "read ini files whose values refer to one another"),
    ("zipfile.ZipFile.extractall", "unpack all members of an archive into a folder"),
    ("tarfile.TarFile.add", "put a file into a tape archive"),
    ("gzip.compress", "compress data in one shot"),
    ("base64.b64encode", "encode bytes as text of 64 safe characters"),
    ("hashlib.file_digest", "hash the contents of an open file"),
    ("secrets.token_urlsafe", "a random text that can stand in a web address"),
    ("hmac.HMAC.update", "feed a message into a keyed hash"),
    ("urllib.parse.urlsplit", "cut a web address into scheme, host, path, query and fragment"),
    ("urllib.parse.quote", "percent encode the special characters of a path"),
    ("urllib.request.urlretrieve", "download an address into a file on disk"),
    ("http.server.SimpleHTTPRequestHandler", "serve the files of the current directory to browsers"),
    ("smtplib.SMTP.sendmail", "deliver a mail to its recipients"),
    ("email.message.EmailMessage", "a message with headers and a body in the newer interface"),
    ("socket.create_connection", "connect to a host and port and get the socket"),
    ("ssl.create_default_context", "sensible settings for encrypted connections with verified certificates"),
    ("pathlib.Path.rglob", "find all files below a folder whose names match a pattern"),
    ("fnmatch.fnmatch", "does a file name match a shell pattern"),
    ("inspect.signature", "which parameters does a callable accept"),
    ("inspect.getsource", "the text of the code that an object was written with"),
    ("dis.dis", "show the bytecode of a function"),
    ("traceback.format_exc", "the last exception with its stack as a string"),
    ("warnings.catch_warnings", "keep the filters for deprecation notices unchanged outside of a block"),
    ("unittest.mock.patch", "replace an attribute with a double during a test"),
    ("unittest.case.TestCase.assertRaises", "check that a call fails with a given exception"),
    ("timeit.timeit", "measure how long a small snippet of code takes"),
    ("cProfile.run", "find out where a program spends its time"),
    ("argparse.ArgumentParser", "parse the command line into options and positional values"),
    ("getpass.getpass", "ask for a password without showing it on the terminal"),
    ("calendar.monthrange", "number of days in a month and the weekday on which it begins"),
    ("difflib.unified_diff", "the changes between two lists of lines with some context around them"),
    ("difflib.get_close_matches", "the most similar words, to suggest a correction of a typing error"),
    ("pprint.pprint", "print nested data structures in a readable way"),
    ("copy.deepcopy", "duplicate an object together with all the objects in it"),
    ("fractions.Fraction.limit_denominator", "the closest ratio whose bottom number is not too large"),
    ("sqlite3.dump._iterdump", "the SQL statements that rebuild a database"),
)
"""Qualified names and what they do, in words that are not taken from their documentation where others serve."""


@dataclass(frozen=True, slots=True)
class KnownItem:
    """A question whose answer is known: `kind` is "sentence" or "name"."""

    kind: str
    text: str
    relevant: Judged


def known_items(documents: Iterable[Document]) -> list[KnownItem]:
    """The questions that these documents can answer: one by a sentence and one by the exact name for each object.

    An object whose documentation was cut into passages is found by any of them. Those that this Python does not
    document are left out.
    """
    passages: dict[str, list[str]] = {}
    for document in documents:
        module, _, rest = document.id.partition(":")
        name = rest.rpartition("#")[0]
        passages.setdefault(f"{module}.{name}" if name else module, []).append(document.id)
    found: list[KnownItem] = []
    for name, sentence in SENTENCES:
        relevant = dict.fromkeys(passages.get(name, ()), 1.0)
        if relevant:
            found += [KnownItem("sentence", sentence, relevant), KnownItem("name", name, relevant)]
    return found


def thinned(documents: Sequence[Document], most: int | None) -> list[Document]:
    """The documents that are asked for, and of the others every so many: `most` or a few more, None for all."""
    if most is None or most >= len(documents):
        return list(documents)
    wanted = {doc_id for item in known_items(documents) for doc_id in item.relevant}
    wanted |= {documents[at * len(documents) // most].id for at in range(most)}
    return [document for document in documents if document.id in wanted]


def of_kind(items: Sequence[KnownItem], kind: str) -> list[KnownItem]:
    return [item for item in items if item.kind == kind]
