"""Measuring recall targets on a collection's own documents, without a database."""

from __future__ import annotations

import numpy as np
import pytest

from svr_retrievers import AsyncSVRClient, Document, SVRClient, by_field
from svr_retrievers.errors import InputError


def documents(count=600, topics=6, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(topics, 16)) * 2
    owner = rng.integers(0, topics, count)
    vectors = (centres[owner] + rng.normal(size=(count, 16))).astype(np.float32)
    return [Document(str(i), vector=vectors[i], metadata={"cat": f"c{owner[i]}"}) for i in range(count)]


async def test_what_was_predicted_and_what_was_measured_lie_at_the_target():
    async with AsyncSVRClient("memory://") as client:
        made = await client.create_collection("c", dimensions=16, partition_by=by_field("cat"))
        await made.add(documents())
        await made.refresh()
        low, high = await made.check_recall(samples=80, targets=(0.8, 0.99))
    assert (low.target, high.target) == (0.8, 0.99)
    assert low.samples == 80
    assert low.measured >= 0.75
    assert high.measured >= 0.96
    assert 1.0 <= low.probes <= high.probes <= 6
    assert abs(high.predicted - high.measured) < 0.05


async def test_without_partitions_every_answer_is_exact():
    async with AsyncSVRClient("memory://") as client:
        made = await client.create_collection("c", dimensions=16)
        assert await made.check_recall() == ()
        await made.add(documents(40))
        (checked,) = await made.check_recall(samples=10, targets=(0.9,))
    assert (checked.measured, checked.predicted, checked.probes) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("asked", [{"samples": 0}, {"samples": True}, {"samples": 5000}, {"targets": (1.5,)}])
def test_arguments_that_cannot_be_used_are_named(asked):
    with SVRClient("memory://") as client:
        made = client.create_collection("c", dimensions=2)
        with pytest.raises(InputError, match=next(iter(asked))):
            made.check_recall(**asked)
