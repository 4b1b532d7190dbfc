"""The background event loop that all blocking clients of a process share."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from typing import Protocol

from anyio.from_thread import BlockingPortal, start_blocking_portal


class Closable(Protocol):
    """A client that can be closed from any thread."""

    def close(self) -> None: ...


class BackgroundLoop:
    """The background event loop of this process, started when first needed."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._stack = contextlib.ExitStack()
        self.portal: BlockingPortal = self._stack.enter_context(start_blocking_portal(name="svr-loop"))
        self.thread: int = self.portal.call(threading.get_ident)
        self._clients: weakref.WeakSet[Closable] = weakref.WeakSet()

    def adopt(self, client: Closable) -> None:
        """Closes the client when the interpreter ends, before anything that was started up to now ends."""
        self._clients.add(client)
        atexit.unregister(_stop_at_exit)
        atexit.register(_stop_at_exit)

    def stop(self) -> None:
        for client in list(self._clients):
            with contextlib.suppress(Exception):
                client.close()
        self._stack.close()


_lock = threading.Lock()
_loop: BackgroundLoop | None = None


def running_loop() -> BackgroundLoop:
    """The loop of this process, started when first needed."""
    global _loop  # noqa: PLW0603 - one loop a process is the point
    with _lock:
        if _loop is None or _loop.pid != os.getpid():
            _loop = BackgroundLoop()
        return _loop


def _forget_after_fork() -> None:
    global _loop, _lock  # noqa: PLW0603 - the child starts without the parent's thread and lock
    _loop = None
    _lock = threading.Lock()


def _stop_at_exit() -> None:
    if _loop is not None and _loop.pid == os.getpid():
        _loop.stop()


os.register_at_fork(after_in_child=_forget_after_fork)
