"""Settings: environment ``MDP_*``, overridden by flags. One tree for worker, coordinator and ``mdp``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from market_data_pipeline.channels.base import Watermark
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.runtime.contract import Limits
from market_data_pipeline.store.url import Address, Tls, parse_address, with_credentials


class Settings(BaseSettings):
    """Every setting, its default and its bounds. Environment names are the upper-case field names behind ``MDP_``."""

    model_config = SettingsConfigDict(env_prefix="MDP_", extra="ignore", frozen=True)

    redis_url: SecretStr | None = Field(
        None, description="address of the server: redis://, rediss:// (TLS), unix://, redis+sentinel://"
    )
    redis_username: str | None = Field(None, description="user, where the address names none")
    redis_password: SecretStr | None = Field(None, description="password, where the address holds none")
    redis_ca: Path | None = Field(None, description="PEM file: authority trusted besides the system's (TLS)")
    redis_cert: Path | None = Field(None, description="PEM file: client certificate (TLS)")
    redis_key: Path | None = Field(None, description="PEM file: its key, not encrypted")
    sentinel_password: SecretStr | None = Field(None, description="password of the sentinels themselves")
    worker_name: str | None = Field(
        None, description="name of a worker, [a-z0-9.-] (a pod's name will do); default: host and process"
    )
    await_plan: bool = Field(
        False, description="wait while the job has another plan than this program, rather than exit"
    )
    job: str | None = Field(None, description="job name, [a-z0-9-]{1,40}; default: the name of the Dag")
    partitions: int = Field(8, ge=1, le=4096, description="P, the number of hash partitions; fixed for a job")
    channel_capacity: int = Field(64, ge=2, description="capacity of a stream, in frames")
    channel_bytes: int = Field(32 * 1024 * 1024, ge=1024, description="capacity of a stream, in bytes")
    high_watermark_pct: float = Field(0.75, gt=0, le=1, description="share of the capacity at which a producer pauses")
    low_watermark_pct: float = Field(0.25, ge=0, lt=1, description="share of the capacity at which it goes on")
    frame_items: int = Field(8192, ge=1, le=1_000_000, description="items in a frame, at most")
    frame_bytes: int = Field(256 * 1024, ge=1024, le=16 * 1024 * 1024, description="bytes of a frame, at most")
    commit_items: int = Field(
        65536,
        ge=1,
        description="items a source reads for one commit, at most; up to four times as many where they go to over"
        " 16 partitions",
    )
    commit_frames: int = Field(16, ge=1, le=1000, description="frames one commit appends to one stream, at most")
    linger_ms: float = Field(
        2.0,
        ge=0,
        le=10_000,
        description="a source commits at most this often, and at once when it was quiet before",
    )
    mark_interval_ms: float = Field(
        20.0, ge=0, le=10_000, description="how often frames with only a mark are sent, at most"
    )
    dead_letter_capacity: int = Field(100_000, ge=1, description="dead letters kept; when full, the job waits")
    lease_ttl_ms: int = Field(3000, ge=200, le=600_000, description="a worker is dead when its heartbeat is this old")
    min_workers: int = Field(1, ge=1, description="workers to wait for before partitions are first assigned")
    wait_replicas: int = Field(0, ge=0, le=10, description="replicas that must have a commit before it counts (WAIT)")
    http_host: str = Field("127.0.0.1", description="where /metrics, /healthz, /readyz and /api/status listen")
    http_port: int = Field(0, ge=0, le=65535, description="their port; 0 picks a free one")
    http_allowed_hosts: str = Field(
        "", description="names allowed in Host besides loopback and IP addresses, by commas"
    )
    allow_volatile: bool = Field(False, description="accept a server without an append-only file")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="how much is logged")

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
    """Settings from the environment and from the flags that are not ``None``. Raises ``ConfigError`` in one sentence."""
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        if not name:
            raise ConfigError(message) from None
        origin = f"--{name.replace('_', '-')}" if name in given else f"MDP_{name.upper()}"
        secret = Settings.model_fields[name].annotation == SecretStr | None
        raise ConfigError(f"{origin}: {'***' if secret else repr(first['input'])}: {message}") from None


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
