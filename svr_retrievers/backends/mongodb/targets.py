"""The search indexes of a collection: which there are, what they hold, which partitions each serves. PURE."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

from svr_retrievers.backends.auto_embedding import AtlasEmbedding
from svr_retrievers.backends.indexes import IndexSpec
from svr_retrievers.backends.mongodb import layout as lay
from svr_retrievers.backends.mongodb.layout import Doc, Layout, Mode
from svr_retrievers.backends.protocol import CollectionConfig
from svr_retrievers.errors import BackendError, InputError
from svr_retrievers.model import JsonValue, Metric

SIMILARITY: Final = {Metric.COSINE: "cosine", Metric.L2: "euclidean", Metric.INNER_PRODUCT: "dotProduct"}
_QUANTIZATION: Final = {"none": "none", "scalar": "scalar", "binary": "binary"}
_GRAPH: Final = IndexSpec()


@dataclass(frozen=True, slots=True)
class Target:
    """One search index. `view`: the view it is over, None for the documents themselves.

    `partition`: the only one it holds; None: all that have no index of their own. `excluded` are those that a
    view over the rest leaves out. `ready`: it was seen answering with the wanted definition. `shared`: it is one
    of others, with our fields besides theirs.
    """

    name: str
    view: str | None = None
    partition: int | None = None
    excluded: tuple[int, ...] = ()
    ready: bool = False
    shared: bool = False

    def to_json(self) -> dict[str, JsonValue]:
        made: dict[str, JsonValue] = {
            "name": self.name,
            "view": self.view,
            "partition": self.partition,
            "excluded": list(self.excluded),
            "ready": self.ready,
        }
        return made | {"shared": True} if self.shared else made

    @staticmethod
    def of_json(body: Mapping[str, JsonValue]) -> Target:
        return Target(
            str(body["name"]),
            cast("str | None", body["view"]),
            cast("int | None", body["partition"]),
            tuple(cast("list[int]", body["excluded"])),
            bool(body["ready"]),
            bool(body.get("shared")),
        )


@dataclass(frozen=True, slots=True)
class Physical:
    """How a collection is stored: its mode, its indexes, and how many names they have used up."""

    mode: Mode
    targets: tuple[Target, ...]
    named: int = 1
    fields: tuple[int, ...] = ()
    """In mode fields: the partitions whose fields the index's definition names."""

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "mode": self.mode,
            "targets": [target.to_json() for target in self.targets],
            "named": self.named,
            "fields": list(self.fields),
        }

    @staticmethod
    def of_json(body: Mapping[str, object]) -> Physical:
        targets = cast("list[Mapping[str, JsonValue]]", body["targets"])
        return Physical(
            cast("Mode", body["mode"]),
            tuple(Target.of_json(target) for target in targets),
            cast("int", body["named"]),
            tuple(cast("list[int]", body["fields"])),
        )

    @property
    def rest(self) -> Target:
        """The index of all partitions that have none of their own."""
        found = next((target for target in self.targets if target.partition is None), None)
        if found is None:
            raise BackendError(
                "The collection's index over its other partitions is not recorded any more.",
                hint="Restore svr_metadata.collections from a backup, or create the collection again.",
            )
        return found

    @property
    def own(self) -> set[int]:
        """The partitions that have an index of their own."""
        return {target.partition for target in self.targets if target.partition is not None}

    def taking(self, target: Target) -> Physical | None:
        """With the target, in place of the one it follows; None where others have changed what it was made for."""
        if target.partition is None:
            if set(target.excluded) != self.own:
                return None
            return replace(self, targets=(*(t for t in self.targets if t.partition is not None), target))
        return None if target.partition in self.own else replace(self, targets=(*self.targets, target))

    def with_fields(self, partitions: Iterable[int]) -> Physical:
        """In mode fields: with vector fields for these partitions too, which the index does not hold yet."""
        both = tuple(sorted({*self.fields, *partitions}))
        return replace(self, fields=both, targets=tuple(replace(t, ready=False) for t in self.targets))

    def of(self, partition: int) -> Target:
        return next((t for t in self.targets if t.partition == partition), self.rest)

    def groups(self, partitions: Iterable[int]) -> list[tuple[int, ...]]:
        """The partitions that one aggregate can search together: those of one index and one vector field."""
        if self.mode == "fields":
            return [(partition,) for partition in partitions]
        found: dict[str, list[int]] = {}
        for partition in partitions:
            found.setdefault(self.of(partition).name, []).append(partition)
        return [tuple(group) for group in found.values()]

    def with_target(self, target: Target) -> Physical:
        others = tuple(t for t in self.targets if t.name != target.name)
        return replace(self, targets=(*others, target))


def index_name(collection: int, number: int) -> str:
    """Unique over the database, as names must be over a collection and all its views."""
    return f"svr_{collection}_{number}"


def definition(config: CollectionConfig, layout: Layout, partitions: Sequence[int] = ()) -> Doc:
    """What the index is to hold. `partitions` are those with a vector field of their own, in mode fields."""
    paths = (
        [layout.vector_path(p) for p in partitions] if layout.mode == "fields" else [layout.vector_path(None)]
    )
    filters = [lay.NAMESPACE, lay.PARTITION, lay.STAMP]
    if layout.keys:
        filters += [lay.MISSING, *layout.paths.typed.values()]
    return {
        "fields": [
            *({"path": path, **_vector_options(config)} for path in paths),
            *({"type": "filter", "path": path} for path in filters),
        ]
    }


def _vector_options(config: CollectionConfig) -> Doc:
    spec = config.index
    made: Doc = {
        "type": "vector",
        "numDimensions": config.dimensions,
        "similarity": SIMILARITY[config.metric],
    }
    if config.embedding is not None:
        made |= _embedding_options(config.embedding)
    if spec.quantization != "none":
        made["quantization"] = _QUANTIZATION[spec.quantization]
    if spec.kind == "flat":
        made["indexingMethod"] = "flat"
    elif (spec.m, spec.ef_construction) != (_GRAPH.m, _GRAPH.ef_construction):
        made["hnswOptions"] = {"maxEdges": spec.m, "numEdgeCandidates": spec.ef_construction}
    return made


def _embedding_options(embedding: AtlasEmbedding) -> Doc:
    """The similarity is said, since scores are read by it: bits are compared by Euclidean distance."""
    return {
        "type": "autoEmbed",
        "modality": "text",
        "model": embedding.model,
        "quantization": embedding.quantization,
        "similarity": "euclidean" if embedding.quantization.startswith("binary") else "dotProduct",
    }


def plain(wanted: Doc) -> Doc:
    """The definition for servers that know neither flat indexes nor settings of the graph."""
    fields = cast("list[Doc]", wanted["fields"])
    return {
        "fields": [{k: v for k, v in f.items() if k not in ("indexingMethod", "hnswOptions")} for f in fields]
    }


def is_defined(found: Mapping[str, object] | None, wanted: Doc) -> bool:
    """Whether an index's definition holds all that is wanted; servers may add defaults and more."""
    if found is None:
        return False
    there = {str(f["path"]): f for f in cast("list[Doc]", found.get("fields") or [])}
    return all(
        _agrees(there.get(str(each["path"])), each) for each in cast("list[Doc]", plain(wanted)["fields"])
    )


def _agrees(found: Mapping[str, object] | None, wanted: Doc) -> bool:
    return found is not None and all(found.get(name) == value for name, value in wanted.items())


def check(config: CollectionConfig) -> None:
    """Raises InputError for what no search index takes."""
    spec = config.index
    if (spec.vectors == "bit" or spec.quantization == "binary") and config.dimensions % 8:
        raise InputError(
            f"Vectors of bits, and binary quantization, need dimensions in multiples of 8, not {config.dimensions}."
        )
    if (spec.m, spec.ef_construction) != (16, 64) and not (
        16 <= spec.m <= 64 and 100 <= spec.ef_construction <= 3_200
    ):
        raise InputError(
            f"MongoDB takes m from 16 to 64 and ef_construction from 100 to 3,200, not {spec.m} and "
            f"{spec.ef_construction}.",
            hint="Leave both out for the server's own.",
        )
    if spec.quantization != "none" and spec.vectors != "float32":
        raise InputError("Vectors that are stored as int8 or bits are not quantized further.")


def not_extendable(found: Mapping[str, object] | None, wanted: Doc) -> str | None:
    """Why ours cannot be added to an index of others; None where they can."""
    if found is None:
        return "does not exist"
    if found.get("type") != "vectorSearch":
        return f"is of type {found.get('type')!r}, not 'vectorSearch'"
    definition = cast("Mapping[str, object]", found.get("latestDefinition") or {})
    vector = cast("list[Doc]", plain(wanted)["fields"])[0]
    theirs = next((f for f in cast("list[Doc]", definition["fields"]) if f["path"] == vector["path"]), {})
    if not theirs:
        return f"holds no vectors of {vector['path']!r}"
    for name in vector:
        if theirs.get(name) != vector[name]:
            return f"has {name} {theirs.get(name)!r} for {vector['path']!r} where {vector[name]!r} is needed"
    return None


def extended(found: Mapping[str, object], wanted: Doc) -> Doc:
    """A definition with all that is in it and what is wanted besides."""
    theirs = cast("list[Doc]", found["fields"])
    there = {each["path"] for each in theirs}
    more = [each for each in cast("list[Doc]", wanted["fields"]) if each["path"] not in there]
    return {**found, "fields": [*theirs, *more]}


def restored(found: Mapping[str, object]) -> Doc:
    """The definition without what `extended` added."""
    fields = [each for each in cast("list[Doc]", found["fields"]) if not str(each["path"]).startswith("svr.")]
    return {**found, "fields": fields}


def view_stages(target: Target) -> list[Doc]:
    """What a target's view shows: one partition, or the rest. Only `$match` with `$expr` may be indexed."""
    if target.partition is not None:
        return [{"$match": {"$expr": {"$eq": [f"${lay.PARTITION}", target.partition]}}}]
    if not target.excluded:
        return []
    return [{"$match": {"$expr": {"$not": [{"$in": [f"${lay.PARTITION}", list(target.excluded)]}]}}}]
