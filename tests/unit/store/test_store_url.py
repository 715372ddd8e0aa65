"""Addresses: what is understood, what is refused, and that nothing of a refused one is repeated."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import redis.exceptions
from hypothesis import given
from hypothesis import strategies as st
from tools.tls import make_files

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.store import connections
from market_data_pipeline.store.client import connect, connect_blocking, explain
from market_data_pipeline.store.url import Address, Tls, is_loopback, parse_address


@pytest.mark.parametrize(
    ("url", "hosts", "rest"),
    [
        ("redis://h", [("h", 6379)], {}),
        ("redis://h:1/2", [("h", 1)], {"db": 2}),
        ("redis://[::1]:7/", [("::1", 7)], {}),
        ("redis://[::1]", [("::1", 6379)], {}),
        ("redis://:s%40%2F%3A%25x@h", [("h", 6379)], {"password": "s@/:%x"}),
        ("redis://us%40er:a:b@h", [("h", 6379)], {"username": "us@er", "password": "a:b"}),
        ("redis://u:p@w@h", [("h", 6379)], {"username": "u", "password": "p@w"}),
        ("redis://u@h", [("h", 6379)], {"username": "u"}),
        ("REDISS://h:1", [("h", 1)], {"scheme": "rediss", "tls": Tls()}),
        ("unix:///run/s", [], {"path": "/run/s"}),
        ("unix://u:p@/run/a%20b?db=3", [], {"path": "/run/a b", "username": "u", "password": "p", "db": 3}),
        ("redis+sentinel://a,b:2/m", [("a", 26379), ("b", 2)], {"master": "m"}),
        ("redis+sentinel://u:p@a:1,[::1]:2/m/4", [("a", 1), ("::1", 2)], {"master": "m", "db": 4, "password": "p"}),
        ("rediss+sentinel://a/m", [("a", 26379)], {"master": "m", "tls": Tls()}),
    ],
)
def test_what_an_address_says(url: str, hosts: Any, rest: dict[str, Any]) -> None:
    address = parse_address(url)
    assert address.hosts == tuple(hosts)
    for name, value in rest.items():
        assert getattr(address, name) == value
    for name in {"username", "password", "tls"} - rest.keys() - ({"username"} if "password" in rest else set()):
        assert getattr(address, name) is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@h:1/0", "redis://:***@h:1/0"),
        ("rediss://user:p%40ss@h:1", "rediss://user:***@h:1/0"),
        ("redis://user@h:1", "redis://user@h:1/0"),
        ("redis://[::1]:1/0", "redis://[::1]:1/0"),
        ("unix://u:p@/run/s?db=1", "unix://u:***@/run/s?db=1"),
        ("redis+sentinel://u:p@a,b:2/m/1", "redis+sentinel://u:***@a:26379,b:2/m/1"),
    ],
)
def test_addresses_are_shown_without_their_password(url: str, shown: str) -> None:
    address = parse_address(url)
    assert str(address) == shown
    for secret in ("secret", "p%40ss", "p@ss", "u:p@"):
        assert secret not in f"{address!r} {address}"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("localhost:6379", "known scheme"),
        ("", "known scheme"),
        ("http://h", "known scheme"),
        ("redis+cluster://h:1", "names a cluster; a commit touches several slots"),
        ("rediss-cluster://h:1", "names a cluster"),
        ("redis_cluster://h:1", "names a cluster"),
        ("redis://", "host is missing"),
        ("redis://:canary:1", "host is missing"),
        ("redis://u:can/ary@h:1/0", "percent-encoded"),
        ("redis://u:can#ary@h:1/0", "percent-encoded"),
        ("redis://u:can?ary@h:1/0", "percent-encoded"),
        ("redis://u:can[ary@h:1/0", "cannot be taken apart"),
        ("redis://u:can]ary@h:1/0", "cannot be taken apart"),
        ("redis://u:canary@h:canary/0", "port is not a number"),
        ("redis://u:canary@h:0", "port is not a number"),
        ("redis://u:canary@h:65536", "port is not a number"),
        ("redis://u:canary@h:\u0661", "port is not a number"),
        ("redis://u:canary@h/canary", "database is not a number"),
        ("redis://u:canary@h?ssl_cert_reqs=none", "options are settings"),
        ("rediss://u:canary@h/0?ssl_check_hostname=false", "options are settings"),
        ("unix://u:canary@run/s", "socket's path"),
        ("unix:///run/s?timeout=1", "socket's path"),
        ("redis+sentinel://u:canary@a,b", "followed by /<master name>"),
        ("redis+sentinel://u:canary@a,,b/m", "host is missing"),
        ("redis+sentinel://u:canary@a/m/n", "database is not a number"),
    ],
)
def test_what_is_no_address_is_refused_and_not_repeated(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        parse_address(url)
    assert caught.value.exit_code == 2
    assert "canary" not in str(caught.value)
    assert "can" not in str(caught.value).replace("cannot", "")


@given(
    st.text(min_size=6, max_size=20),
    st.sampled_from(["redis", "rediss", "unix", "redis+sentinel", "http"]),
    st.sampled_from(
        ["{s}://u:{p}@h:1/0", "{s}://{p}@h", "{s}://h:{p}", "{s}://:{p}@/x", "{s}://h/{p}", "{s}://:{p}:1"]
    ),
)
def test_whatever_the_password_it_is_not_shown(password: str, scheme: str, form: str) -> None:
    marked = f"c\u0103nary{password}c\u0103nary"
    try:
        address = parse_address(form.format(s=scheme, p=marked))
    except ConfigError as error:
        shown = str(error)
    else:
        shown = f"{address} {address!r}" if marked in (address.password or "") else ""
    assert "c\u0103nary" not in shown


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST.")),
        *((host, False) for host in ("10.0.0.1", "0.0.0.0", "localhost.example", "h")),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_tls_files_without_tls_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"the address is redis://; write rediss://"):
        parse_address("redis://h", Tls(ca=Path("ca.pem")))


def test_a_sentinel_password_without_sentinels_is_refused() -> None:
    with pytest.raises(ConfigError, match="MDP_SENTINEL_PASSWORD is for sentinels"):
        parse_address("redis://h", None, "x")


def test_each_wrong_tls_file_is_named(tmp_path: Path) -> None:
    good, other = make_files(tmp_path, "good", "h"), make_files(tmp_path, "other", "h")
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    missing = tmp_path / "missing.pem"
    for tls, message in [
        (Tls(missing), r"^MDP_REDIS_CA: .*missing\.pem: No such file"),
        (Tls(junk), r"^MDP_REDIS_CA: .*junk\.pem: not certificates in PEM"),
        (Tls(good.ca, good.cert), "go together"),
        (Tls(good.ca, None, good.key), "go together"),
        (Tls(good.ca, missing, good.key), r"^MDP_REDIS_CERT: .*missing\.pem: No such file"),
        (Tls(good.ca, good.cert, missing), r"^MDP_REDIS_KEY: .*missing\.pem: No such file"),
        (Tls(good.ca, good.cert, other.key), r"not a certificate and its own, unencrypted key"),
        (Tls(good.ca, junk, good.key), r"not a certificate and its own, unencrypted key"),
    ]:
        with pytest.raises(ConfigError, match=message):
            parse_address("rediss://h", tls)
    assert parse_address("rediss://h", Tls(good.ca, good.cert, good.key)).tls == Tls(good.ca, good.cert, good.key)


async def test_plain_text_over_a_network_is_warned_about_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_warned", set())
    quiet = ["redis://127.0.0.1", "redis://[::1]", "redis://localhost", "unix:///s", "rediss://10.0.0.1"]
    quiet += ["redis+sentinel://127.0.0.1/m", "rediss+sentinel://10.0.0.1/m"]
    with caplog.at_level(logging.WARNING):
        for url in quiet:
            connect(url)
        assert caplog.messages == []
        for _ in range(2):
            connect("redis://u:canary@10.0.0.1")
            connect_blocking("redis+sentinel://10.0.0.2/m")
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("the connection to 10.0.0.1 is in plain text")


async def test_options_reach_every_kind_of_client() -> None:
    for url in ("redis://u:p@h:1/2", "rediss://u:p@h:1/2", "unix://u:p@/s?db=2", "redis+sentinel://u:p@h:1/m/2"):
        for client in (connect(url), connect_blocking(url)):
            given_ = client.connection_pool.connection_kwargs
            assert (given_["username"], given_["password"], given_["db"]) == ("u", "p", 2)
            assert ("ssl_check_hostname" in given_) == url.startswith("rediss")


def test_an_address_is_a_value() -> None:
    assert parse_address("redis://h") == Address("redis://h", "redis", (("h", 6379),))


@pytest.mark.parametrize(
    ("url", "text", "hint"),
    [
        ("redis://h", "Connection closed by server.", "does it want TLS"),
        ("redis://h", "(104, 'Connection reset by peer')", "does it want TLS"),
        ("redis://h", "Connection refused.", "refused)"),
        ("unix:///s", "Connection closed by server.", "closed by server)"),
        ("rediss://h", "Connection reset by peer", "does it want a client certificate (MDP_REDIS_CERT)?"),
        ("rediss://h", "Timeout connecting to server", "does it speak TLS at this port?"),
    ],
)
def test_a_server_that_ends_the_conversation_gets_a_guess(url: str, text: str, hint: str) -> None:
    assert hint in str(explain(url, redis.exceptions.ConnectionError(text)))
