"""`$rankFusion`: several rankings of one collection, fused by the reciprocals of their ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from svr_retrievers.testing.mongodb.documents import Document, key_of, section
from svr_retrievers.testing.mongodb.found import Found
from svr_retrievers.testing.mongodb.refusals import Refused

SINCE = (8, 0)
_RANK_CONSTANT = 60
_RANKED = {"$search", "$vectorSearch", "$geoNear"}
_SELECTING = _RANKED | {"$match", "$sort", "$skip", "$limit"}
_DESCRIPTION = (
    "value output by reciprocal rank fusion algorithm, computed as sum of (weight * (1 / (60 + rank))) across input "
    "pipelines from which this document is output, from:"
)
_MUST_BE_RANKED = (
    "All subpipelines to the $rankFusion stage must begin with one of $search, $vectorSearch, $geoNear, $scoreFusion, "
    "$rankFusion or have a custom $sort in the pipeline."
)
_EMPTY, _UNRANKED, _MODIFYING = 9834300, 9191100, 9191103
_NEGATIVE, _TOO_MANY, _UNKNOWN_WEIGHT = 9460300, 9460301, 9967500
_FAILED_TO_PARSE, _BAD_NAME, _MISSING = 9, 9921000, 40414


@dataclass(frozen=True, slots=True)
class Fusion:
    """A checked stage: its pipelines and their weights, by name."""

    pipelines: dict[str, list[Document]]
    weights: dict[str, float]
    detailed: bool


@dataclass(slots=True)
class _Fused:
    ident: object
    score: float = 0.0
    ranks: dict[str, tuple[int, object]] = field(default_factory=dict)


def fusion(stage: object) -> Fusion:
    """Refuses what the server would before it runs anything."""
    if not isinstance(stage, dict):
        raise Refused("The $rankFusion stage must be a document", _FAILED_TO_PARSE)
    unknown = sorted(stage.keys() - {"input", "combination", "scoreDetails"})
    if unknown:
        raise Refused(f"BSON field '$rankFusion.{unknown[0]}' is an unknown field.", 40415)
    pipelines = section(section(stage, "input"), "pipelines")
    if not pipelines:
        raise Refused("BSON field '$rankFusion.input.pipelines' is missing but a required field", _MISSING)
    checked = {name: _checked(name, given) for name, given in pipelines.items()}
    weights = _weights(checked, section(section(stage, "combination"), "weights"))
    return Fusion(checked, weights, stage.get("scoreDetails") is True)


def fused(asked: Fusion, rankings: Mapping[str, Sequence[tuple[object, object]]]) -> list[Found]:
    """From the `_id`s and scores of each pipeline; equal scores share a rank, and equal sums are ordered by `_id`."""
    together: dict[bytes, _Fused] = {}
    for name, ranking in rankings.items():
        for rank, ident, score in _ranked(ranking):
            each = together.setdefault(key_of(ident), _Fused(ident))
            each.ranks[name] = (rank, score)
            each.score += asked.weights[name] / (_RANK_CONSTANT + rank)
    ordered = sorted(together.items(), key=lambda item: (-item[1].score, item[0]))
    return [Found(each.ident, each.score, details=_details(asked, each)) for _, each in ordered]


def _checked(name: str, given: object) -> list[Document]:
    if not name or name.startswith("$") or "." in name or "\0" in name:
        raise Refused(
            f"$rankFusion pipeline name {name!r} must not be empty, begin with '$' or hold '.'", _BAD_NAME
        )
    stages = [stage for stage in given if isinstance(stage, dict)] if isinstance(given, list) else []
    if not stages:
        raise Refused(f"$rankFusion input pipeline cannot be empty. {_MUST_BE_RANKED}", _EMPTY)
    names = [next(iter(stage), "") for stage in stages]
    if names[0] not in _RANKED and "$sort" not in names:
        raise Refused(_MUST_BE_RANKED, _UNRANKED)
    for stage, kind in zip(stages, names, strict=True):
        if kind not in _SELECTING or section(stage, kind).get("returnStoredSource"):
            raise Refused(
                f"{kind} is not allowed in a $rankFusion subpipeline because it modifies the documents or transforms "
                "their fields. Only stages that retrieve, limit, or order documents are allowed.",
                _MODIFYING,
            )
    return stages


def _weights(pipelines: dict[str, list[Document]], given: Document) -> dict[str, float]:
    weights = dict.fromkeys(pipelines, 1.0)
    unknown = sorted(given.keys() - pipelines.keys())
    if len(given) > len(pipelines):
        raise Refused(
            f"$rankFusion input has more weights ({len(given)}) than pipelines ({len(pipelines)}).", _TOO_MANY
        )
    if unknown:
        raise Refused(
            f"$rankFusion stage contained ({len(unknown)}) weight(s) in 'combination.weights' that did not reference "
            f"valid pipeline names: {', '.join(unknown)}",
            _UNKNOWN_WEIGHT,
        )
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Refused(f"the weight of pipeline '{name}' must be a number", 14)
        if value < 0:
            raise Refused(
                f"Rank fusion pipeline weight must be non-negative, but given {value} for pipeline '{name}'.",
                _NEGATIVE,
            )
        weights[name] = float(value)
    return weights


def _ranked(ranking: Sequence[tuple[object, object]]) -> list[tuple[int, object, object]]:
    ranked: list[tuple[int, object, object]] = []
    for at, (ident, score) in enumerate(ranking, start=1):
        level = bool(ranked) and score is not None and ranked[-1][2] == score
        ranked.append((ranked[-1][0] if level else at, ident, score))
    return ranked


def _details(asked: Fusion, each: _Fused) -> Document | None:
    if not asked.detailed:
        return None
    details: list[Document] = []
    for name, weight in asked.weights.items():
        rank, score = each.ranks.get(name, ("NA", None))
        value = {"value": score} if score is not None else {}
        details.append({"inputPipelineName": name, "rank": rank, "weight": weight, **value, "details": []})
    return {"value": each.score, "description": _DESCRIPTION, "details": details}
