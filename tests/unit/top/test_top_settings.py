"""Settings: environment and flags, and errors that say which, what, and what is allowed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from tools.tls import make_files

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.launcher.services import child_environment
from market_data_pipeline.settings import limits_of, load_settings, server_address
from market_data_pipeline.store.url import Tls


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MDP_"):
            monkeypatch.delenv(name)


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.partitions, settings.channel_capacity, settings.frame_items) == (8, 64, 8192)
    assert settings.redis_url is None


def test_flags_win_over_the_environment_and_none_is_no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDP_PARTITIONS", "16")
    monkeypatch.setenv("MDP_JOB", "env-job")
    settings = load_settings(partitions=4, job=None)
    assert (settings.partitions, settings.job) == (4, "env-job")


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDP_REDIS_URL", "redis://:hunter2@host/0")
    settings = load_settings()
    assert "hunter2" not in f"{settings} {settings!r}"
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value().endswith("hunter2@host/0")


def test_the_address_with_all_that_belongs_to_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = make_files(tmp_path, "a", "h")
    for name, value in [("CA", files.ca), ("CERT", files.cert), ("KEY", files.key)]:
        monkeypatch.setenv(f"MDP_REDIS_{name}", str(value))
    monkeypatch.setenv("MDP_SENTINEL_PASSWORD", "hunter3")
    settings = load_settings(redis_url="rediss+sentinel://u:hunter2@h/m")
    address = server_address(settings)
    assert address.tls == Tls(files.ca, files.cert, files.key)
    assert (address.password, address.sentinel_password) == ("hunter2", "hunter3")
    assert "hunter" not in f"{settings!r} {settings} {address!r} {address}"


@pytest.mark.parametrize(
    "url", ["redis://h", "redis://h:1/2", "unix:///run/s?db=1", "redis+sentinel://a,b:2/m/1", "rediss://h:1"]
)
def test_user_and_password_may_stand_apart_from_the_address(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("MDP_REDIS_USERNAME", "us@er")
    monkeypatch.setenv("MDP_REDIS_PASSWORD", "hunter2:/@")
    settings = load_settings(redis_url=url)
    address = server_address(settings)
    assert (address.username, address.password, address.url) == ("us@er", "hunter2:/@", url)
    scheme, _, rest = url.partition("://")
    shown = server_address(load_settings(redis_url=f"{scheme}://us%40er:hunter2%3A%2F%40@{rest}", **NOBODY))
    assert str(address) == str(shown)
    assert "hunter2" not in f"{settings!r} {settings} {address!r} {address}"
    env = child_environment(settings, address, False, 1)
    assert (env["MDP_REDIS_URL"], env["MDP_REDIS_USERNAME"], env["MDP_REDIS_PASSWORD"]) == (url, "us@er", "hunter2:/@")


NOBODY: dict[str, Any] = {"redis_username": "", "redis_password": ""}


@pytest.mark.parametrize("given", ["user", ":hunter2", "user:hunter2"])
@pytest.mark.parametrize("setting", ["USERNAME", "PASSWORD"])
def test_both_places_at_once_are_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, given: str, setting: str
) -> None:
    monkeypatch.setenv(f"MDP_REDIS_{setting}", "hunter3")
    with pytest.raises(ConfigError, match="MDP_REDIS_USERNAME or MDP_REDIS_PASSWORD is set as well") as caught:
        server_address(load_settings(redis_url=f"redis://{given}@h:1"))
    assert "hunter" not in str(caught.value)


def test_a_password_alone_is_the_default_users_and_an_empty_one_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDP_REDIS_PASSWORD", "hunter2")
    assert str(server_address(load_settings(redis_url="redis://h:1"))) == "redis://:***@h:1/0"
    monkeypatch.setenv("MDP_REDIS_PASSWORD", "")
    monkeypatch.setenv("MDP_REDIS_USERNAME", "")
    assert str(server_address(load_settings(redis_url="redis://user:hunter2@h:1"))) == "redis://user:***@h:1/0"
    assert str(server_address(load_settings(redis_url="redis://h:1"))) == "redis://h:1/0"


def test_no_address_says_how_to_give_one() -> None:
    with pytest.raises(ConfigError, match="no server: give --redis-url or set MDP_REDIS_URL"):
        server_address(load_settings())


def test_children_get_every_secret_and_no_star(tmp_path: Path) -> None:
    files = make_files(tmp_path, "a", "h")
    url = "rediss+sentinel://u:hunter2@h/m"
    settings = load_settings(redis_url=url, redis_ca=str(files.ca), sentinel_password="hunter3")
    env = child_environment(settings, server_address(settings), False, 3)
    assert (env["MDP_REDIS_URL"], env["MDP_SENTINEL_PASSWORD"]) == (url, "hunter3")
    assert (env["MDP_REDIS_CA"], env["MDP_MIN_WORKERS"]) == (str(files.ca), "3")
    assert "MDP_REDIS_KEY" not in env
    assert not [name for name, value in env.items() if "*" in value]


def test_children_have_one_thread_for_linear_algebra_unless_the_user_says_how_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    settings = load_settings(redis_url="redis://127.0.0.1:1/0")
    env = child_environment(settings, server_address(settings), False, 2)
    assert [env[name] for name in names] == ["1", "1", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert not set(names) & set(child_environment(settings, server_address(settings), False, 2))


@pytest.mark.parametrize("name", ["redis_url", "redis_password", "sentinel_password"])
def test_a_secret_of_the_wrong_type_is_not_shown(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--{name.replace('_', '-')}: \*\*\*: ") as caught:
        load_settings(**{name: ["hunter2"]})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("partitions", 0, "must be at least 1"),
        ("partitions", 4097, "must be at most 4096"),
        ("http_port", 70000, "must be at most 65535"),
        ("lease_ttl_ms", 10, "must be at least 200"),
        ("log_level", "LOUD", "DEBUG|INFO|WARNING|ERROR"),
        ("frame_bytes", 3, "must be at least 1024"),
    ],
)
def test_a_wrong_value_names_the_flag_or_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: Any, allowed: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^--{name.replace('_', '-')}: {value!r}: .*{re.escape(allowed)}"):
        load_settings(**{name: value})
    monkeypatch.setenv(f"MDP_{name.upper()}", str(value))
    with pytest.raises(ConfigError, match=rf"^MDP_{name.upper()}: '{value}': .*{re.escape(allowed)}"):
        load_settings()


def test_text_for_a_number_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDP_PARTITIONS", "many")
    with pytest.raises(ConfigError, match=r"^MDP_PARTITIONS: 'many': must be a whole number"):
        load_settings()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"low_watermark_pct": 0.8}, "low_watermark_pct=0.8 must be below high_watermark_pct=0.75"),
        ({"channel_capacity": 31}, "channel_capacity=31 must be at least twice commit_frames=16"),
        ({"channel_bytes": 8388607}, "channel_bytes=8388607 .*8388608"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_settings(**arguments)
    assert caught.value.exit_code == 2


def test_limits_are_the_settings_in_the_tasks_units() -> None:
    limits = limits_of(
        load_settings(channel_capacity=200, high_watermark_pct=0.5, low_watermark_pct=0.1, linger_ms=2.0)
    )
    assert (limits.channel_capacity, limits.high, limits.low) == (200, 100, 20)
    assert limits.linger == pytest.approx(0.002)
    assert limits.commit_bytes == 16 * 256 * 1024
