"""Every setting of the service, and the only reader of the environment: RETORT_ plus the name in capitals.

Command-line flags of the same name win over the environment. A setting that is empty is one that is not set. A RETORT_
name that is no setting is refused. Only __main__ and app see a Settings object.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import StartError
from service.setting_name import PREFIX, find_addresses, find_mistakes, is_of_kubernetes

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Settings(BaseSettings):
    """The settings, with their defaults and bounds."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    bundle: Path | None = Field(None, description="the bundle directory to serve")
    index: Literal["auto", "exact", "approximate"] = Field(
        "auto", description="exact up to a table of 5 MiB, else approximate, of measured recall"
    )
    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback it needs keys")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one and logs it")
    redis_url: SecretStr | None = Field(
        None,
        description="your own server, redis://, rediss://, unix://, redis+sentinel://host,host/name or "
        "redis+cluster://host,host; unset starts the embedded one",
    )
    data_dir: Path = Field(
        Path("~/.local/share/retort"),
        description="the embedded server's file, fetched bundles, a large catalogue's codes",
    )
    namespace: str = Field("retort", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="prefix of every key")
    api_keys: SecretStr = Field(
        SecretStr(""), description="comma-separated keys, any of which opens the API; empty: no keys, loopback only"
    )
    admin_key: SecretStr = Field(SecretStr(""), description="opens the API and the model routes")
    allow_anonymous: bool = Field(False, description="1: listen beyond loopback without keys")
    budget_ms: int = Field(50, ge=1, le=1000, description="budget of a request that names none, from its arrival")
    store_share: float = Field(0.4, gt=0, lt=1, description="share of the budget that the store may use")
    store_connections: int = Field(
        32, ge=1, le=1024, description="store connections, reads and other calls in flight, each at most"
    )
    max_in_flight: int = Field(
        256,
        ge=1,
        le=65536,
        description="answers in flight at most, else 503; fewer while they take a quarter of the budget",
    )
    rate_per_s: float = Field(
        0, ge=0, le=1e6, description="requests a second of one caller (key, else address), else 429; 0: no limit"
    )
    history_events: int = Field(500, ge=1, le=10_000, description="events kept per user, the newest")
    history_ttl_days: float = Field(
        180, gt=0, le=3650, description="a history without a new event for so long is dropped"
    )
    embedding_ttl_hours: float = Field(24, gt=0, le=8760, description="life of a cached user embedding")
    event_stream_max: int = Field(
        1_000_000, ge=1, le=1_000_000_000, description="accepted events kept for export, about"
    )
    memory_users: int = Field(
        10_000, ge=0, le=10_000_000, description="users a worker remembers for when the store fails"
    )
    drain_s: float = Field(0.5, ge=0, le=300, description="after SIGTERM: seconds of serving while /readyz says 503")
    shutdown_s: int = Field(5, ge=1, le=300, description="after draining: seconds that requests in flight may take")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe line logged")
    log_requests: bool = Field(True, description="0: no line per request")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_is_not_said(cls, given: dict[str, Any]) -> dict[str, Any]:
        """An empty text says nothing, and neither does the address of a Kubernetes Service named as a setting is."""
        return {
            name: value
            for name, value in given.items()
            if not isinstance(value, str) or (value.strip() and not is_of_kubernetes(_full_name(name), value))
        }

    @field_validator("data_dir", "bundle")
    @classmethod
    def _expand_home(cls, path: Path | None) -> Path | None:
        try:
            return path.expanduser() if path is not None else None
        except RuntimeError:
            raise ValueError(f"{path}: this user has no home directory: set it to a directory of yours") from None

    @field_validator("api_keys", "admin_key")
    @classmethod
    def _fit_a_header(cls, keys: SecretStr) -> SecretStr:
        text = keys.get_secret_value()
        if not (text.isascii() and text.isprintable()):
            raise ValueError("keys travel in a header: use ASCII letters, digits and signs")
        return keys

    @property
    def keys(self) -> tuple[str, ...]:
        """The API keys, without the admin key."""
        return tuple(key.strip() for key in self.api_keys.get_secret_value().split(",") if key.strip())

    @property
    def is_exposed_without_keys(self) -> bool:
        """Whether it would listen beyond loopback with nothing to ask callers for."""
        return self.host not in LOOPBACK and not self.keys and not self.allow_anonymous


def read_settings(**flags: object) -> Settings:
    """Read the environment, with the flags that are neither None nor empty in front.

    Raises StartError naming each bad setting, and for a name that is no setting the nearest that is one.
    """
    known = [_full_name(name) for name in Settings.model_fields]
    if mistakes := find_mistakes(os.environ, known):
        named = "; ".join(f"{name} (the nearest is {nearest})" for name, nearest in mistakes.items())
        raise StartError(f"no such setting: {named}; unset it, or correct its name")
    given = {name: value for name, value in flags.items() if value not in (None, "")}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as exc:
        # The value itself stays out of the message: it may be a key.
        wrong = "; ".join(f"{_full_name('_'.join(map(str, e['loc'])))}: {e['msg']}" for e in exc.errors())
        raise StartError(f"bad setting: {wrong}") from None


def ignored_names() -> list[str]:
    """Return the RETORT_ names of the environment that are the addresses of Kubernetes Services, and no settings."""
    return find_addresses(os.environ)


def environment_of(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a child process reads exactly these settings, wherever they came from."""
    others = {name: value for name, value in environment.items() if not name.upper().startswith(PREFIX)}
    return others | {_full_name(name): _as_text(value) for name, value in settings if value is not None}


def _full_name(field: str) -> str:
    return PREFIX + field.upper()


def _as_text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value) if isinstance(value, str | Path) else json.dumps(value)
