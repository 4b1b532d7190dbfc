"""Real texts that most machines hold: descriptions of software packages, embedded with the local model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from svr_retrievers.bench.data import DISAGREEING, Corpus, Ints, Queries, Rows
from svr_retrievers.errors import SVRError
from svr_retrievers.model import Vector

LEAST = 300
SECTION = "section"
SHORTEST, LONGEST = 20, 1_000
_WORD = re.compile(r"[a-z]{3,}")
_PYPI = """
import json
from importlib.metadata import distributions
told = [
    [m["Name"] or "", m["Summary"] or "", m.get_all("Classifier") or [], str(m.get_payload() or m["Description"] or "")]
    for m in (one.metadata for one in distributions())
]
print(json.dumps(told))
"""


class TooFewTexts(SVRError):
    """This machine holds no descriptions to search in."""


@dataclass(frozen=True, slots=True)
class Described:
    """What one text is about, in words and by its section."""

    text: str
    section: str


def corpus(most: int, queries: int, *, seed: int, other_python: str) -> tuple[Corpus, str]:
    """Embedded descriptions, and where they come from. The queries are descriptions that are not among the rows.

    Raises:
        TooFewTexts: neither the package manager nor Python's packages describe enough here.
    """
    from svr_retrievers.embedding.local import WordLlamaEmbedder

    source, found = _texts(other_python)
    if len(found) < LEAST:
        raise TooFewTexts(
            f"Only {len(found)} descriptions were found ({source}).",
            hint="This row reads the package lists of apt, or else the metadata of installed Python packages.",
        )
    rng = np.random.default_rng(seed)
    held_out = min(queries, len(found) // 6)
    drawn = [found[i] for i in rng.permutation(len(found))[: most + held_out]]
    vectors = WordLlamaEmbedder().matrix([one.text for one in drawn])
    unlike = _unlike_vectors(vectors)
    chosen, vectors = [drawn[i] for i in unlike], vectors[unlike]
    sections = sorted({one.section for one in chosen})
    number = {section: i for i, section in enumerate(sections)}
    codes = np.array([number[one.section] for one in chosen])
    asked, kept = codes[:held_out], codes[held_out:]
    away = rng.random(held_out) < DISAGREEING
    wanted = np.where(away, kept[rng.integers(0, len(kept), held_out)], asked)
    names = {SECTION: sections}
    return Corpus(
        Rows(
            vectors=vectors[held_out:],
            topics=kept,
            fields={SECTION: kept},
            names=names,
            texts=[one.text for one in chosen[held_out:]],
        ),
        Rows(vectors=vectors[:0], topics=kept[:0], fields={SECTION: kept[:0]}, names=names, texts=[]),
        Queries(
            vectors=vectors[:held_out],
            between=np.zeros(held_out, dtype=bool),
            fields={SECTION: wanted},
            names=names,
        ),
    ), source


def _unlike_vectors(vectors: Vector) -> Ints:
    """One of each: the model knows no word order, and of equal vectors none is nearer than the other."""
    return np.sort(np.unique(np.round(vectors, 5), axis=0, return_index=True)[1])


def _texts(other_python: str) -> tuple[str, list[Described]]:
    packages = list(_unlike(from_apt(_apt())))
    if len(packages) >= LEAST:
        return "descriptions in the package lists of apt", packages
    described = list(_unlike(from_python(_python_packages(sys.executable, other_python))))
    return "descriptions of installed Python packages", described


def _apt() -> str:
    program = shutil.which("apt-cache")
    if program is None:
        return ""
    ran = subprocess.run(  # noqa: S603 - a fixed program that only reads
        [program, "dumpavail"], capture_output=True, text=True, errors="replace", check=False
    )
    return ran.stdout


def from_apt(dump: str) -> Iterator[Described]:
    """The name and description of each package of the list, by the archive's section."""
    for entry in dump.split("\n\n"):
        name, section = _line("Package", entry), _line("Section", entry)
        told = re.search(r"^Description(?:-en)?: ((?:.*)(?:\n .*)*)", entry, flags=re.MULTILINE)
        if name and section and told:
            words = " ".join(told[1].replace("\n .\n", "\n").split())
            yield Described(f"{name}: {words}"[:LONGEST], section.rpartition("/")[2])


def _line(key: str, entry: str) -> str:
    found = re.search(rf"^{key}: (.*)$", entry, flags=re.MULTILINE)
    return found[1].strip() if found else ""


def _python_packages(*pythons: str) -> list[tuple[str, str, list[str], str]]:
    """Name, summary, classifiers and description of each package of these Pythons."""
    found: dict[str, tuple[str, str, list[str], str]] = {}
    for python in dict.fromkeys(pythons):
        ran = subprocess.run(  # noqa: S603 - this interpreter, and the one the user named
            [python, "-c", _PYPI], capture_output=True, text=True, check=False
        )
        for a, b, c, d in json.loads(ran.stdout) if ran.returncode == 0 else []:
            found[str(a)] = (str(a), str(b), [str(one) for one in c], str(d))
    return list(found.values())


def from_python(packages: Iterable[tuple[str, str, Sequence[str], str]]) -> Iterator[Described]:
    """The summary and each paragraph of the description, by the first topic that the package names."""
    for name, summary, classifiers, description in packages:
        topics = [c.split(" :: ")[1] for c in classifiers if c.startswith("Topic :: ")]
        section = topics[0] if topics else "other"
        for paragraph in (summary, *re.split(r"\n\s*\n", description)):
            words = " ".join(paragraph.split())
            if not words.startswith(("..", "|", "[!", "<", "```")):
                yield Described(f"{name}: {words}"[:LONGEST], section)


def _unlike(found: Iterable[Described]) -> Iterator[Described]:
    """Each description once: packages cut from one source share theirs, and would all be the nearest."""
    seen: set[str] = set()
    for one in found:
        said = one.text.partition(": ")[2].lower()
        if len(said) >= SHORTEST and len(_WORD.findall(said)) >= 3 and said not in seen:
            seen.add(said)
            yield one
