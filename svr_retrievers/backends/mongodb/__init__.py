"""MongoDB Atlas Vector Search: partition labels on documents, search indexes that filter by them or hold one each."""

from svr_retrievers.backends.mongodb.store import MongoBackend

__all__ = ["MongoBackend"]
