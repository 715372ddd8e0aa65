"""What Kafka's source and sink share: how clients are set up, and what their errors mean. No client is made here.

The client is confluent-kafka (librdkafka). Its options go through as they are, but for those that the guarantees need.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from pydantic import SecretStr

from market_data_pipeline.errors import ConfigError

log = logging.getLogger(__name__)

Option = str | int | float | bool | SecretStr
Partition = tuple[str, int]
"""Topic and number."""

_SECRET = re.compile(r"password|secret|(^|\.)ssl\.key\.pem$|oauthbearer\.config|assertion\.private\.key")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")

_ITEM_FAULTS: Final = frozenset(
    {"MSG_SIZE_TOO_LARGE", "INVALID_MSG_SIZE", "INVALID_RECORD", "INVALID_TIMESTAMP", "INVALID_MSG"}
)
"""Refusals that are about one message: no later try can succeed. All others are about the place or the time."""
_SOURCE_FAULTS: Final = frozenset(
    {
        "UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION", "TOPIC_EXCEPTION", "TOPIC_AUTHORIZATION_FAILED",
        "CLUSTER_AUTHORIZATION_FAILED", "SASL_AUTHENTICATION_FAILED", "UNSUPPORTED_SASL_MECHANISM", "_FATAL",
    }
)  # fmt: skip
_AWAY: Final = frozenset({"_ALL_BROKERS_DOWN", "_TRANSPORT", "_RESOLVE", "_TIMED_OUT", "_SSL", "_AUTHENTICATION"})

LOST = "_AUTO_OFFSET_RESET"
"""The offset that is wanted is not there (any more)."""
CAUGHT_UP = "_PARTITION_EOF"


def checked_servers(servers: str | Sequence[str]) -> str:
    """``servers`` as the client wants them. Raises ``ConfigError`` for none."""
    given = servers.split(",") if isinstance(servers, str) else list(servers)
    names = [name.strip() for name in given if name.strip()]
    if not names:
        raise ConfigError(f"servers: {servers!r} names none; write host:port, or several of them")
    return ",".join(names)


def checked_topic(name: str) -> str:
    """``name`` itself. Raises ``ConfigError`` for what Kafka does not allow."""
    if not _TOPIC.fullmatch(name) or name in (".", ".."):
        raise ConfigError(f"topic: {name!r} is not allowed; up to 249 letters, digits, '.', '_' and '-'")
    return name


def checked_options(options: Mapping[str, Option] | None, taken: Collection[str]) -> dict[str, Option]:
    """``options`` with every secret hidden. Raises ``ConfigError`` for those in ``taken``, which are ours to set."""
    checked: dict[str, Option] = {}
    for name, value in (options or {}).items():
        if name in taken or name == "bootstrap.servers":
            raise ConfigError(f"options: {name!r} is set by the connector itself")
        if not isinstance(value, str | int | float | bool | SecretStr):
            raise ConfigError(f"options: {name!r}: text, a number, True or False is needed, not {type(value).__name__}")
        hidden = isinstance(value, str) and _SECRET.search(name) is not None
        checked[name] = SecretStr(str(value)) if hidden else value
    return checked


def client_settings(servers: str, options: Mapping[str, Option], own: Mapping[str, Any]) -> dict[str, Any]:
    """What a client is made with, secrets in plain text: never to be shown."""
    shown = {name: v.get_secret_value() if isinstance(v, SecretStr) else v for name, v in options.items()}
    return {"bootstrap.servers": servers, **shown, **own}


def is_item_fault(error: str) -> bool:
    """Whether the broker's refusal ``error`` (its name) will be the same for this message for ever."""
    return error in _ITEM_FAULTS


def is_source_fault(error: str) -> bool:
    """Whether reading cannot go on after ``error`` (its name): waiting does not help."""
    return error in _SOURCE_FAULTS


class Reach:
    """Says once that the servers are away, and once that they are back (to ``trouble`` also why, and ``""``); counts nothing,
    stops nothing."""

    def __init__(self, what: str, trouble: Callable[[str], None] | None = None) -> None:
        self._what, self._trouble = what, trouble
        self.why = ""
        """What the client said last while it could not go on; empty when all is well."""

    def failed(self, error: Any) -> None:
        """The client's ``error_cb``."""
        name, text = error.name(), error.str()
        if name not in _AWAY and not error.fatal():
            log.debug("%s: %s", self._what, text)
            return
        if not self.why:
            log.warning("%s: servers away (%s), trying again", self._what, text)
        self.why = text
        if self._trouble is not None:
            self._trouble(f"{self._what}: servers away ({text})")

    def heard(self) -> None:
        """Something came from a server."""
        if self.why:
            log.info("%s: servers are back", self._what)
            self.why = ""
            if self._trouble is not None:
                self._trouble("")


class ClientLog:
    """Takes librdkafka's own lines: what they tell comes as errors too, so they are for debugging."""

    def log(self, level: int, text: str, *arguments: Any) -> None:
        log.debug(text, *arguments)
