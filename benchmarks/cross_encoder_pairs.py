"""Questions with known answers: sentences of Python's manual about the objects of its standard library."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from bs4 import BeautifulSoup, Tag

from svr_retrievers.demo.standard_library import standard_library_corpus
from svr_retrievers.model import Document

HELD_OUT_SHARE = 0.25
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
NOISE = re.compile(
    r"^(new in version|changed in version|deprecated|availability|source code|see |note)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Question:
    """`kind` is "manual" (told in other words, name hidden), "docstring" (its own sentence) or "name"."""

    text: str
    answer: int
    kind: str


@dataclass(frozen=True, slots=True)
class Corpus:
    documents: tuple[Document, ...]

    def texts(self) -> list[str]:
        return [document.text for document in self.documents]

    def title(self, index: int) -> str:
        return self.documents[index].text.split("\n", 1)[0]

    def body(self, index: int) -> str:
        return self.documents[index].text.partition("\n")[2]

    def held_out(self, index: int) -> bool:
        """Whole modules are held out, packages together: `asyncio.tasks` goes with `asyncio`."""
        top = str(self.documents[index].metadata["module"]).partition(".")[0]
        return sha256(top.encode()).digest()[0] < 256 * HELD_OUT_SHARE


def corpus() -> Corpus:
    return Corpus(standard_library_corpus().read().documents)


def questions(of: Corpus, manual: Path) -> list[Question]:
    return [*_from_manual(of, manual), *_from_docstrings(of), *_from_names(of)]


def _from_manual(of: Corpus, manual: Path) -> Iterator[Question]:
    known: dict[tuple[str, str], set[int]] = defaultdict(set)
    for index, document in enumerate(of.documents):
        if document.id.endswith("#0") and document.metadata["kind"] != "topic":
            top = str(document.metadata["module"]).partition(".")[0]
            known[top, document.id.partition(":")[2].rpartition("#")[0]].add(index)
    for page in sorted((manual / "library").glob("*.html")):
        for name, sentences in _described(page):
            found = known.get(_split(name, known), set())
            if len(found) == 1 and _split(name, known)[1]:
                answer = next(iter(found))
                yield from (Question(_hidden(s, name), answer, "manual") for s in sentences)


def _split(name: str, known: dict[tuple[str, str], set[int]]) -> tuple[str, str]:
    """("asyncio", "Task.cancel") of "asyncio.Task.cancel": the module ends where a known name begins."""
    parts = name.split(".")
    for start in range(1, len(parts)):
        if (parts[0], ".".join(parts[start:])) in known:
            return parts[0], ".".join(parts[start:])
    return parts[0], ""


def _described(page: Path) -> Iterator[tuple[str, list[str]]]:
    soup = BeautifulSoup(page.read_text("utf-8"), "html.parser")
    for term in soup.select("dt.sig[id]"):
        meaning = term.find_next_sibling("dd")
        paragraph = meaning.find("p", recursive=False) if isinstance(meaning, Tag) else None
        if isinstance(paragraph, Tag):
            text = " ".join(paragraph.get_text().replace("¶", "").split())
            good = [s for s in SENTENCE.split(text) if 5 <= len(s.split()) <= 40 and not NOISE.match(s)]
            yield str(term["id"]), good[:3]


def _hidden(sentence: str, name: str) -> str:
    """The sentence without the object's own name: it must be found by what is said about it."""
    last = re.escape(name.rpartition(".")[2])
    return " ".join(re.sub(rf"\b(\w+\.)*{last}\b(\(\))?", "it", sentence).split())


def _from_docstrings(of: Corpus) -> Iterator[Question]:
    for index, document in enumerate(of.documents):
        first = SENTENCE.split(" ".join(of.body(index).split("\n\n")[0].split()))[0]
        if (
            document.id.endswith("#0")
            and 4 <= len(first.split()) <= 40
            and len(of.body(index)) > len(first) + 60
        ):
            yield Question(first, index, "docstring")


def _from_names(of: Corpus) -> Iterator[Question]:
    for index, document in enumerate(of.documents):
        if document.id.endswith("#0") and document.metadata["kind"] in ("function", "class", "method"):
            yield Question(of.title(index), index, "name")


def without_sentence(text: str, sentence: str) -> str:
    """The passage less the sentence that is asked for, so that training shows more than equal words."""
    pattern = r"\s+".join(re.escape(word) for word in sentence.split())
    return re.sub(pattern, "", text, count=1)


def near_copies(of: Corpus) -> list[str]:
    """A key per document; documents with one key say the same, so one of them is no wrong answer for another."""
    return [
        sha256(" ".join(of.body(i).lower().split())[:400].encode()).hexdigest()
        for i in range(len(of.documents))
    ]


def sample(found: Sequence[Question], count: int, seed: int = 7) -> list[Question]:
    return random.Random(seed).sample(list(found), min(count, len(found)))  # noqa: S311 - the same on every run
