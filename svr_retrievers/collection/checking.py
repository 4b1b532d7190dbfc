"""Checking what recall targets give: stored vectors asked again, exactly and as a search would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from svr_retrievers.collection.analysing import CollectionAnalysis
from svr_retrievers.collection.reading import CollectionReads
from svr_retrievers.errors import InputError
from svr_retrievers.model import SearchResult, Vector
from svr_retrievers.search.request import check_fraction

_LIMIT = 10
_MOST_SAMPLES = 1_000
_BLENDED = 4
"""One question in so many lies between two of the documents."""


@dataclass(frozen=True, slots=True)
class RecallCheck:
    """What one recall target gave over `samples` questions, in the mean.

    `measured` is the share of the true ten nearest that searches found, indexes included, `predicted` what
    their routes had said, and `probes` the partitions they looked into.
    """

    target: float
    predicted: float
    measured: float
    probes: float
    samples: int


class CollectionChecks(CollectionReads, CollectionAnalysis):
    """The call that measures a collection's recall."""

    async def check_recall(
        self, *, samples: int = 100, targets: Sequence[float] = (0.9, 0.95, 0.99)
    ) -> tuple[RecallCheck, ...]:
        """How close searches come to each recall target, measured on documents drawn at random.

        Every question is asked exactly once and once for each target; one in four lies between two documents.
        A document itself does not count as its own neighbour. Nothing for a collection of fewer than two.
        """
        self._check_has_vectors("check_recall")
        if not isinstance(samples, int) or isinstance(samples, bool) or not 1 <= samples <= _MOST_SAMPLES:
            raise InputError(f"samples must be a whole number from 1 to {_MOST_SAMPLES:,}, not {samples!r}.")
        wanted = [check_fraction("targets", target) for target in targets]
        asked = await self._asked_again(samples)
        if not asked:
            return ()
        truth = [await self._closest(vector, namespace, own) for vector, namespace, own in asked]
        return tuple([await self._check(target, asked, truth) for target in wanted])

    async def _asked_again(self, samples: int) -> list[tuple[Vector, str, str | None]]:
        """Vectors with their namespaces, and the id of the document where it is one's own."""
        await self._reload()
        documents = (await self._on_current_map(self._sampled))[:samples]
        if len(documents) < 2:
            return []
        made: list[tuple[Vector, str, str | None]] = []
        for at, document in enumerate(documents):
            vector = np.asarray(document.vector, dtype=np.float32)
            space = document.namespace or ""
            other = documents[at - 1]
            whole = (
                self._ref.config.index.vectors != "float32"
            )  # between two of those there is none to ask with
            if at % _BLENDED == 0 and other.namespace == document.namespace and not whole:
                blend = (vector + np.asarray(other.vector, dtype=np.float32)) / np.float32(2.0)
                if blend.any():
                    made.append((blend, space, None))
                    continue
            made.append((vector, space, document.id))
        return made

    async def _closest(self, vector: Vector, namespace: str, own: str | None) -> set[str]:
        found = await self.search(vector=vector, namespace=namespace, limit=_LIMIT + 1, exact=True)
        return set(_without(found, own))

    async def _check(
        self, target: float, asked: Sequence[tuple[Vector, str, str | None]], truth: Sequence[set[str]]
    ) -> RecallCheck:
        measured, predicted, probes = [], [], []
        for (vector, namespace, own), wanted in zip(asked, truth, strict=True):
            found = await self.search(
                vector=vector, namespace=namespace, limit=_LIMIT + 1, recall_target=target
            )
            if wanted:
                measured.append(len(wanted & set(_without(found, own))) / len(wanted))
            told = found.route.estimated_recall
            predicted.append(1.0 if told is None else told)
            probes.append(len(found.route.partitions))
        return RecallCheck(
            target,
            float(np.mean(predicted)),
            float(np.mean(measured)) if measured else 1.0,
            float(np.mean(probes)),
            len(asked),
        )


def _without(found: SearchResult, own: str | None) -> list[str]:
    return [i for i in found.ids if i != own][:_LIMIT]
