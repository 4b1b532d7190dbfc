"""No key appears in a log, a repr, an error, a traceback or a pickle, whatever happens on the wire."""

from __future__ import annotations

import logging
import pickle
import traceback

import pytest
from pydantic import SecretStr

from svr_retrievers.embedding import OpenAIEmbedder, RetryPolicy
from svr_retrievers.errors import ConfigError, EmbeddingFailed, MissingExtra
from svr_retrievers.providers.keys import find_key, scrubbed
from tests.providers.conftest import KEY, Handler, Stage, raw, reset, truncated

pytestmark = [
    pytest.mark.providers,
    pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning"),
]
LOGGERS = (
    "openai",
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "voyage",
    "cohere",
    "aiohttp",
    "asyncio",
    "svr_retrievers",
)


def echo(stage: Stage, status: int) -> Handler:
    """A server that repeats the key in its refusal, in more than one form."""
    return stage.refuse(status, f"Incorrect API key provided: {KEY}. You sent Authorization: Bearer {KEY}")


HANDLERS = {
    "echo401": lambda stage: echo(stage, 401),
    "echo400": lambda stage: echo(stage, 400),
    "429": lambda stage: stage.refuse(429, "slow down", Retry_After="1"),
    "500": lambda stage: stage.refuse(500),
    "garbage": lambda _: raw("{not json"),
    "truncated": lambda _: truncated,
    "reset": lambda _: reset,
    "good": lambda stage: stage.good,
}


@pytest.mark.parametrize("what", HANDLERS)
def test_no_key_is_told(
    stage: Stage,
    what: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in LOGGERS:
        caplog.set_level(logging.DEBUG, logger=name)
    stage.always = HANDLERS[what](stage)
    embedder = stage.embedder(retry=RetryPolicy(attempts=2))
    told = [repr(embedder), str(embedder), repr(embedder.model.account), repr(vars(embedder))]
    try:
        embedder.embed_documents(["one"])
    except EmbeddingFailed as error:
        told += [str(error), repr(error), error.hint, repr(vars(error))]
        told += traceback.format_exception(error)
        told += [repr(pickle.dumps(error))]
        chain: BaseException | None = error
        while chain is not None:
            told.append(repr(vars(chain)) + repr(chain.args))
            chain = chain.__cause__ or chain.__context__
    else:
        assert what == "good"
    said = capsys.readouterr()
    told += [said.out, said.err, caplog.text, repr([vars(record) for record in caplog.records])]

    assert stage.headers[0]["Authorization"] == f"Bearer {KEY}"
    for text in told:
        assert KEY not in text


async def test_an_error_carries_no_exception_of_the_sdk(stage: Stage) -> None:
    """The SDKs' exceptions hold the request, and that the key: debuggers and trackers show such things."""
    stage.always = stage.refuse(401)
    with pytest.raises(EmbeddingFailed) as caught:
        await stage.embedder().aembed_query("one")

    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_pickled_error_still_says_what_happened(stage: Stage) -> None:
    stage.always = stage.refuse(401)
    with pytest.raises(EmbeddingFailed) as caught:
        stage.embedder().embed_documents(["a", "b"])
    again = pickle.loads(pickle.dumps(caught.value))

    assert (again.reason, again.status, again.texts, str(again)) == ("key", 401, (0, 1), str(caught.value))


def test_a_pickled_embedder_takes_its_key_from_where_it_arrives(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from svr_retrievers.embedding import Limits

    embedder = stage.provider.embedder(stage.server.url_for("").rstrip("/"), limits=Limits(), cache=False)
    embedder.embed_query("one")
    body = pickle.dumps(embedder)
    assert KEY.encode() not in body
    with pytest.raises(ConfigError, match="no API key"):
        pickle.loads(body)
    monkeypatch.setenv(stage.provider.variable, "sk-another-key")
    copy = pickle.loads(body)
    stage.made += [embedder, copy]

    assert copy.space == embedder.space
    copy.embed_query("two")
    assert stage.headers[-1]["Authorization"] == "Bearer sk-another-key"


def test_the_environment_holds_the_key(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(stage.provider.variable, "sk-of-the-environment")
    stage.embedder(api_key=None).embed_query("one")
    stage.embedder(api_key=SecretStr("sk-given")).embed_query("one")

    assert [one["Authorization"] for one in stage.headers] == [
        "Bearer sk-of-the-environment",
        "Bearer sk-given",
    ]


@pytest.mark.parametrize("given", [None, "", "  ", SecretStr("")])
def test_a_missing_key_is_told_with_its_variable(stage: Stage, given: str | SecretStr | None) -> None:
    with pytest.raises(ConfigError) as caught:
        stage.embedder(api_key=given)

    assert stage.provider.variable in caught.value.hint


@pytest.mark.parametrize("given", ["sk-with a space", "sk-with\nnewline", "sk-ünïcode", "sk-\x00"])
def test_a_key_that_can_be_none_is_refused_without_being_told(given: str) -> None:
    with pytest.raises(ConfigError, match="characters that no key has") as caught:
        find_key("Test", given, ("TEST_API_KEY",))

    assert given[3:] not in str(caught.value)


def test_a_line_break_behind_a_key_is_no_part_of_it() -> None:
    assert find_key("Test", " sk-abc\n", ()).get_secret_value() == "sk-abc"


def test_cohere_has_two_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CO_API_KEY", raising=False)
    monkeypatch.setenv("COHERE_API_KEY", "second")

    assert find_key("Cohere", None, ("CO_API_KEY", "COHERE_API_KEY")).get_secret_value() == "second"


def test_a_missing_sdk_is_told_with_its_extra(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    package = {"openai": "openai", "voyage": "voyageai", "cohere": "cohere"}[stage.provider.name]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra) as caught:
        stage.embedder()

    assert f"svr-retrievers[{stage.provider.name}]" in caught.value.hint


def test_scrubbing() -> None:
    assert scrubbed(f"key {KEY} and Bearer abc.def; basic QWxhZGRpbg==", SecretStr(KEY)) == (
        "key *** and Bearer ***; basic ***"
    )
    assert scrubbed("nothing", None) == "nothing"
    assert scrubbed("a b c", SecretStr("b")) == "a b c"


def test_a_traceback_with_locals_can_show_an_embedder_that_was_never_made() -> None:
    with pytest.raises(ConfigError) as raised:
        OpenAIEmbedder(api_key=SecretStr("two words"))
    error = raised.value
    assert error.__traceback__ is not None
    frames = error.__traceback__.tb_next  # without this test's own, whose source has the words
    told = "".join(traceback.TracebackException(type(error), error, frames, capture_locals=True).format())
    assert "OpenAIEmbedder(unfinished)" in told
    assert "two words" not in told
