"""One collection, asynchronously: writing, searching, listing, analysing, watching."""

from svr_retrievers.collection.checking import CollectionChecks
from svr_retrievers.collection.fusing import CollectionHybrid
from svr_retrievers.collection.scanning import CollectionScan
from svr_retrievers.collection.taking import CollectionAdoption
from svr_retrievers.collection.watching import AsyncChanges, CollectionWatch


class AsyncCollection(
    CollectionAdoption, CollectionHybrid, CollectionScan, CollectionChecks, CollectionWatch
):
    """A named set of documents, cut into partitions. Opened by a client; safe for many tasks at once.

    Every method may raise BackendError when the database fails, and InputError for arguments that
    cannot be used, always before anything is written.
    """


__all__ = ["AsyncChanges", "AsyncCollection"]
