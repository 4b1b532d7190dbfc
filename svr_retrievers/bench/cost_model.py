"""How many servers, how much memory and how long a query takes, for more vectors than one machine holds. PURE.

    python -m svr_retrievers.bench.cost_model

prints the tables of docs/billion-vectors.md. What is measured and what is assumed stands beside each constant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Precision = Literal["full", "half", "bit"]

PAGE, PAGE_ROOM = 8_192, 8_168
INDEX_OVERHEAD = 330
"""Bytes of an HNSW entry of m = 16 beside its vector. Reproduces the measured index sizes at 384 dimensions:
2,050 bytes a row in full, 1,170 in half, 350 in single-bit precision."""
HEAP_OVERHEAD = 93
"""Bytes of a row of the space table beside its vector: measured 1,641 a row at 384 dimensions."""
DOCUMENT_BYTES = 1_200
"""Assumed: a text of 1 kB with metadata, key and index entry, on the main server's disk."""
PROBE_CPU_MS = 1.1
"""A graph of 100,000 rows, 384 dimensions, ef_search 40: between 1.29 measured at 200,000 and about 0.8 at 50,000."""
PROBE_CPU_PER_DOUBLING_MS = 0.27
"""From 1.29 ms at 200,000 rows and 1.92 at a million, both measured."""
PROBES_AT_64, PROBES_EXPONENT = 1.3, 0.6
"""Mean probes for recall 0.95: 1.3 of 64 partitions and 3.0 of 256, measured; beyond, extrapolated as a power."""
PROBES_P95 = 2.7
"""p95 of the probes over their mean: 3 of 1.3 and 8 of 3.0, measured."""
BUILD_ROWS_PER_SECOND = 3_800
"""A core, 384 dimensions, graphs that fit in maintenance_work_mem: 132.5 s for a million rows on two, measured."""
ROUND_TRIPS = 5
"""Of postgres_fdw for one search: begin, declare, fetch, close, commit."""
MAIN_MS = 1.5
"""The main server's own part of a search: planning, sending, ten documents by key."""
ROUTE_MS = ((1_000, 0.04), (10_000, 0.12), (100_000, 1.4))
"""Two-level routing over as many partitions, 384 dimensions, measured."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One server. `memory_share` is what may hold indexes; the rest is for rows, sorting and the system."""

    cores: int = 16
    memory_gib: int = 128
    memory_share: float = 0.7
    disk_gib: int = 4_000
    round_trip_ms: float = 0.2


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be served. `utilisation` is how busy cores may be before queues grow; `copies` counts replicas."""

    vectors: int
    dimensions: int
    precision: Precision = "half"
    rows_per_partition: int = 100_000
    queries_per_second: float = 200.0
    utilisation: float = 0.5
    copies: int = 2
    probes: float | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """The answer: sizes in GiB of one copy, servers with all copies, milliseconds, hours."""

    partitions: int
    probes: float
    index_gib: float
    heap_gib: float
    documents_gib: float
    servers: int
    bound_by: str
    routing_mib: float
    route_ms: float
    p50_ms: float
    p95_ms: float
    build_hours: float
    queries_per_core: float


def index_row_bytes(dimensions: int, precision: Precision) -> float:
    """Pages are not shared by halves of entries, so long vectors waste the rest of a page."""
    vector = {"full": 4 * dimensions, "half": 2 * dimensions, "bit": dimensions / 8}[precision] + 8
    return _packed(vector + INDEX_OVERHEAD)


def heap_row_bytes(dimensions: int) -> float:
    return _packed(4 * dimensions + HEAP_OVERHEAD)


def _packed(size: float) -> float:
    fit = int(PAGE_ROOM // size)
    return PAGE / fit if fit else math.ceil(size / PAGE_ROOM) * PAGE


def expected_probes(partitions: int) -> float:
    return min(float(partitions), max(1.0, PROBES_AT_64 * math.pow(partitions / 64, PROBES_EXPONENT)))


def probe_cpu_ms(rows: int, dimensions: int) -> float:
    """Assumed: half of the work grows with the length of the vectors."""
    at_384 = max(0.3, PROBE_CPU_MS + PROBE_CPU_PER_DOUBLING_MS * math.log2(rows / 100_000))
    return at_384 * (0.5 + 0.5 * dimensions / 384)


def route_ms(partitions: int, dimensions: int) -> float:
    """Between the measured points on a straight line in logarithms; never below the first."""
    points = [(math.log(n), math.log(ms)) for n, ms in ROUTE_MS]
    at = max(points[0][0], math.log(max(1, partitions)))
    lower = max((i for i, (n, _) in enumerate(points[:-1]) if n <= at), default=0)
    (x0, y0), (x1, y1) = points[lower], points[lower + 1]
    return math.exp(y0 + (y1 - y0) * (at - x0) / (x1 - x0)) * dimensions / 384


def busiest(probes: float, servers: int) -> float:
    """Probes on the server with the most of them, when they fall at random: it decides the latency."""
    mean = probes / servers
    return min(probes, mean + math.sqrt(2 * mean * math.log(servers))) if servers > 1 else probes


def estimate(load: Load, machine: Machine | None = None) -> Estimate:
    one = machine or Machine()
    partitions = max(1, math.ceil(load.vectors / load.rows_per_partition))
    probes = load.probes if load.probes is not None else expected_probes(partitions)
    cpu = probe_cpu_ms(min(load.vectors, load.rows_per_partition), load.dimensions)
    index = load.vectors * index_row_bytes(load.dimensions, load.precision) / 2**30
    heap = load.vectors * heap_row_bytes(load.dimensions) / 2**30
    needs = {
        "memory": load.copies * index / (one.memory_gib * one.memory_share),
        "disk": load.copies * 1.3 * (index + heap) / one.disk_gib,
        "cpu": load.queries_per_second * probes * cpu / (1000 * one.cores * load.utilisation),
        "copies": float(load.copies),
    }
    bound_by = max(needs, key=lambda what: math.ceil(needs[what]))
    servers = math.ceil(needs[bound_by])
    apart = max(1, servers // load.copies)
    fixed = route_ms(partitions, load.dimensions) + MAIN_MS + ROUND_TRIPS * one.round_trip_ms
    waiting = 1 / (1 - load.utilisation)
    return Estimate(
        partitions=partitions,
        probes=probes,
        index_gib=index,
        heap_gib=heap,
        documents_gib=load.vectors * DOCUMENT_BYTES / 2**30,
        servers=servers,
        bound_by=bound_by,
        routing_mib=partitions * 4 * load.dimensions / 2**20,
        route_ms=route_ms(partitions, load.dimensions),
        p50_ms=fixed + busiest(probes, apart) * cpu,
        p95_ms=fixed + busiest(PROBES_P95 * probes, apart) * cpu * waiting,
        build_hours=_build_hours(load, servers * one.cores),
        queries_per_core=1000 / (probes * cpu),
    )


def _build_hours(load: Load, cores: int) -> float:
    """Assumed: 30 % of a build does not depend on the length of the vectors. All copies are built."""
    rate = BUILD_ROWS_PER_SECOND / (0.3 + 0.7 * load.dimensions / 384)
    return load.copies * load.vectors / (rate * cores) / 3600


SIZES = (1_000_000, 100_000_000, 1_000_000_000)
DIMENSIONS = (384, 1024, 1536)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _size(vectors: int) -> str:
    return f"{vectors // 10**9} B" if vectors >= 10**9 else f"{vectors // 10**6} M"


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


def main_table() -> str:
    head = (
        "vectors", "dimensions", "index GiB", "rows GiB", "documents GiB", "partitions", "probes", "servers",
        "bound by", "p50 ms", "p95 ms", "build",
    )  # fmt: skip
    rows = []
    for vectors in SIZES:
        for dimensions in DIMENSIONS:
            e = estimate(Load(vectors, dimensions))
            rows.append(
                (
                    _size(vectors), str(dimensions), f"{e.index_gib:,.0f}", f"{e.heap_gib:,.0f}",
                    f"{e.documents_gib:,.0f}", f"{e.partitions:,}", f"{e.probes:.1f}", str(e.servers), e.bound_by,
                    f"{e.p50_ms:.0f}", f"{e.p95_ms:.0f}", _hours(e.build_hours),
                )
            )  # fmt: skip
    return _table(head, rows)


def _varied() -> Iterator[tuple[str, Load, Machine]]:
    base, machine = Load(10**9, 384), Machine()
    yield "as above", base, machine
    for precision in ("full", "bit"):
        yield f"index in {precision} precision", replace(base, precision=precision), machine
    for rows in (25_000, 400_000):
        yield f"{rows:,} rows a partition", replace(base, rows_per_partition=rows), machine
    for probes in (8.0, 16.0, 64.0):
        yield f"{probes:.0f} probes", replace(base, probes=probes), machine
    for rate in (20.0, 2_000.0):
        yield f"{rate:,.0f} queries a second", replace(base, queries_per_second=rate), machine
    yield "one copy", replace(base, copies=1), machine
    yield "2 ms from server to server", base, replace(machine, round_trip_ms=2.0)
    yield "512 GiB and 64 cores a server", base, replace(machine, memory_gib=512, cores=64)


def sensitivity_table() -> str:
    head = ("1 B x 384, changed", "servers", "bound by", "probes", "p50 ms", "p95 ms", "build")
    rows = []
    for what, load, machine in _varied():
        e = estimate(load, machine)
        rows.append(
            (
                what, str(e.servers), e.bound_by, f"{e.probes:.0f}", f"{e.p50_ms:.0f}", f"{e.p95_ms:.0f}",
                _hours(e.build_hours),
            )
        )  # fmt: skip
    return _table(head, rows)


def routing_table() -> str:
    head = ("partitions", "centroids at 384, MiB", "at 1,536", "two-level routing at 384, ms", "at 1,536")
    rows = [
        (
            f"{n:,}", f"{n * 4 * 384 / 2**20:,.1f}", f"{n * 4 * 1536 / 2**20:,.1f}", f"{route_ms(n, 384):.2f}",
            f"{route_ms(n, 1536):.2f}",
        )
        for n in (1_000, 10_000, 100_000)
    ]  # fmt: skip
    return _table(head, rows)


if __name__ == "__main__":
    import sys

    sys.stdout.write(f"{main_table()}\n\n{sensitivity_table()}\n\n{routing_table()}\n")
