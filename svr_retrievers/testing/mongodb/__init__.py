"""MongoDB for tests without an account: a real server from a Python package, and Atlas' search in front of it."""

from __future__ import annotations

from svr_retrievers.testing.mongodb.server import Mongod
from svr_retrievers.testing.mongodb.settings import Settings
from svr_retrievers.testing.mongodb.standin import AtlasStandIn

__all__ = ["AtlasStandIn", "Mongod", "Settings"]
