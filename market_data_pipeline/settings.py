"""Settings, one tree for worker, coordinator and ``mdp``. Each of these is stronger than the one before it: the defaults
below, the environment (``MDP_*``), the file of ``--config`` or ``MDP_CONFIG``, flags."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from market_data_pipeline.channels.base import Watermark
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.runtime.contract import Limits
from market_data_pipeline.runtime_settings import OrchestratorSettings
from market_data_pipeline.settings_file import SettingsFile, read_settings_file
from market_data_pipeline.settings_tree import DELIMITER, PREFIX, leaves, unknown, value_at
from market_data_pipeline.store.url import Address, Tls, parse_address, with_credentials
from market_data_pipeline.wrong_values import why

_LONGEST_SHOWN = 80
"""Characters of a wrong value that are repeated."""
DEFAULT, PROGRAM = "default", "the program"
"""Where settings come from that nobody gives, and that a program gives as arguments."""


class FileSource(InitSettingsSource):
    """What the file of settings says."""


class Settings(BaseSettings):
    """Every setting, its default and its bounds; :func:`load_settings` makes it. Environment names are the upper-case field
    names behind ``MDP_``, those of a group's settings ``MDP_GROUP__NAME``; an empty variable says nothing."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=DELIMITER, env_ignore_empty=True, extra="ignore", frozen=True
    )
    _origins: Mapping[str, str] = PrivateAttr(default_factory=dict)

    config: Path | None = Field(
        default=None, description="file of settings: YAML, JSON or TOML, with the names of this table"
    )

    redis_url: SecretStr | None = Field(
        default=None, description="address of the server: redis://, rediss:// (TLS), unix://, redis+sentinel://"
    )
    redis_username: str | None = Field(default=None, description="user, where the address names none")
    redis_password: SecretStr | None = Field(default=None, description="password, where the address holds none")
    redis_ca: Path | None = Field(default=None, description="PEM file: authority trusted besides the system's (TLS)")
    redis_cert: Path | None = Field(default=None, description="PEM file: client certificate (TLS)")
    redis_key: Path | None = Field(default=None, description="PEM file: its key, not encrypted")
    sentinel_password: SecretStr | None = Field(default=None, description="password of the sentinels themselves")
    worker_name: str | None = Field(
        default=None, description="name of a worker, [a-z0-9.-] (a pod's name will do); default: host and process"
    )
    await_plan: bool = Field(
        default=False, description="wait while the job has another plan than this program, rather than exit"
    )
    job: str | None = Field(default=None, description="job name, [a-z0-9-]{1,40}; default: the name of the Dag")
    partitions: int = Field(default=8, ge=1, le=4096, description="P, the number of hash partitions; fixed for a job")
    channel_capacity: int = Field(default=64, ge=2, description="capacity of a stream, in frames")
    channel_bytes: int = Field(default=32 * 1024 * 1024, ge=1024, description="capacity of a stream, in bytes")
    high_watermark_pct: float = Field(
        default=0.75, gt=0, le=1, description="share of the capacity at which a producer pauses"
    )
    low_watermark_pct: float = Field(default=0.25, ge=0, lt=1, description="share of the capacity at which it goes on")
    frame_items: int = Field(default=8192, ge=1, le=1_000_000, description="items in a frame, at most")
    frame_bytes: int = Field(default=256 * 1024, ge=1024, le=16 * 1024 * 1024, description="bytes of a frame, at most")
    commit_items: int = Field(
        default=65536,
        ge=1,
        description="items a source reads for one commit, at most; up to four times as many where they go to over"
        " 16 partitions",
    )
    commit_frames: int = Field(
        default=16, ge=1, le=1000, description="frames one commit appends to one stream, at most"
    )
    linger_ms: float = Field(
        default=2.0,
        ge=0,
        le=10_000,
        description="a source commits at most this often, and at once when it was quiet before",
    )
    mark_interval_ms: float = Field(
        default=20.0, ge=0, le=10_000, description="how often frames with only a mark are sent, at most"
    )
    dead_letter_capacity: int = Field(default=100_000, ge=1, description="dead letters kept; when full, the job waits")
    lease_ttl_ms: int = Field(
        default=3000, ge=200, le=600_000, description="a worker is dead when its heartbeat is this old"
    )
    min_workers: int = Field(default=1, ge=1, description="workers to wait for before partitions are first assigned")
    wait_replicas: int = Field(
        default=0, ge=0, le=10, description="replicas that must have a commit before it counts (WAIT)"
    )
    http_host: str = Field(default="127.0.0.1", description="where /metrics, /healthz, /readyz and /api/status listen")
    http_port: int = Field(default=0, ge=0, le=65535, description="their port; 0 picks a free one")
    http_allowed_hosts: str = Field(
        default="", description="names allowed in Host besides loopback and IP addresses, by commas"
    )
    allow_volatile: bool = Field(default=False, description="accept a server without an append-only file")
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="how much is logged")

    orchestrator: OrchestratorSettings = OrchestratorSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, the file, the environment: the strongest first."""
        file = init_settings().get("config")
        if isinstance(env_settings, EnvSettingsSource):  # other programs may have names of their own behind the prefix
            known = {leaf.variable.lower() for leaf in leaves(settings_cls)}
            env_settings.env_vars = {name: text for name, text in env_settings.env_vars.items() if name in known}
        if not isinstance(file, SettingsFile):
            return init_settings, env_settings
        return init_settings, FileSource(settings_cls, dict(file.values)), env_settings

    def origin(self, name: str) -> str:
        """Where the value of ``name`` (``"orchestrator.mode"``) comes from: ``default``, ``MDP_X``, ``file:line``, ``--x``,
        ``the program``."""
        return self._origins.get(name, DEFAULT)

    @field_validator("config", mode="before")
    @classmethod
    def _name_of_the_file(cls, value: Any) -> Any:
        return value.name if isinstance(value, SettingsFile) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.low_watermark_pct >= self.high_watermark_pct:
            raise ValueError(
                f"low_watermark_pct={self.low_watermark_pct} must be below high_watermark_pct={self.high_watermark_pct}"
            )
        if self.channel_capacity < 2 * self.commit_frames:
            raise ValueError(
                f"channel_capacity={self.channel_capacity} must be at least twice commit_frames={self.commit_frames},"
                " or a commit could wait for ever"
            )
        if self.channel_bytes < 2 * self.commit_frames * self.frame_bytes:
            raise ValueError(
                f"channel_bytes={self.channel_bytes} must be at least twice commit_frames x frame_bytes"
                f" = {2 * self.commit_frames * self.frame_bytes}"
            )
        return self


def load_settings(**flags: Any) -> Settings:
    """Settings from the environment, the file (``config``, else ``MDP_CONFIG``) and the flags that are not ``None``. Raises
    ``ConfigError``: which setting, its value (never a secret one), where that comes from, and what is allowed."""
    given = {name: value for name, value in flags.items() if value is not None}
    return _loaded(given, {name: f"--{name.replace('_', '-')}" for name in given})


def settings_with(given: Mapping[str, Any], base: Settings | None = None) -> Settings:
    """``base`` (``None``: as :func:`load_settings` has them) with what a program gives itself. Raises ``ConfigError``."""
    names = [name for name in Settings.model_fields if name != "config"] if base else []
    present = {name: getattr(base, name) for name in names}
    said = {name: base.origin(name) for name in names} if base else {}
    return _loaded(present | dict(given), said | dict.fromkeys(given, PROGRAM))


def _loaded(given: dict[str, Any], said: Mapping[str, str]) -> Settings:
    """Settings from the environment, the file and what is ``given``; ``said``: where each of these comes from."""
    environment = {name.upper(): text for name, text in os.environ.items() if text}
    path = given.get("config") or environment.get("MDP_CONFIG")
    file = None
    if path is not None:
        file = read_settings_file(str(path), "--config" if "config" in given else "MDP_CONFIG")
    origins = _origins(given, said, file, environment)
    wrong = _wrong_in(file) if file else {}
    problems = [f"{file.where(place)}: {'.'.join(place)}: {why}" for place, why in wrong.items()] if file else []
    try:
        settings = Settings(**(given if file is None else {**given, "config": file}))
    except ValidationError as error:
        told = [each for each in error.errors() if not any(each["loc"][: len(place)] == place for place in wrong)]
        problems += [_problem(each, origins) for each in told]
    if problems:
        raise ConfigError("; ".join(problems))
    settings._origins = origins
    return settings


def _wrong_in(file: SettingsFile) -> dict[tuple[str, ...], str]:
    """Names that are no settings, and ``true`` where a number is meant, which would be 1: the place of each, and why."""
    problems = list(unknown(Settings, file.values))
    if "config" in file.values:
        problems.append((("config",), "a file of settings names no other"))
    numbers = [leaf for leaf in leaves(Settings) if leaf.field.annotation in (int, float)]
    problems += [(leaf.path, "must be a number") for leaf in numbers if isinstance(file.at(leaf.path), bool)]
    return dict(problems)


def _origins(
    given: Mapping[str, Any], said: Mapping[str, str], file: SettingsFile | None, environment: Mapping[str, str]
) -> dict[str, str]:
    """Where each setting comes from that has not its default."""
    origins = {}
    for leaf in leaves(Settings):
        line = file.where(leaf.path) if file else None
        if _is_given(given, leaf.path):
            origins[leaf.name] = said[leaf.path[0]]
        elif line is not None:
            origins[leaf.name] = line
        elif leaf.variable in environment:
            origins[leaf.name] = leaf.variable
    return {name: origin for name, origin in origins.items() if origin != DEFAULT}


def _is_given(flags: Mapping[str, Any], path: Sequence[str]) -> bool:
    """Whether ``flags`` have a value for the leaf; a group is given as a mapping, or whole."""
    if path[0] not in flags:
        return False
    value = flags[path[0]]
    return len(path) == 1 or not isinstance(value, Mapping) or _is_given(value, path[1:])


def _problem(error: ErrorDetails, origins: Mapping[str, str]) -> str:
    """A mistake that pydantic found, in one sentence."""
    message = why(error)
    leaf = next((leaf for leaf in leaves(Settings) if error["loc"][: len(leaf.path)] == leaf.path), None)
    if leaf is None:  # settings that do not fit together
        return message + _named(message, ".".join(map(str, error["loc"])), origins)
    origin = origins.get(leaf.name, leaf.variable)
    if error["type"] == "string_type" and isinstance(error["input"], int | float):
        message += "; write it in quotes"
    setting = f"{leaf.name}: " if ":" in origin or origin == PROGRAM else ""
    shown = "***" if leaf.secret else repr(error["input"])
    if len(shown) > _LONGEST_SHOWN:
        shown = f"{shown[:_LONGEST_SHOWN]}..."
    return f"{origin}: {setting}{shown}: {message}"


def _named(message: str, group: str, origins: Mapping[str, str]) -> str:
    """Where the settings that ``message`` names come from, in brackets; nothing where all are the defaults."""
    names = [f"{group}.{name}" if group else name for name in re.findall(r"\b[a-z_]+\b", message)]
    found = [f"{name}: {origins[name]}" for name in dict.fromkeys(names) if name in origins]
    return f" ({', '.join(found)})" if found else ""


def as_environment(settings: Settings) -> dict[str, str]:
    """The effective values as variables, for a child process that inherits this one's environment and is given no file: what
    stands in the environment otherwise, and is not meant, is made empty."""
    effective = {leaf.variable: value_at(settings, leaf.path) for leaf in leaves(Settings) if leaf.path != ("config",)}
    variables = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in effective.items()
        if value is not None
    }
    ours = {"MDP_CONFIG", *effective}
    inherited = {name: variables.get(name.upper(), "") for name in os.environ if name.upper() in ours}
    return variables | inherited


def server_address(settings: Settings) -> Address:
    """The server's address with all that belongs to it. Raises ``ConfigError`` where there is none, or a wrong one."""
    tls = Tls(settings.redis_ca, settings.redis_cert, settings.redis_key)
    sentinel = settings.sentinel_password.get_secret_value() if settings.sentinel_password else None
    if settings.redis_url is None:
        raise ConfigError("no server: give --redis-url or set MDP_REDIS_URL")
    address = parse_address(settings.redis_url.get_secret_value(), tls, sentinel)
    password = settings.redis_password.get_secret_value() if settings.redis_password else None
    return with_credentials(address, settings.redis_username or None, password or None)


def allowed_hosts(settings: Settings) -> frozenset[str]:
    """``http_allowed_hosts``, one by one."""
    return frozenset(name.strip() for name in settings.http_allowed_hosts.split(",") if name.strip())


def limits_of(settings: Settings) -> Limits:
    """The sizes that tasks work with."""
    levels = Watermark.of(settings.channel_capacity, settings.high_watermark_pct, settings.low_watermark_pct)
    return Limits(
        frame_items=settings.frame_items,
        frame_bytes=settings.frame_bytes,
        commit_items=settings.commit_items,
        commit_frames=settings.commit_frames,
        channel_capacity=settings.channel_capacity,
        channel_bytes=settings.channel_bytes,
        high=levels.high,
        low=levels.low,
        linger=settings.linger_ms / 1000,
        mark_interval=settings.mark_interval_ms / 1000,
        dead_letter_capacity=settings.dead_letter_capacity,
        high_watermark_pct=settings.high_watermark_pct,
        low_watermark_pct=settings.low_watermark_pct,
    )
