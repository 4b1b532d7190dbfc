"""Measuring how good answers are: measures, questions whose answers are known, and tables."""

from svr_retrievers.evaluation.measures import mean, ndcg, recall, reciprocal_rank

__all__ = ["mean", "ndcg", "recall", "reciprocal_rank"]
