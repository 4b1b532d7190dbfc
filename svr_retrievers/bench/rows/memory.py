"""Row 11: what a client process weighs that holds the map of many partitions."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np

from svr_retrievers import by_cluster
from svr_retrievers.backends.protocol import NewPartition
from svr_retrievers.bench import ours
from svr_retrievers.bench.data import corpus
from svr_retrievers.bench.lab import Lab
from svr_retrievers.bench.postgres import floor
from svr_retrievers.bench.record import Check, Finding
from svr_retrievers.bench.rows.routing import CALIBRATION
from svr_retrievers.bench.sizes import DIMENSIONS
from svr_retrievers.model import PartitionKey, PartitionStats, Vector

CENTROIDS = 4
_CLIENT = """
import json, sys
import numpy as np
from svr_retrievers import SVRClient
def resident(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))
started = resident("VmRSS")
with SVRClient(sys.argv[1]) as client:
    collection = client.collection(sys.argv[2])
    for seed in range(5):
        vector = np.random.default_rng(seed).standard_normal(collection.dimensions, dtype=np.float32)
        route = collection.route(vector=vector)
    told = {"imported": started, "routing": resident("VmRSS"), "peak": resident("VmHWM")}
    print(json.dumps(told | {"partitions": len(collection.partitions)}))
"""


def measure(lab: Lab) -> Finding:
    """A fresh process opens a collection whose map names the partitions, each with row count and four centroids
    of 384 dimensions (written to the control tables; no rows stand behind them), and routes five queries. Its
    resident memory afterwards and at its peak, the interpreter and the libraries included.
    """
    count = lab.size.mapped
    name = f"{ours.PREFIX}mapped"
    lab.say(f"writing a map of {count:,} partitions")
    drawn = corpus(count * CENTROIDS, 0, 1, seed=lab.seed, dimensions=DIMENSIONS).rows
    ours.create(lab.client, "mapped", drawn, by_cluster(count))
    _write(lab, name, drawn.vectors)
    ran = subprocess.run(  # noqa: S603 - this interpreter, this program
        [sys.executable, "-W", "ignore", "-c", _CLIENT, lab.url, name],
        capture_output=True,
        text=True,
        check=False,
    )
    lab.client.drop_collection(name)
    if ran.returncode:
        lines = ran.stderr.strip().splitlines()
        return Finding(missing={"client": lines[-1] if lines else "the process said nothing"})
    told = json.loads(ran.stdout)
    return Finding(
        checks=(
            Check(f"resident memory at {told['partitions']:,} partitions, MiB", told["routing"], most=200),
            Check("peak, MiB", told["peak"]),
            Check("before the client was opened, MiB", told["imported"]),
        ),
        medians={key: round(value, 1) for key, value in told.items()},
    )


def _write(lab: Lab, name: str, vectors: Vector) -> None:
    spread = np.full(CENTROIDS, 0.3, np.float32)
    partitions = [
        NewPartition(
            None,
            PartitionKey("cluster", str(i)),
            f"cluster-{i:05d}",
            leaf=True,
            stats=PartitionStats(centroids=vectors[i * CENTROIDS : (i + 1) * CENTROIDS], spread=spread),
        )
        for i in range(len(vectors) // CENTROIDS)
    ]
    floor.write_map(lab.url, name, partitions, CALIBRATION, rows_each=10_000)
