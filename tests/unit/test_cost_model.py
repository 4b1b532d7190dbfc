"""The cost model gives back what was measured, moves the right way, and is what the page shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from svr_retrievers.bench import cost_model as model
from svr_retrievers.bench.cost_model import Load, Machine, estimate

PAGE = (Path(__file__).parents[2] / "docs/billion-vectors.md").read_text("utf-8")
BASE = Load(100_000_000, 384)


@pytest.mark.parametrize(
    ("precision", "measured_mib", "within"), [("full", 391, 0.01), ("half", 223, 0.01), ("bit", 67, 0.15)]
)
def test_index_sizes_are_those_measured(
    precision: model.Precision, measured_mib: float, within: float
) -> None:
    modelled = 200_000 * model.index_row_bytes(384, precision) / 2**20

    assert modelled == pytest.approx(measured_mib, rel=within)


def test_row_sizes_are_those_measured() -> None:
    assert 200_000 * model.heap_row_bytes(384) / 2**20 == pytest.approx(313, rel=0.01)


def test_vectors_longer_than_a_page_take_several() -> None:
    assert model.heap_row_bytes(4_000) == 2 * model.PAGE


def test_a_million_rows_are_built_as_fast_as_measured() -> None:
    one = estimate(Load(1_000_000, 384, copies=1), Machine(cores=2))

    assert one.servers == 1
    assert 3600 * one.build_hours == pytest.approx(132.5, rel=0.02)


@pytest.mark.parametrize(("partitions", "probes"), [(1, 1.0), (64, 1.3), (256, 3.0)])
def test_probes_are_those_measured(partitions: int, probes: float) -> None:
    assert model.expected_probes(partitions) == pytest.approx(probes, rel=0.01)


@pytest.mark.parametrize(("partitions", "ms"), model.ROUTE_MS)
def test_routing_takes_the_time_measured(partitions: int, ms: float) -> None:
    assert model.route_ms(partitions, 384) == pytest.approx(ms)


def test_routing_lies_between_its_measured_points() -> None:
    assert model.ROUTE_MS[1][1] < model.route_ms(30_000, 384) < model.ROUTE_MS[2][1]
    assert model.route_ms(10, 384) == pytest.approx(model.ROUTE_MS[0][1])


@pytest.mark.parametrize(
    "more",
    [
        replace(BASE, vectors=10 * BASE.vectors),
        replace(BASE, dimensions=1024),
        replace(BASE, precision="full"),
        replace(BASE, queries_per_second=20_000),
        replace(BASE, copies=4),
    ],
)
def test_more_asks_for_more_servers(more: Load) -> None:
    assert estimate(more).servers > estimate(BASE).servers


def test_what_binds_is_named() -> None:
    assert estimate(BASE).bound_by == "memory"
    assert estimate(replace(BASE, queries_per_second=50_000)).bound_by == "cpu"
    assert estimate(BASE, Machine(memory_gib=4_096, disk_gib=100)).bound_by == "disk"
    assert estimate(Load(1000, 384)).bound_by == "copies"


def test_the_busiest_server_has_no_more_than_all_probes() -> None:
    assert model.busiest(5, 1) == 5
    assert 1 < model.busiest(5, 5) <= 5
    assert model.busiest(0.5, 100) <= 0.5


def test_p95_is_above_p50_and_distance_costs() -> None:
    near, far = estimate(BASE), estimate(BASE, Machine(round_trip_ms=2.0))

    assert near.p50_ms < near.p95_ms
    assert far.p50_ms - near.p50_ms == pytest.approx(model.ROUND_TRIPS * 1.8)


@pytest.mark.parametrize("table", [model.main_table, model.sensitivity_table, model.routing_table])
def test_the_page_shows_the_tables(table: object) -> None:
    assert callable(table)
    assert table() in PAGE
