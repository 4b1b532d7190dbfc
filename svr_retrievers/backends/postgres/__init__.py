"""PostgreSQL with pgvector: a LIST-partitioned table a collection, an index per large partition."""

from svr_retrievers.backends.postgres.controlled import ControlledBackend
from svr_retrievers.backends.postgres.spread.backend import SpreadBackend as PostgresBackend

__all__ = ["ControlledBackend", "PostgresBackend"]
