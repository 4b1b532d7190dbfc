"""What can be set from outside: keyword arguments, SVR_* variables, a TOML file, a preset, in this order."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from svr_retrievers.errors import ConfigError, InputError

Preset = Literal["minimal", "development", "production"]

_PRESETS: dict[Preset, dict[str, object]] = {
    "minimal": {"pool_max_connections": 2},
    "development": {"timeout_seconds": 120.0, "pool_max_connections": 4},
    "production": {"pool_min_connections": 4, "pool_max_connections": 20, "timeout_seconds": 10.0},
}


class Settings(BaseSettings):  # type: ignore[explicit-any]  # pydantic's own base
    """Every setting with its unit and default. `SVR_URL=...` in the environment sets `url`, and so on.

    A TOML file named by SVR_CONFIG_FILE, or passed to `Settings.load`, sets whatever the environment does not.
    """

    model_config = SettingsConfigDict(env_prefix="SVR_", extra="forbid", frozen=True)

    url: SecretStr | None = Field(
        default=None, description="postgresql://... or memory://; none means the embedded server."
    )
    control: SecretStr | None = Field(
        default=None,
        description="mongodb+srv://... to keep the control plane of vectors in PostgreSQL there; none: beside them.",
    )
    path: Path | None = Field(default=None, description="Data folder of the embedded server.")
    db_schema: str = Field(
        default="svr",
        min_length=1,
        max_length=63,
        pattern=r"^[^%\x00]+$",  # the driver reads % in an identifier as a placeholder
        description="PostgreSQL schema that holds all tables.",
    )
    connect_timeout_seconds: float = Field(
        default=10.0,
        gt=0,
        le=86_400,
        description="How long opening may take before it fails with the reason.",
    )
    connect_retry_seconds: float = Field(
        default=2.0,
        ge=0,
        le=86_400,
        description="How long opening asks again while the server refuses connections or is starting.",
    )
    timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        le=86_400,
        description="Deadline of a search that names none; a stuck query must end.",
    )
    pool_min_connections: int = Field(default=1, ge=0, description="Connections kept open while idle.")
    pool_max_connections: int = Field(
        default=10,
        ge=1,
        description="Most connections of one client (never fewer than one for threads and one beside); "
        "further calls wait their turn.",
    )
    fan_out_concurrency: int = Field(
        default=8, ge=1, description="Most partition groups that one search has in flight."
    )
    hnsw_max_scan_tuples: int = Field(
        default=20_000,
        ge=1,
        le=2**31 - 1,
        description="Rows a filtered graph scan may visit before it is finished exactly.",
    )
    build_memory_megabytes: int = Field(
        default=1024,
        ge=16,
        le=2**20,
        description="Most memory (maintenance_work_mem) of one index build, which takes what its rows need.",
    )
    build_connections: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Partitions indexed at once, best one a core of the server; none: this machine's cores, at most 4.",
    )

    def __getstate__(self) -> dict[object, object]:
        """Pickles carry no URLs: they may hold passwords."""
        state = super().__getstate__()
        return {**state, "__dict__": {**state["__dict__"], "url": None, "control": None}}

    @classmethod
    def load(
        cls, *, preset: Preset | None = None, file: str | Path | None = None, **given: object
    ) -> Settings:
        """Settings from all sources: `given` first, then the environment, the file, the preset, the defaults.

        Raises:
            ConfigError: for an unreadable file, an unknown key or a value out of range, naming each.
        """
        if preset is not None and preset not in _PRESETS:
            raise InputError(f"Unknown preset {preset!r}.", hint=f"There are {', '.join(_PRESETS)}.")
        named = file if file is not None else os.environ.get("SVR_CONFIG_FILE")
        base = (
            {**(_PRESETS[preset] if preset else {}), **(_read(Path(named)) if named else {})}
            if preset or named
            else {}
        )
        set_there = {name.upper() for name in os.environ}
        from_environment = {k for k in cls.model_fields if f"SVR_{k.upper()}" in set_there}
        merged = {k: v for k, v in base.items() if k not in from_environment}
        try:
            return cls(**{**merged, **{k: v for k, v in given.items() if v is not None}})  # type: ignore[arg-type]
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ConfigError(
                f"These settings cannot be used: {faults}.",
                hint=f"Known settings: {', '.join(cls.model_fields)}.",
            ) from None


def _read(file: Path) -> dict[str, object]:
    try:
        body = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The settings file {str(file)!r} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The settings file {str(file)!r} is not TOML: {error}.") from None
    inner = body.get("svr", body)
    if not isinstance(inner, dict):
        raise ConfigError(
            f"In the settings file {str(file)!r}, svr is no table.", hint="Write [svr] above the settings."
        )
    return dict(inner)


_SHOWN = {"host", "port", "dbname", "user", "sslmode", "gssencmode", "connect_timeout", "application_name"}
_ADDRESS = re.compile(r"[^:?]*(:\d*)?|\[[0-9A-Fa-f:.]+\](:\d*)?")


def redact(url: str) -> str:
    """The URL with its password replaced, for messages and reprs.

    Also for URLs that cannot be parsed, since those are the ones that errors show: whatever stands
    between the first colon and the last @ counts as a password.
    """
    scheme, mark, rest = url.partition("://")
    if not mark or "password=" in unquote(rest).lower():
        return f"{scheme if mark else 'postgresql'}://..."
    rest, question, query = rest.partition("?")
    if not {unquote(pair).partition("=")[0] for pair in query.split("&") if pair} <= _SHOWN:
        query = "..."
    rest += question + query
    user, at, host = rest.rpartition("@")
    if not at and not _ADDRESS.fullmatch(rest.partition("/")[0]):
        return f"{scheme}://..."
    name, colon, _ = user.partition(":")
    return f"{scheme}://{name}:***@{host}" if colon else f"{scheme}://{user}{at}{host}"
