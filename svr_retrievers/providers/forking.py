"""What must begin anew in a forked child: locks that another thread may hold, and lines of those who wait."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class BeginsAnew(Protocol):
    def begin_anew(self) -> None:
        """Called in a forked child before anything else runs there. Waits for nothing, and raises nothing."""


_kept: weakref.WeakSet[BeginsAnew] = weakref.WeakSet()


def begins_anew(one: BeginsAnew) -> None:
    """Has `one` begin anew in every child that is forked while it lives."""
    _kept.add(one)


def _in_child() -> None:
    for one in list(_kept):
        one.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
