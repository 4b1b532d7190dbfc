"""Turns a pipeline with search stages into one that any MongoDB server runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from svr_retrievers.testing.mongodb import fusion, management, riding
from svr_retrievers.testing.mongodb.documents import CODEC, Document, section, text
from svr_retrievers.testing.mongodb.mongot import Mongot
from svr_retrievers.testing.mongodb.refusals import QueryFailed, Refused
from svr_retrievers.testing.mongodb.searching import SEARCHES
from svr_retrievers.testing.mongodb.views import VIEWS_SINCE, collections

FUSION = "$rankFusion"
LISTING = "$listSearchIndexes"
STAGES = (*SEARCHES, FUSION)
_METAS = {
    "$vectorSearch": {"vectorSearchScore", "score"},
    "$search": {"searchScore", "score"},
    FUSION: {"score", "scoreDetails"},
}
_NOT_FIRST, _NOT_IN_TRANSACTIONS, _NOT_IN_FACET, _UNKNOWN_STAGE = 40602, 263, 40600, 40324
NOT_OFFERED = ("$searchMeta", "$scoreFusion", "$rerank")


async def rewritten(mongot: Mongot, command: Document, counts: Counter[str]) -> Document:
    """The `aggregate` command as the server can take it. `counts` gets each search stage that is met."""
    database, collection = text(command, "$db"), text(command, "aggregate")
    pipeline = _stages(command.get("pipeline"))
    if pipeline and LISTING in pipeline[0]:
        counts[LISTING] += 1
        entries = management.entries(mongot, database, collection, pipeline[0][LISTING])
        return command | {"pipeline": [*riding.listed(entries), *pipeline[1:]]}
    if "autocommit" in command:
        raise Refused(
            "Operation not permitted in transaction :: caused by :: Aggregation stage "
            f"{next(iter(pipeline[0]), '')} cannot run within a multi-document transaction",
            _NOT_IN_TRANSACTIONS,
        )
    stages, metas = await _Rewriting(mongot, database, counts).pipeline(collection, pipeline)
    return command | {"pipeline": riding.uncovered(stages) if metas else stages}


def _stages(value: object) -> list[Document]:
    return [stage for stage in value if isinstance(stage, dict)] if isinstance(value, list) else []


class _Rewriting:
    def __init__(self, mongot: Mongot, database: str, counts: Counter[str]) -> None:
        self._counts = counts
        self._mongot = mongot
        self._name = database
        self._database = mongot.client.get_database(database, codec_options=CODEC)

    async def pipeline(self, collection: str, stages: Sequence[Document]) -> tuple[list[Document], set[str]]:
        """The stages, and the names under which their documents carry a score."""
        out: list[Document] = []
        metas: set[str] = set()
        for at, stage in enumerate(stages):
            name = next(iter(stage), "")
            if name in STAGES:
                if at or await self._inlines(collection):
                    raise Refused(f"{name} is only valid as the first stage in a pipeline", _NOT_FIRST)
                out, metas = await self._first(name, collection, stage[name]), set(_METAS[name])
            elif name in {"$unionWith", "$lookup"} and "pipeline" in section(stage, name):
                inner, carried = await self._within(name, section(stage, name), collection)
                metas |= carried
                out.append(inner)
            else:
                _refuse(name, stage)
                out.append(riding.carrying(stage, metas) if metas else stage)
        return out, metas

    async def _inlines(self, collection: str) -> bool:
        """Whether the collection is a view whose stages come first, as they do for search before 8.1."""
        if self._mongot.control.of(self._name).version >= VIEWS_SINCE:
            return False
        known = await collections(self._database)
        return known.get(collection, {}).get("type") == "view"

    async def _first(self, name: str, collection: str, asked: object) -> list[Document]:
        self._counts[name] += 1
        if name == FUSION:
            return await self._fused(collection, asked)
        try:
            found = await SEARCHES[name](self._mongot, self._name, collection, asked)
        except QueryFailed as failed:
            version = self._mongot.control.of(self._name).version
            raise failed.on(f"{self._name}.{collection}", version) from failed
        from_index = any(each.stored is not None for each in found)
        return riding.stored(found) if from_index else riding.looked_up(found)

    async def _fused(self, collection: str, asked: object) -> list[Document]:
        if self._mongot.control.of(self._name).version < fusion.SINCE:
            raise Refused(f"Unrecognized pipeline stage name: '{FUSION}'", _UNKNOWN_STAGE)
        checked = fusion.fusion(asked)
        rankings = {name: await self._ranking(collection, given) for name, given in checked.pipelines.items()}
        return riding.looked_up(fusion.fused(checked, rankings))

    async def _ranking(self, collection: str, given: Sequence[Document]) -> list[tuple[object, object]]:
        stages, _ = await self.pipeline(collection, given)
        cursor = await self._database[collection].aggregate([*stages, riding.scored_ids()])
        return [(document["_id"], riding.score_of(document)) async for document in cursor]

    async def _within(self, name: str, stage: Document, collection: str) -> tuple[Document, set[str]]:
        key = "coll" if name == "$unionWith" else "from"
        inner, metas = await self.pipeline(text(stage, key, collection), _stages(stage["pipeline"]))
        if name == "$lookup" and metas:
            inner, metas = riding.uncovered(inner), set()
        return {name: stage | {"pipeline": inner}}, metas


def _refuse(name: str, stage: Document) -> None:
    if name in NOT_OFFERED:
        raise Refused(
            f"Unrecognized pipeline stage name: '{name}' (the stand-in does not offer it)", _UNKNOWN_STAGE
        )
    if name == "$facet":
        for inner in section(stage, name).values():
            for each in _stages(inner):
                if next(iter(each), "") in STAGES:
                    raise Refused(
                        f"{next(iter(each))} is not allowed to be used within a $facet stage", _NOT_IN_FACET
                    )
