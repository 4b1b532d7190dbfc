"""`svr search` and `svr explain`: ask a collection, or be told how it would answer."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypedDict

import numpy as np
from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from svr_retrievers import Collection, Hit, SearchResult
from svr_retrievers.cli.store import HERE, Store, console, print_json, read_json
from svr_retrievers.errors import InputError
from svr_retrievers.model import DEFAULT_NAMESPACE, Vector

LOCAL_DIMENSIONS = 256
# In a query plan: the vector that was asked with, hundreds of numbers long.
LONG_VECTOR = re.compile(r"'\[[-+0-9.eE,]{60,}\]'")


By = Literal["vectors", "words", "both"]


class Scope(TypedDict):
    """What every search takes, whatever it ranks by."""

    limit: int
    filter: Mapping[str, object] | None
    namespace: str
    partitions: list[str] | None


class Arguments(Scope):
    """What `search` and `explain` of a collection both take."""

    vector: Vector
    exact: bool
    nprobe: int | None
    recall_target: float | None
    ef_search: int | None


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked, and how far to look.

    Parameters
    ----------
    vector
        The query vector as JSON, or @FILE, instead of a text.
    filter
        A filter as JSON, or @FILE: '{"year": {"$gte": 2020}}'.
    limit
        How many answers.
    namespace
        The namespace to search.
    partition
        Search only this partition; may be repeated.
    exact
        Look at every row that could match.
    nprobe
        How many partitions to probe.
    recall_target
        The share of the true neighbours to aim for when partitions are chosen by closeness.
    ef_search
        The width of the search within an HNSW index.
    """

    vector: str | None = None
    filter: str | None = None
    limit: int = 10
    namespace: str = DEFAULT_NAMESPACE
    partition: Annotated[list[str] | None, Parameter(negative=())] = None
    exact: Annotated[bool, Parameter(negative=())] = False
    nprobe: int | None = None
    recall_target: float | None = None
    ef_search: int | None = None

    def arguments(self, collection: Collection, text: str | None) -> Arguments:
        return {
            "vector": self._vector(collection, text),
            **self._scope(),
            "exact": self.exact,
            "nprobe": self.nprobe,
            "recall_target": self.recall_target,
            "ef_search": self.ef_search,
        }

    def ranked(self, collection: Collection, text: str | None, by: By) -> SearchResult:
        """Raises InputError for options that a ranking by words has no use for."""
        if by == "vectors":
            return collection.search(**self.arguments(collection, text))
        if text is None:
            raise InputError(f"--by {by} needs a text.", hint="svr search COLLECTION TEXT --by words")
        vain: dict[str, object] = {
            "--exact": self.exact,
            "--nprobe": self.nprobe,
            "--recall-target": self.recall_target,
            "--ef-search": self.ef_search,
        }
        if by == "words":
            vain["--vector"] = self.vector
        for option, given in vain.items():
            if given not in (None, False):
                raise InputError(f"{option} has no use with --by {by}: leave it out.")
        if by == "words":
            return collection.keywords(text=text, **self._scope())
        vector = embedded(collection, text) if self.vector is None else self._vector(collection, None)
        return collection.hybrid(text=text, vector=vector, **self._scope())

    def _scope(self) -> Scope:
        return {
            "limit": self.limit,
            "filter": self._filter(),
            "namespace": self.namespace,
            "partitions": self.partition,
        }

    def _filter(self) -> Mapping[str, object] | None:
        if self.filter is None:
            return None
        value = read_json("--filter", self.filter)
        if not isinstance(value, dict):
            raise InputError(f"--filter must be a JSON object, not {type(value).__name__}.")
        return value

    def _vector(self, collection: Collection, text: str | None) -> Vector:
        if text is None and self.vector is None:
            raise InputError("Give a text or --vector.")
        if text is not None and self.vector is not None:
            raise InputError("Give either a text or --vector, not both.")
        if self.vector is None:
            assert text is not None
            return embedded(collection, text)
        value = read_json("--vector", self.vector)
        if not isinstance(value, list) or not all(type(x) in {int, float} for x in value):
            raise InputError("--vector must be a JSON list of numbers.")
        return np.array(value, dtype=np.float32)


def embedded(collection: Collection, text: str) -> Vector:
    """The text's vector by the local model; only for collections of its dimensions."""
    if collection.dimensions != LOCAL_DIMENSIONS:
        raise InputError(
            f"The collection {collection.name!r} has {collection.dimensions} dimensions, but a text is"
            f" embedded by the local model, which has {LOCAL_DIMENSIONS}.",
            hint="Give the query's vector: --vector '[...]' or --vector @FILE, or ask --by words.",
        )
    from svr_retrievers.embedding.local import WordLlamaEmbedder

    return WordLlamaEmbedder().embed_query(text)


PLAIN = Asked()


def search(
    collection: str,
    text: str | None = None,
    /,
    *,
    by: By = "vectors",
    asked: Asked = PLAIN,
    store: Store = HERE,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Ask a collection.

    A text is embedded by the local model (WordLlama, 256 dimensions), which makes sense for
    collections filled with it, such as the demo's. For others, give --vector, or ask --by words.

    Parameters
    ----------
    collection
        The collection's name.
    text
        The question.
    by
        Rank by closeness of vectors, by the words of the text, or by both.
    json
        Print JSON.
    """
    with store.collection(collection) as opened:
        result = asked.ranked(opened, text, by)
    if json:
        print_json(_as_json(result))
    else:
        _show(result, console())


def explain(
    collection: str,
    text: str | None = None,
    /,
    *,
    analyze: Annotated[bool, Parameter(negative=())] = False,
    asked: Asked = PLAIN,
    store: Store = HERE,
) -> None:
    """Tell how a question is routed and answered, with the database's plan.

    Parameters
    ----------
    collection
        The collection's name.
    text
        The question.
    analyze
        Ask it as well, and measure its recall against an exact search.
    """
    with store.collection(collection) as opened:
        explanation = opened.explain(**asked.arguments(opened, text), analyze=analyze)
    if explanation.result is not None:
        print(repr(explanation.result))
    print(LONG_VECTOR.sub("'[...]'", str(explanation)))


def _show(result: SearchResult, out: Console) -> None:
    for hit in result:
        out.print(
            Text.assemble((f"{hit.score:7.3f}  ", "green"), (hit.id, "bold"), (f"  {hit.partition}", "dim"))
        )
        if hit.text.strip():
            out.print(
                Text(f"         {textwrap.shorten(hit.text, out.width - 10, placeholder=' …')}", style="dim")
            )
    out.print(Text(repr(result), style="dim"))


def _as_json(result: SearchResult) -> dict[str, object]:
    return {
        "hits": [_hit_json(hit) for hit in result],
        "limit": result.limit,
        "incomplete": result.incomplete
        and {"code": result.incomplete.code, "message": result.incomplete.message},
        "route": {
            "step": result.route.step,
            "partitions": list(result.route.paths),
            "considered": result.route.considered,
            "estimated_recall": result.route.estimated_recall,
        },
        "total_ms": round(result.timings.total_ms, 3),
    }


def _hit_json(hit: Hit) -> dict[str, object]:
    return {
        "id": hit.id,
        "score": hit.score,
        "distance": None if math.isnan(hit.distance) else hit.distance,
        "partition": hit.partition,
        "text": hit.text,
        "metadata": dict(hit.metadata),
    }
