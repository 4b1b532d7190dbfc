"""The background event loop that all blocking clients of a process share."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from concurrent.futures import Future
from typing import Protocol

import anyio
from anyio.from_thread import BlockingPortal


class Closable(Protocol):
    """A client that can be closed from any thread."""

    def close(self) -> None: ...


class BackgroundLoop:
    """The background event loop of this process, started when first needed.

    The thread is our own rather than `start_blocking_portal`'s: that one's generator waits for the thread when it
    is collected, in a forked child too, where there is no such thread.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        started: Future[BlockingPortal] = Future()
        self._thread = threading.Thread(target=_run, args=(started,), name="svr-loop", daemon=True)
        self._thread.start()
        self.portal: BlockingPortal = started.result()
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
        with contextlib.suppress(RuntimeError):  # it has stopped already
            self.portal.call(self.portal.stop)
        self._thread.join()


def _run(started: Future[BlockingPortal]) -> None:
    try:
        anyio.run(_serve, started)
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)


async def _serve(started: Future[BlockingPortal]) -> None:
    async with BlockingPortal() as portal:
        started.set_result(portal)
        await portal.sleep_until_stopped()


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
