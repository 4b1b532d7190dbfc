"""The blocking client: the asynchronous one, one line a method, over one background event loop.

The loop runs in a daemon thread that all blocking clients of a process share. Calls wait for it from
any thread, also under a running loop as in a notebook; `aio` gives the same calls as awaitables that
work from any event loop. A call from the background loop itself would wait for itself and is refused.
A forked child has no such thread: clients made before the fork are refused there, new ones work.
"""

from svr_retrievers.blocking.client import SVRClient
from svr_retrievers.blocking.collection import Collection
from svr_retrievers.blocking.reranking import blocking_scores
from svr_retrievers.client import AsyncSVRClient
from svr_retrievers.collection import AsyncCollection

for _blocking, _asynchronous in ((SVRClient, AsyncSVRClient), (Collection, AsyncCollection)):
    for _name, _twin in vars(_blocking).items():
        if not _name.startswith("_") and callable(_twin):
            _twin.__doc__ = _twin.__doc__ or getattr(_asynchronous, _name).__doc__

__all__ = ["Collection", "SVRClient", "blocking_scores"]
