"""What the control tables hold of a calibration and of centroids comes back as it was."""

from __future__ import annotations

import json

import numpy as np

from svr_retrievers.backends.protocol import CollectionConfig
from svr_retrievers.control import records
from svr_retrievers.routing.probe import DEFAULT_RECALL_TARGET, Calibration, Depth

GAINS = {0.8: 0.4, 0.95: 0.1, 0.99: 0.0}
DEPTH = Depth(
    1.0, 12.5, 0.7, 8.0, GAINS, dict.fromkeys(GAINS, 1.5), (0.8,), ((0.0, 0.0), (0.6, 0.7), (1.0, 1.0))
)


def test_a_calibration_survives_json():
    made = Calibration((DEPTH,), 5000, 0.71, {40: 0.98, 80: 0.99})
    body = json.loads(json.dumps(records.calibration_json(made)))
    assert records.calibration_of(body) == made
    assert records.calibration_of(None) is None


def test_what_an_earlier_rule_left_is_taken_as_not_calibrated():
    assert records.calibration_of({"temperature": 0.05, "masses": [[0.95, 0.9]], "rows": 10}) is None


def test_the_recall_target_is_kept_and_has_a_default_for_older_collections():
    body = records.config_json(CollectionConfig("c", 3, recall_target=0.99))
    assert records.config_of("c", body).recall_target == 0.99
    del body["recall_target"]
    assert records.config_of("c", body).recall_target == DEFAULT_RECALL_TARGET


def test_centroids_are_decoded_side_by_side():
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    made = records.Centroids(rows.nbytes, 3)
    first, none, rest = (
        made.take(records.packed(rows[:1])),
        made.take(None),
        made.take(records.packed(rows[1:])),
    )
    assert none is None
    assert first is not None
    assert rest is not None
    assert np.array_equal(np.concatenate((first, rest)), rows)
    assert first.base is rest.base is not None
    assert made.take(records.packed(rows[:1])) is None, "the map has grown since its size was told"
