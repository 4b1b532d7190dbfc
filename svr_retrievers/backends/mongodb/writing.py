"""What writes do inside their transactions: upserts, deletes, and moving rows between partitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar, cast

import numpy as np
from bson import Int64, encode
from pymongo import DeleteMany, UpdateOne
from pymongo.asynchronous.collection import AsyncCollection

from svr_retrievers.backends.mongodb import layout as lay
from svr_retrievers.backends.mongodb.layout import Doc, Layout
from svr_retrievers.backends.protocol import CollectionRef
from svr_retrievers.changes import RowCounts
from svr_retrievers.control.mongodb_fence import Fence, Session
from svr_retrievers.model import Metric, Vector
from svr_retrievers.routing.kmeans import assign

Item = TypeVar("Item")
KEYS_AT_ONCE: Final = 2_000
"""Keys of one lookup: each may be 2.6 kB long, and a command holds 16 MB."""
MOVED_AT_ONCE: Final = 1_000


class Enter(Protocol):
    """Enters the fence once it is known what the transaction will do; stamps for its rows."""

    def __call__(self, done: Mapping[int, RowCounts], rows: int) -> Awaitable[range]: ...


@dataclass(frozen=True, slots=True)
class Upserted:
    """Which rows were new, and by how much each partition's count of rows changes."""

    inserted: list[bool]
    changes: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Old:
    """A document that is there: its `_id`, its partition (None: it is not of the collection yet), its version."""

    key: object
    partition: int | None
    version: int


_NEW: Final = Old(None, None, 0)


async def upsert(
    documents: AsyncCollection[Doc], layout: Layout, made: Sequence[Doc], enter: Enter, session: Session
) -> Upserted:
    """Inserts what is new and replaces the rest, stamped in the order in which the server writes them."""
    there = await _replaced(documents, layout, made, session)
    done = _tally(layout, made, there)
    stamps = await enter(done, len(made))
    inserted: list[bool] = []
    fresh: list[tuple[Doc, Old]] = []
    replaced: list[tuple[Doc, Old]] = []
    for document in made:
        old = there.get(layout.key_of(document))
        (fresh if old is None else replaced).append((document, old or _NEW))
        inserted.append(old is None)
    ordered = [
        (lay.stamped(document, stamp, old.version + 1), old)
        for (document, old), stamp in zip([*fresh, *replaced], stamps, strict=True)
    ]
    if fresh:
        made_new = [document for document, _ in ordered[: len(fresh)]]
        await documents.insert_many(made_new, ordered=False, session=session)
    if replaced:
        puts = [layout.replacing(old.key, document) for document, old in ordered[len(fresh) :]]
        await documents.bulk_write(puts, ordered=False, session=session)
    return Upserted(inserted, {partition: counts.growth for partition, counts in done.items()})


def _tally(layout: Layout, made: Sequence[Doc], there: Mapping[tuple[str, str], Old]) -> dict[int, RowCounts]:
    """What the write of these documents does to each partition."""
    inserted, updated, came, left = Counter[int](), Counter[int](), Counter[int](), Counter[int]()
    for document in made:
        old, new = there.get(layout.key_of(document), _NEW).partition, lay.number(lay.own(document)["p"])
        if old is None:
            inserted[new] += 1
        elif old == new:
            updated[new] += 1
        else:
            came[new] += 1
            left[old] += 1
    touched = sorted({*inserted, *updated, *came, *left})
    return {p: RowCounts(inserted[p], updated[p], 0, came[p], left[p]) for p in touched}


async def _replaced(
    documents: AsyncCollection[Doc], layout: Layout, made: Sequence[Doc], session: Session
) -> dict[tuple[str, str], Old]:
    """Those that are there, by namespace and id."""
    found: dict[tuple[str, str], Old] = {}
    fields: Doc = {lay.PARTITION: 1, "svr.v": 1, **layout.reads_keys}
    for some in _parts(made, KEYS_AT_ONCE):
        async for each in documents.find(layout.there(some), fields, session=session):
            old = _old(each)
            if old.partition is not None or layout.key_of(each) not in found:
                found[layout.key_of(each)] = old
    return found


def _old(document: Doc) -> Old:
    """One that was never taken in has no partition, and its next version is the first."""
    own = cast("Mapping[str, object]", document.get("svr") or {})
    partition = lay.number(own["p"]) if "p" in own else None
    return Old(document["_id"], partition, lay.number(own.get("v", 0)))


async def delete(
    documents: AsyncCollection[Doc], keys: Sequence[object], enter: Enter, session: Session
) -> dict[int, int]:
    """How many rows of each partition were there and are gone."""
    there: list[Old] = []
    for some in _parts(keys, KEYS_AT_ONCE):
        wanted: Doc = {"_id": {"$in": list(some)}, lay.PARTITION: {"$exists": True}}
        cursor = documents.find(wanted, {lay.PARTITION: 1, "svr.v": 1}, session=session)
        there += [_old(each) async for each in cursor]
    counts = Counter(old.partition for old in there if old.partition is not None)
    await enter({partition: RowCounts(deleted=rows) for partition, rows in counts.items()}, 1)
    if there:
        gone = [old.key for old in there]
        await documents.bulk_write(
            [DeleteMany({"_id": {"$in": list(some)}}) for some in _parts(gone, KEYS_AT_ONCE)],
            ordered=False,
            session=session,
        )
    return dict(counts)


async def recluster(
    documents: AsyncCollection[Doc],
    fence: Fence,
    ref: CollectionRef,
    layout: Layout,
    source: int,
    targets: Sequence[int],
    centroids: Vector,
    session: Session,
) -> dict[int, int]:
    """Gives each row of the source the label of the closest target, in a change of the map; the new counts."""
    inner = Metric.COSINE if ref.config.metric is Metric.COSINE else Metric.L2
    cursor = documents.find({lay.PARTITION: source}, {layout.vector_path(source): 1}, session=session)
    readable = layout.with_vectors([each async for each in cursor])
    found = [(each["_id"], vector) for each, vector in readable]
    counts: Counter[int] = Counter()
    for some in _parts(found, MOVED_AT_ONCE):
        owners = assign(np.stack([vector for _, vector in some]), centroids, inner)
        joined = Counter(targets[owner] for owner in owners)
        done = {target: RowCounts(moved_in=rows) for target, rows in joined.items()}
        done[source] = done.get(source, RowCounts()) + RowCounts(moved_out=len(some))
        stamps = await fence.stamps(ref, done, len(some), session)
        moves = [
            _moved(key, layout, source, targets[owner], stamp)
            for (key, _), owner, stamp in zip(some, owners, stamps, strict=True)
        ]
        counts.update(joined)
        await documents.bulk_write(moves, ordered=False, session=session)
    return dict(counts)


def _moved(key: object, layout: Layout, source: int, target: int, stamp: int) -> UpdateOne:
    change: Doc = {"$set": {lay.PARTITION: target, lay.STAMP: Int64(stamp)}}
    if layout.mode == "fields":
        change["$rename"] = {layout.vector_path(source): layout.vector_path(target)}
    return UpdateOne({"_id": key}, change)


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


@dataclass(frozen=True, slots=True)
class Mark:
    """What is to be added to a document of others: the sub-document `svr`."""

    key: object
    own: Doc


@dataclass(frozen=True, slots=True)
class Marked:
    """How many documents have their mark now, those whose id another has already, and the change of the counts."""

    taken: int
    conflicts: Mapping[int, str]
    changes: Mapping[int, int]


async def mark(
    documents: AsyncCollection[Doc],
    layout: Layout,
    marks: Sequence[Mark],
    without: Collection[int],
    enter: Enter,
    session: Session,
) -> Marked:
    """Adds the marks to the documents that have none yet, `without` those at some positions."""
    conflicts, open_ = (
        await _conflicts(documents, layout, marks, session),
        await _open(documents, marks, session),
    )
    kept = [
        mark
        for at, mark in enumerate(marks)
        if at not in without and at not in conflicts and encode({"": mark.key}) in open_
    ]
    joined = Counter(lay.number(mark.own["p"]) for mark in kept)
    if kept:
        stamps = await enter({p: RowCounts(inserted=rows) for p, rows in joined.items()}, len(kept))
        puts = [
            UpdateOne(
                {"_id": mark.key, "svr": {"$exists": False}},
                {"$set": {"svr": {**mark.own, "w": Int64(stamp)}}},
            )
            for mark, stamp in zip(kept, stamps, strict=True)
        ]
        await documents.bulk_write(puts, ordered=False, session=session)
    return Marked(len(kept), conflicts, dict(joined))


async def _conflicts(
    documents: AsyncCollection[Doc], layout: Layout, marks: Sequence[Mark], session: Session
) -> dict[int, str]:
    """The positions of those whose id another document has already."""
    ids = [str(mark.own["i"]) for mark in marks]
    wanted = layout.chosen(str(marks[0].own["n"]), ids)
    found = {
        layout.key_of(each)[1]: each["_id"]
        async for each in documents.find(wanted, layout.reads_keys, session=session)
    }
    return {
        at: f"id: the document with the _id {found[name]!r} has the same id as text."
        for at, (name, mark) in enumerate(zip(ids, marks, strict=True))
        if name in found and encode({"": found[name]}) != encode({"": mark.key})
    }


async def _open(documents: AsyncCollection[Doc], marks: Sequence[Mark], session: Session) -> set[bytes]:
    """The keys, as BSON, of those that have no mark yet."""
    wanted: Doc = {"_id": {"$in": [mark.key for mark in marks]}, "svr": {"$exists": False}}
    return {encode({"": each["_id"]}) async for each in documents.find(wanted, {"_id": 1}, session=session)}
