"""Measuring how good answers are: measures, questions whose answers are known, and tables."""

from svr_retrievers.evaluation.known_items import KnownItem, known_items, thinned
from svr_retrievers.evaluation.legs import Compared, Score, compare, table, ways
from svr_retrievers.evaluation.measures import mean, ndcg, recall, reciprocal_rank

__all__ = [
    "Compared",
    "KnownItem",
    "Score",
    "compare",
    "known_items",
    "mean",
    "ndcg",
    "recall",
    "reciprocal_rank",
    "table",
    "thinned",
    "ways",
]
