"""One collection, asynchronously: add, search, route, explain, get, find, delete, count, analyze."""

from svr_retrievers.collection.analysing import CollectionAnalysis
from svr_retrievers.collection.reading import CollectionReads
from svr_retrievers.collection.writing import CollectionWrites


class AsyncCollection(CollectionWrites, CollectionReads, CollectionAnalysis):
    """A named set of documents, cut into partitions. Opened by a client; safe for many tasks at once.

    Every method may raise BackendError when the database fails, and InputError for arguments that
    cannot be used, always before anything is written.
    """


__all__ = ["AsyncCollection"]
