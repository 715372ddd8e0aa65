"""Reads a ScaledObject's triggers as KEDA's scalers do: the same commands, on connections of its own.

go-redis (KEDA's client) says ``HELLO 3`` with the user, ``CLIENT SETINFO``, ``SELECT`` where the database is not 0, then KEDA
``PING``s once per connection and asks ``XLEN`` per look; redis-py with ``protocol=3`` sends the same.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import redis
import redis.exceptions
import redis.sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

from tools.hpa import NotSimulated
from tools.keda import STREAMS, ScaledObject, Trigger

log = logging.getLogger(__name__)

_SECONDS = 3.0
"""KEDA_HTTP_DEFAULT_TIMEOUT, and about what go-redis waits."""
Credentials = Mapping[str, str]
"""Parameters that a TriggerAuthentication hands to a trigger: username, password, tls, ca, ..."""


def credentials_of(authentication: Mapping[str, Any], secrets: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """``spec.secretTargetRef`` resolved. ``secrets``: name -> the object's ``data`` (base64) or ``stringData``, merged by
    :func:`plain_data`. Raises ``NotSimulated`` for another kind of reference, ``KeyError`` for a secret that is not there."""
    spec = authentication["spec"]
    if unknown := set(spec) - {"secretTargetRef"}:
        raise NotSimulated(f"TriggerAuthentication: {sorted(unknown)}")
    return {each["parameter"]: str(secrets[each["name"]][each["key"]]) for each in spec["secretTargetRef"]}


def plain_data(secret: Mapping[str, Any]) -> dict[str, str]:
    """What a Secret holds, as text."""
    data = {key: base64.b64decode(value).decode() for key, value in (secret.get("data") or {}).items()}
    return {**data, **(secret.get("stringData") or {})}


def picked(document: Any, path: str) -> float:
    """The number at ``valueLocation``: gjson's ``a.b.0``. Raises ``NotSimulated`` for the rest of gjson's syntax,
    ``ValueError`` where there is no number."""
    for part in _checked(path):
        try:
            document = document[int(part)] if isinstance(document, list) else document[part]
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError(f"valueLocation {path!r}: there is nothing") from None
    if isinstance(document, bool) or not isinstance(document, int | float | str):
        raise ValueError(f"valueLocation {path!r}: {document!r} is no number")
    return float(document)


def _checked(path: str) -> list[str]:
    if not re.fullmatch(r"\w+(\.\w+)*", path):
        raise NotSimulated(f"valueLocation {path!r}; simulated are names and indexes joined by dots")
    return path.split(".")


class Scalers:
    """All triggers of one ScaledObject. ``found``: ``host:port`` in the object -> where it is here (no cluster DNS)."""

    def __init__(
        self, spec: ScaledObject, credentials: Mapping[str, Credentials], found: Mapping[str, str] | None = None
    ) -> None:
        self._found = dict(found or {})
        self._clients: dict[tuple[Any, ...], redis.Redis] = {}
        self._readers: dict[str, Callable[[], float]] = {}
        for trigger in spec.triggers:
            given = credentials[trigger.auth] if trigger.auth else {}
            make = self._length if trigger.type in STREAMS else self._api
            self._readers[trigger.name] = make(trigger, given)

    def read(self) -> dict[str, float | None]:
        """Every trigger's value; ``None`` where it failed (logged)."""
        return {name: self._read(name, reader) for name, reader in self._readers.items()}

    def _read(self, name: str, reader: Callable[[], float]) -> float | None:
        try:
            return reader()
        except (redis.exceptions.RedisError, OSError, ValueError) as error:
            log.warning("trigger %s: %s: %s", name, type(error).__name__, error)
            return None

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def _length(self, trigger: Trigger, given: Credentials) -> Callable[[], float]:
        stream = trigger.metadata["stream"]

        def read() -> float:
            return float(self._client(trigger, given).xlen(stream))

        return read

    def _client(self, trigger: Trigger, given: Credentials) -> redis.Redis:
        """One connection for all triggers with one address and user, made when it is first needed."""
        data = trigger.metadata
        key = (
            trigger.type,
            trigger.auth,
            *(data.get(name) for name in ("address", "host", "port", "addresses", "databaseIndex")),
        )
        if key not in self._clients:
            client = self._connected(trigger, given)
            client.ping()
            self._clients[key] = client
        return self._clients[key]

    def _connected(self, trigger: Trigger, given: Credentials) -> redis.Redis:
        data = trigger.metadata
        options: dict[str, Any] = {
            "username": given.get("username") or None, "password": given.get("password") or None,
            "db": int(data.get("databaseIndex", 0)), "protocol": 3, "socket_timeout": _SECONDS,
            "retry": Retry(NoBackoff(), 1), **_tls(data, given),
        }  # fmt: skip
        if trigger.type == "redis-sentinel-streams":
            places = [self._place(place) for place in data["addresses"].split(",")]
            sentinel = {key: given.get(f"sentinel{key.capitalize()}") or None for key in ("username", "password")}
            asked = redis.sentinel.Sentinel(places, sentinel_kwargs={**options, **sentinel, "db": 0})
            return asked.master_for(data["sentinelMaster"], **options)
        address = data.get("address") or f"{data['host']}:{data['port']}"
        host, port = self._place(address)
        return redis.Redis(host=host, port=port, **options)

    def _place(self, address: str) -> tuple[str, int]:
        host, _, port = self._found.get(address.strip(), address.strip()).rpartition(":")
        return host, int(port)

    def _api(self, trigger: Trigger, given: Credentials) -> Callable[[], float]:
        if given or trigger.metadata.get("authMode"):
            raise NotSimulated("metrics-api with authentication")
        if trigger.metadata.get("format", "json") != "json":
            raise NotSimulated(f"metrics-api with format {trigger.metadata['format']!r}")
        match = re.fullmatch(r"http://([^/?]+)(.*)", trigger.metadata["url"])
        if match is None:
            raise NotSimulated(f"metrics-api with url {trigger.metadata['url']!r}")
        address = match[1] if ":" in match[1] else f"{match[1]}:80"
        url = f"http://{self._found.get(address, address)}{match[2]}"
        path = trigger.metadata["valueLocation"]
        _checked(path)

        def read() -> float:
            with urllib.request.urlopen(
                urllib.request.Request(url, headers={"Host": match[1]}), timeout=_SECONDS
            ) as reply:
                return picked(json.load(reply), path)

        return read


def _tls(data: Mapping[str, str], given: Credentials) -> dict[str, Any]:
    """``enableTLS: "true"`` in the metadata, or ``tls: enable`` with ``ca`` among the credentials."""
    if data.get("enableTLS", "false").lower() != "true" and given.get("tls") != "enable":
        return {}
    if given.get("cert"):
        raise NotSimulated("a client certificate")
    options = {"ssl": True, "ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    return options | ({"ssl_ca_data": given["ca"]} if given.get("ca") else {})
