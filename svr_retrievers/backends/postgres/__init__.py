"""PostgreSQL with pgvector: a LIST-partitioned table a collection, an index per large partition."""

from svr_retrievers.backends.postgres.store import PostgresBackend

__all__ = ["PostgresBackend"]
