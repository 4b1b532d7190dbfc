"""The blocking client: the asynchronous one, one line a method, over one background event loop.

The loop runs in a daemon thread that all blocking clients of a process share. Calls wait for it from
any thread, also under a running loop as in a notebook; `aio` gives the same calls as awaitables that
work from any event loop. A call from the background loop itself would wait for itself and is refused.
A forked child has no such thread: clients made before the fork are refused there, new ones work.
"""

from svr_retrievers.blocking.client import SVRClient
from svr_retrievers.blocking.collection import Collection

__all__ = ["Collection", "SVRClient"]
