"""Doing a route: fan-out, exact merge, fusion, diversity, reranking.

What adapters need to fuse rankings of their own stands here.
"""

from svr_retrievers.search.hybrid import Fusion, check_fusion, depth, fuse
from svr_retrievers.search.request import MAX_LIMIT

__all__ = ["MAX_LIMIT", "Fusion", "check_fusion", "depth", "fuse"]
