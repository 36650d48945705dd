"""Every setting of the service, read from the environment: the variable is RETORT_ and the name in capitals.

A command-line flag of the same name takes precedence. A setting that is empty is one that is not set. A RETORT_ name
that is no setting is refused. Only app and the modules of command see a Settings object; everything else is given
values.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.access.caller import Network, parse_networks
from service.access.key import LEAST_KEY, Key, parse_key
from service.errors import StartError
from service.release.signature import parse_public_keys
from service.setting_name import PREFIX, find_addresses, find_mistakes, is_of_kubernetes
from service.tracing.tracer import check_endpoint

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
"""Hosts that only this machine can reach."""


class Settings(BaseSettings):
    """The settings, each with its default, its bounds and what it means."""

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
    allowed_hosts: str = Field(
        "", description="comma-separated names it answers to where there are no keys, beside localhost; `*` for any"
    )
    trusted_proxies: str = Field(
        "", description="comma-separated addresses or networks whose `X-Forwarded-For` names the caller"
    )
    admin_key: SecretStr = Field(SecretStr(""), description="opens the API and the model routes")
    allow_anonymous: bool = Field(False, description="1: listen beyond loopback without keys")
    trusted_keys: str = Field(
        "", description="public keys of keygen, joined by commas: what is published must be signed with one of them"
    )
    require_signature: bool | None = Field(
        None, description="1: only signed versions are followed; unset: as soon as there are trusted keys"
    )
    signing_key: Path | None = Field(None, description="file of the private key with which publish signs")
    scenarios: Path | None = Field(
        None, description="file of scenarios, JSON or TOML; one of the store wins over one of the same name"
    )
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
    max_connections: int = Field(
        0, ge=0, le=1_000_000, description="open connections at most, idle ones give way; 0: 4096, or what files allow"
    )
    keep_alive_s: int = Field(75, ge=1, le=3600, description="seconds that a connection may be idle")
    root_path: str = Field("", pattern=r"^(/[^/?#%\s]+)*$", description="prefix of every path, as a proxy keeps it")
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
    live_items: int = Field(
        100_000, ge=0, le=10_000_000, description="live items kept in the store, and by every worker, at most"
    )
    explore: float = Field(
        0, ge=0, le=1, description="share of lists in which one place goes to a new item; see Exploration; 0: none"
    )
    replay_share: float = Field(
        0, ge=0, le=1, description="share of the answers that are kept to be made again; see Replay; 0: none"
    )
    replay_hours: float = Field(24, gt=0, le=8760, description="how long they are kept")
    replay_mb: int = Field(64, ge=1, le=4096, description="MB of the store that they take at most, the oldest go first")
    compact_hours: float = Field(
        24, gt=0, le=8760, description="age at which the embedded server's file is rewritten without what was erased"
    )
    conversions: str = Field(
        "",
        description="comma-separated types of events that an experiment counts, set as publish begins it; "
        "empty: those that enter histories",
    )
    experiment_errors: float = Field(
        0.01, ge=0, le=1, description="an experiment ends by itself where so much more of its answers fail, as a share"
    )
    experiment_late: float = Field(0.05, ge=0, le=1, description="the same of answers past their budget")
    experiment_loss: float = Field(
        0.0, ge=0, le=1, description="and where its users surely convert less, by more than so much; 1: never"
    )
    memory_s: float = Field(
        10, gt=0, le=3600, description="how long a worker that hears of no erasures answers from memory"
    )
    drain_s: float = Field(0.5, ge=0, le=300, description="after SIGTERM: seconds of serving while /readyz says 503")
    shutdown_s: int = Field(5, ge=1, le=300, description="after draining: seconds that requests in flight may take")
    otlp_endpoint: str = Field(
        "", description="an OpenTelemetry collector, OTLP over HTTP: http://host:4318; unset: nothing is recorded"
    )
    trace_share: float = Field(
        0.01, ge=0, le=1, description="share of the requests without a traceparent of their own that are recorded"
    )
    page: bool = Field(True, description="0: no page at /")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe line logged")
    log_requests: bool = Field(True, description="0: no line per request")
    log_users: Literal["alias", "id", "none"] = Field(
        "alias", description="how a line names the user: a keyed hash, the id itself, or not at all"
    )
    log_key: SecretStr = Field(
        SecretStr(""), description="key of the aliases, the same on all machines; unset: one made in the data directory"
    )

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_is_not_said(cls, given: dict[str, Any]) -> dict[str, Any]:
        """An empty text says nothing, and neither does the address of a Kubernetes Service named as a setting is."""
        return {
            name: value
            for name, value in given.items()
            if not isinstance(value, str) or (value.strip() and not is_of_kubernetes(_full_name(name), value))
        }

    @field_validator("trusted_keys")
    @classmethod
    def _are_public_keys(cls, text: str) -> str:
        parse_public_keys(text)
        return text

    @field_validator("require_signature")
    @classmethod
    def _can_be_met(cls, is_required: bool | None, info: ValidationInfo) -> bool | None:
        if is_required and not info.data.get("trusted_keys", "-"):
            raise ValueError("set RETORT_TRUSTED_KEYS too: without a key nothing could be followed")
        return is_required

    @field_validator("data_dir", "bundle", "signing_key", "scenarios")
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

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        parse_networks(text)
        return text

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_a_collector(cls, url: str) -> str:
        if url:
            check_endpoint(url)
        return url

    @property
    def hosts(self) -> list[str]:
        """The further names that it answers to where there are no keys."""
        return [name.strip() for name in self.allowed_hosts.split(",") if name.strip()]

    @property
    def proxies(self) -> list[Network]:
        """The networks of trusted proxies."""
        return parse_networks(self.trusted_proxies)

    @property
    def parsed_keys(self) -> list[Key]:
        """The API keys with their scopes, without the admin key."""
        return [parse_key(key) for key in self.keys]

    @property
    def has_short_keys(self) -> bool:
        """Whether a key is too short to be one, where more than this machine can try them."""
        secrets = [key.secret for key in self.parsed_keys]
        admin = self.admin_key.get_secret_value().encode()
        return self.host not in LOOPBACK and any(0 < len(each) < LEAST_KEY for each in [*secrets, admin])

    @property
    def keys(self) -> tuple[str, ...]:
        """The API keys, without the admin key."""
        return tuple(key.strip() for key in self.api_keys.get_secret_value().split(",") if key.strip())

    @property
    def conversion_types(self) -> frozenset[str]:
        """The types of events that an experiment counts as conversions; empty: those that enter histories."""
        return frozenset(name.strip() for name in self.conversions.split(",") if name.strip())

    @property
    def public_keys(self) -> tuple[bytes, ...]:
        """The trusted public keys, each 32 bytes."""
        return parse_public_keys(self.trusted_keys)

    @property
    def requires_signature(self) -> bool:
        """Whether a published version must be signed to be followed."""
        return bool(self.trusted_keys) if self.require_signature is None else self.require_signature

    @property
    def is_exposed_without_keys(self) -> bool:
        """Whether other machines could reach the service without a key, and allow_anonymous does not permit it."""
        return self.host not in LOOPBACK and not self.keys and not self.allow_anonymous


def read_settings(**flags: object) -> Settings:
    """Read the settings from the environment and from flags, of which those that are None or empty do not count.

    Raises StartError that names each bad setting, but not its value, and for a name that is no setting the nearest.
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
