"""A password in a URL is shown nowhere, whatever form it has."""

from __future__ import annotations

import logging
import traceback

import pytest

from svr_retrievers import Settings, SVRClient, SVRError
from svr_retrievers.settings import redact

SECRET = "hunter2hunter2"
URLS = (
    f"postgresql://user:{SECRET}@localhost:1/db",
    f"postgres://user:{SECRET}@localhost:1/db?sslmode=disable",
    f"postgresql://user@localhost:1/db?password={SECRET}",
    f"postgresql://user@localhost:1/db?PASSWORD={SECRET}",
    f"postgresql:///db?host=localhost&port=1&user=u&password={SECRET}",
    f"postgresql://user:a@{SECRET}@localhost:1/db",
    f"postgresql://user:a:{SECRET}@localhost:1/db",
    f"postgresql://user:a/{SECRET}@localhost:1/db",
    f"postgresql://user:a?{SECRET}@localhost:1/db",
    f"postgresql://user:a#{SECRET}@localhost:1/db",
    f"postgresql://user:{SECRET}%zz@localhost:1/db",
    f"postgresql://user@localhost:1/db?sslpassword={SECRET}",
    f"postgresql://user:{SECRET}@[::1/db",
    f"mysql://user:{SECRET}@localhost/db",
    f"memory://user:{SECRET}@nowhere",
)


@pytest.mark.parametrize("url", URLS)
def test_redacting_hides_it(url: str) -> None:
    assert SECRET not in redact(url)


@pytest.mark.parametrize("url", URLS)
def test_no_message_log_or_repr_holds_it(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told = ""
    try:
        with SVRClient(url, settings=Settings(connect_timeout_seconds=2)) as client:
            told = f"{client!r} {client.url} {client.aio!r}"
    except SVRError as error:
        told = f"{error!r} {error} " + "".join(traceback.format_exception(error))
    assert told
    assert SECRET not in told
    assert SECRET not in caplog.text


def test_settings_hide_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVR_URL", f"postgresql://user:{SECRET}@localhost/db")
    settings = Settings.load()
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


def test_a_wrong_setting_beside_it_does_not_show_it() -> None:
    with pytest.raises(SVRError) as caught:
        Settings.load(url=f"postgresql://user:{SECRET}@localhost/db", pool_max_connections="many")
    assert SECRET not in "".join(traceback.format_exception(caught.value))
