"""For tests of code that uses this package, and of backends that serve it; the suites need pytest."""

from __future__ import annotations

import contextlib

_SUITES = (
    "collections",
    "concurrency",
    "conformance",
    "control",
    "control_base",
    "control_leases",
    "control_operations",
    "control_outbox",
    "partitioning",
    "reading",
    "searching",
    "writing",
)

with contextlib.suppress(ImportError):
    import pytest

    for _suite in _SUITES:  # so that a failed assertion of a suite shows its values
        pytest.register_assert_rewrite(f"{__name__}.{_suite}")
