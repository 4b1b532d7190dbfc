"""What writes do inside their transactions: upserts, deletes, and moving rows between partitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from bson import Int64
from pymongo import DeleteMany, ReplaceOne, UpdateOne
from pymongo.asynchronous.collection import AsyncCollection

from svr_retrievers.backends.mongodb import layout as lay
from svr_retrievers.backends.mongodb.layout import Doc, Layout
from svr_retrievers.backends.protocol import CollectionRef
from svr_retrievers.control.mongodb_fence import Fence, Session
from svr_retrievers.model import Metric, Vector
from svr_retrievers.routing.kmeans import assign

Item = TypeVar("Item")
KEYS_AT_ONCE: Final = 2_000
"""Keys of one lookup: each may be 2.6 kB long, and a command holds 16 MB."""
MOVED_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Upserted:
    """Which rows were new, and by how much each partition's count of rows changes."""

    inserted: list[bool]
    changes: Mapping[int, int]


async def upsert(
    documents: AsyncCollection[Doc], made: Sequence[Doc], stamps: range, session: Session
) -> Upserted:
    """Inserts what is new and replaces the rest, stamped in the order in which the server writes them."""
    there = await _there(documents, [document["_id"] for document in made], session)
    changes: Counter[int] = Counter()
    inserted: list[bool] = []
    fresh: list[tuple[Doc, int]] = []
    replaced: list[tuple[Doc, int]] = []
    for document in made:
        old = there.get(lay.key_of(document))
        changes[lay.number(lay.own(document)["p"])] += 1
        if old is not None:
            changes[old[0]] -= 1
        (fresh if old is None else replaced).append((document, 1 if old is None else old[1] + 1))
        inserted.append(old is None)
    ordered = [
        lay.stamped(document, stamp, version)
        for (document, version), stamp in zip([*fresh, *replaced], stamps, strict=True)
    ]
    if fresh:
        await documents.insert_many(ordered[: len(fresh)], ordered=False, session=session)
    if replaced:
        await documents.bulk_write(
            [ReplaceOne({"_id": document["_id"]}, document) for document in ordered[len(fresh) :]],
            ordered=False,
            session=session,
        )
    return Upserted(inserted, changes)


async def _there(
    documents: AsyncCollection[Doc], keys: Sequence[object], session: Session
) -> dict[tuple[str, str], tuple[int, int]]:
    """Partition and version of those of the keys that exist."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for some in _parts(keys, KEYS_AT_ONCE):
        cursor = documents.find({"_id": {"$in": list(some)}}, {lay.PARTITION: 1, "svr.v": 1}, session=session)
        async for each in cursor:
            own = lay.own(each)
            found[lay.key_of(each)] = lay.number(own["p"]), lay.number(own["v"])
    return found


async def delete(documents: AsyncCollection[Doc], keys: Sequence[object], session: Session) -> dict[int, int]:
    """How many rows of each partition were there and are gone."""
    there = await _there(documents, keys, session)
    gone = [{"n": namespace, "i": doc_id} for namespace, doc_id in there]
    if gone:
        await documents.bulk_write(
            [DeleteMany({"_id": {"$in": list(some)}}) for some in _parts(gone, KEYS_AT_ONCE)],
            ordered=False,
            session=session,
        )
    return dict(Counter(partition for partition, _ in there.values()))


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
    found = [(each["_id"], lay.vector_of(each, layout.dimensions)) async for each in cursor]
    counts: Counter[int] = Counter()
    for some in _parts(found, MOVED_AT_ONCE):
        owners = assign(np.stack([vector for _, vector in some]), centroids, inner)
        stamps = await fence.stamps(ref, len(some), session)
        moves = [
            _moved(key, layout, source, targets[owner], stamp)
            for (key, _), owner, stamp in zip(some, owners, stamps, strict=True)
        ]
        counts.update(targets[owner] for owner in owners)
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
