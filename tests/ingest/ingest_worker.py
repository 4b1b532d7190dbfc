"""An ingest in a process of its own, which kills itself at a point it is told, or tells how much memory it took."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections import Counter
from pathlib import Path

from svr_retrievers import SVRClient
from svr_retrievers.backends.postgres import writing
from svr_retrievers.ingest import IngestPipeline, RecursiveChunker
from svr_retrievers.ingest.target import Target
from tests.ingest.ingest_corpus import CHUNK, LoggingEmbedder, documents, given

REPORTED = ("read", "written", "replaced", "unchanged", "deleted", "embedded", "reused", "refused", "seconds")


def arm(point: str, occurrence: int) -> None:
    """Ends this process by SIGKILL the `occurrence`th time that it comes by the point."""
    passed: Counter[str] = Counter()

    def reach(name: str) -> None:
        passed[name] += 1
        if name == point and passed[name] >= occurrence:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(name: str):
        inner = getattr(Target, name)

        async def call(self, *args):
            reach(f"{name}:before")
            made = await inner(self, *args)
            reach(f"{name}:after")
            return made

        setattr(Target, name, call)

    for name in ("embed", "delete", "add"):
        around(name)
    send = writing._send

    async def half(*args):
        reach("copy:before")
        await send(*args)
        reach("copy:after")

    writing._send = half


def megabytes() -> float:
    """The most memory this process held; where Linux tells it, without what its parent held before it began."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peak = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
    return (peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024


def main(
    url: str, name: str, how: str, count: int, version: int, log: str, point: str, occurrence: int
) -> None:
    if point != "never":
        arm(point, occurrence)
    with SVRClient(url) as client:
        if how == "given":
            pipeline = IngestPipeline(client.collection(name), progress=False)
            report = pipeline.run(given(count))
        else:
            collection = client.collection(name, embedder=LoggingEmbedder(Path(log)))
            pipeline = IngestPipeline(
                collection, chunker=RecursiveChunker(CHUNK), batch_size=count // 50, progress=False
            )
            report = pipeline.run(documents(count, version))
    figures = {field: getattr(report, field) for field in REPORTED}
    figures["megabytes"] = megabytes()
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    url, name, how, count, version, log, point, occurrence = sys.argv[1:]
    main(url, name, how, int(count), int(version), log, point, int(occurrence))
