"""The suite that every store of leases, operations and events passes: subclass it and give a store.

    class TestMine(ControlConformance):
        @pytest_asyncio.fixture
        async def work(self):
            work = MyWork(...)
            await work.prepare()
            yield work

Each test needs an empty store. The tests are coroutines, run by pytest-asyncio.
"""

from __future__ import annotations

from typing import TypeVar

from svr_retrievers.testing.control_base import ControlSuite
from svr_retrievers.testing.control_leases import LeasesConformance
from svr_retrievers.testing.control_operations import OperationsConformance
from svr_retrievers.testing.control_outbox import OutboxConformance

Tx = TypeVar("Tx")


class ControlConformance(LeasesConformance[Tx], OperationsConformance[Tx], OutboxConformance[Tx]):
    """Everything promised by `svr_retrievers.control.protocol`."""


__all__ = ["ControlConformance", "ControlSuite"]
