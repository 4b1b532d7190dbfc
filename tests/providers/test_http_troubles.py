"""The real SDKs when a provider refuses, breaks off or stays silent: what is repeated, how often, and when."""

from __future__ import annotations

import asyncio
import email.utils

import numpy as np
import pytest

from svr_retrievers.embedding import RetryPolicy
from svr_retrievers.errors import EmbeddingFailed
from tests.providers.conftest import Handler, Stage, raw, reset, truncated

pytestmark = [
    pytest.mark.providers,
    # Voyage AI's SDK logs a broken answer by a method of logging that is going away.
    pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning"),
]
TEXTS = ["one", "two", "three"]
THREE = RetryPolicy(attempts=3, base_seconds=1.0)


def failed(stage: Stage, retry: RetryPolicy = THREE, **options) -> EmbeddingFailed:
    """How embedding three texts fails."""
    with pytest.raises(EmbeddingFailed) as caught:
        stage.embedder(retry=retry, **options).embed_documents(TEXTS)
    return caught.value


# Refusals


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
def test_passing_troubles_are_asked_again_exactly_so_often(stage: Stage, status: int) -> None:
    stage.always = stage.refuse(status)
    error = failed(stage)

    assert len(stage.asked) == 3
    assert (error.status, error.attempts, error.provider) == (status, 3, stage.provider.title)
    assert error.reason == {408: "timeout", 429: "limited"}.get(status, "unavailable")
    assert error.texts == (0, 1, 2)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_repeating_cannot_mend_is_asked_once(stage: Stage, status: int) -> None:
    stage.always = stage.refuse(status, "not like this")
    error = failed(stage)

    assert len(stage.asked) == 1
    assert (error.status, error.attempts) == (status, 1)
    assert error.reason == ("key" if status in {401, 403} else "request")
    assert "not like this" in str(error)


def test_one_attempt_is_one_request(stage: Stage) -> None:
    stage.always = stage.refuse(503)

    assert failed(stage, RetryPolicy(attempts=1)).attempts == 1
    assert len(stage.asked) == 1
    assert stage.time.slept == []


def test_a_trouble_that_passes_is_never_seen(stage: Stage) -> None:
    stage.script = [stage.refuse(500), stage.refuse(429), stage.refuse(503), reset]
    made = stage.embedder(retry=RetryPolicy(attempts=5)).embed_documents(TEXTS)

    np.testing.assert_allclose(made, stage.vectors(TEXTS), rtol=1e-6)
    assert len(stage.asked) == 5


def test_a_wrong_key_says_which_variable_holds_it(stage: Stage) -> None:
    stage.always = stage.refuse(401, "invalid api key")
    error = failed(stage)

    assert stage.provider.variable in error.hint
    assert error.reason == "key"


# Waiting


def test_without_retry_after_the_wait_doubles_up_to_its_cap(stage: Stage) -> None:
    stage.always = stage.refuse(500)
    failed(stage, RetryPolicy(attempts=6, base_seconds=1.0, max_wait_seconds=5.0))

    assert stage.time.slept == [1, 2, 4, 5, 5]


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_in_seconds_is_waited_for(stage: Stage, status: int) -> None:
    stage.script = [stage.refuse(status, Retry_After="7")]
    before = stage.time.now
    stage.embedder(retry=THREE).embed_documents(TEXTS)

    assert stage.time.slept[0] == 7
    assert 7 <= stage.time.now - before < 8


def test_retry_after_as_a_date_is_waited_for(stage: Stage) -> None:
    stage.script = [
        stage.refuse(429, Retry_After=email.utils.formatdate(stage.time.wall() + 11, usegmt=True))
    ]
    stage.embedder(retry=THREE).embed_documents(TEXTS)

    assert stage.time.slept[0] == pytest.approx(11)


def test_an_absurd_retry_after_is_cut(stage: Stage) -> None:
    stage.script = [stage.refuse(429, Retry_After="86400")]
    stage.embedder(retry=RetryPolicy(retry_after_cap_seconds=13)).embed_documents(TEXTS)

    assert stage.time.slept[0] == 13


@pytest.mark.parametrize("value", ["soon", "-5", "nan", "inf", ""])
def test_an_unreadable_retry_after_is_as_none(stage: Stage, value: str) -> None:
    stage.script = [stage.refuse(429, Retry_After=value)]
    stage.embedder(retry=THREE).embed_documents(TEXTS)

    assert stage.time.slept[0] == 1.0


def test_no_repetition_begins_after_the_deadline(stage: Stage) -> None:
    stage.always = stage.refuse(429, Retry_After="30")
    error = failed(stage, RetryPolicy(attempts=10, deadline_seconds=70))

    assert len(stage.asked) == 3
    assert error.attempts == 3


# Broken answers


@pytest.mark.parametrize(
    "words",
    ["{not json", "[]", "{}", "null", '"text"', "", "<html>502</html>"],
    ids=["broken", "list", "empty", "null", "text", "nothing", "html"],
)
def test_an_answer_that_makes_no_sense_is_told_and_not_repeated(stage: Stage, words: str) -> None:
    stage.always = raw(words)
    error = failed(stage)

    assert error.reason == "answer"
    assert len(stage.asked) == 1


def test_too_few_vectors_make_no_sense(stage: Stage) -> None:
    def short(request) -> object:
        request.data  # noqa: B018  # read before it is answered
        return stage.provider.answer({**stage.asked[-1], stage.provider.inputs: ["one"]})

    from tests.providers.conftest import as_json

    stage.always = lambda request: as_json(short(request))

    assert failed(stage).reason == "answer"


def test_vectors_of_another_length_make_no_sense(stage: Stage) -> None:
    from tests.providers.conftest import as_json

    def longer(_: object) -> object:
        return as_json(stage.provider.answer({**stage.asked[-1], "dimensions": 9, "output_dimension": 9}))

    stage.always = longer
    error = failed(stage)

    assert error.reason == "answer"
    assert "9" in str(error)


@pytest.mark.parametrize("broken", [truncated, reset], ids=["truncated", "reset"])
def test_a_broken_connection_is_tried_again_exactly_so_often(stage: Stage, broken: Handler) -> None:
    stage.always = broken
    error = failed(stage)

    assert len(stage.asked) == 3
    assert (error.reason, error.attempts, error.status) == ("unavailable", 3, None)


def test_an_outage_is_told_after_the_last_attempt(stage: Stage) -> None:
    embedder = stage.provider.embedder("http://127.0.0.1:9", retry=THREE, timing=stage.time.timing)
    stage.made.append(embedder)
    with pytest.raises(EmbeddingFailed) as caught:
        embedder.embed_documents(TEXTS)

    assert (caught.value.reason, caught.value.attempts) == ("unavailable", 3)
    assert embedder.usage.requests == 3


def test_a_slow_answer_is_not_waited_for(stage: Stage) -> None:
    def stuck(request) -> object:
        stage.gate.wait(30)
        return stage.good(request)

    stage.always = stuck
    error = failed(stage, RetryPolicy(attempts=2, timeout_seconds=0.3))

    assert len(stage.asked) == 2
    assert (error.reason, error.attempts) == ("timeout", 2)


# Many at once


async def test_a_storm_of_refusals_is_weathered_by_all_tasks(stage: Stage) -> None:
    stage.script = [stage.refuse(429, Retry_After="2") for _ in range(20)]
    embedder = stage.embedder(retry=RetryPolicy(attempts=40, deadline_seconds=10_000), concurrency=10)
    made = await asyncio.gather(*(embedder.aembed_documents([f"text {n}"]) for n in range(30)))

    np.testing.assert_allclose(
        np.concatenate(made), stage.vectors([f"text {n}" for n in range(30)]), rtol=1e-6
    )
    assert len(stage.asked) == 50
    assert embedder.usage.retries == 20


async def test_in_an_outage_every_task_gets_its_error_after_its_own_attempts(stage: Stage) -> None:
    stage.always = stage.refuse(503)
    embedder = stage.embedder(retry=THREE, concurrency=5)
    tasks = (embedder.aembed_documents([f"text {n}"]) for n in range(10))
    errors = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(error) for error in errors] == [EmbeddingFailed] * 10
    assert len(stage.asked) == 30


async def test_the_rate_limit_counts_repetitions_too(stage: Stage) -> None:
    from svr_retrievers.embedding import Limits

    stage.script = [stage.refuse(500) for _ in range(5)]
    limits = Limits(requests_per_minute=60, timing=stage.time.timing)
    before = stage.time.now
    embedder = stage.embedder(retry=RetryPolicy(attempts=9, base_seconds=0), limits=limits, batch_size=1)
    await embedder.aembed_documents([f"text {n}" for n in range(6)])

    assert len(stage.asked) == 11
    assert stage.time.now - before >= 10 - 1e-3
