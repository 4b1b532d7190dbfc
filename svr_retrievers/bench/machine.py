"""The machine a run was made on: what a reader needs to judge its figures."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from svr_retrievers.model import JsonValue

PACKAGES = ("svr-retrievers", "numpy", "psycopg", "pgvector", "langchain-core", "llama-index-core")


def facts() -> dict[str, JsonValue]:
    """What stays the same during a run."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "cores": cores(),
        "memory_gib": round(pages / 2**30, 1),
        "processor": _processor(),
        "system": platform.platform(),
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
    }


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> float:
    """The load average of the last minute: above the number of cores, times are not to be trusted."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else -1.0


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        named = []
    return named[0] if named else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
