"""What the sinks for Redis share: the server as a user names it, key templates, errors in one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import SecretStr

from market_data_pipeline.errors import ConfigError, RecordError, SinkError, StoreUnavailable
from market_data_pipeline.records import ROW_RECORDS
from market_data_pipeline.sinks.base import Sink, SinkContext
from market_data_pipeline.store.client import Client, check_output_server, connect, explained
from market_data_pipeline.store.url import Tls, address_of_argument

_TABLES = {"trade": "trades", "quote": "quotes", "bar": "bars", "window": "windows", "gap": "gaps", "feed": "events"}
TABLE_OF: dict[type[Any], str] = {cls: _TABLES[kind] for kind, cls in ROW_RECORDS.items()}
"""What ``{table}`` stands for, by record."""
_PLACES = ("table", "symbol", "venue")
_PLACE = re.compile(r"\{([^{}]*)\}")


class Template:
    """A key with places for an item's ``{table}``, ``{symbol}``, ``{venue}``. Raises ``ConfigError`` for other places."""

    def __init__(self, what: str, text: str) -> None:
        self.text = text
        self.places = tuple(dict.fromkeys(_PLACE.findall(text)))
        for place in self.places:
            if place not in _PLACES:
                allowed = ", ".join(f"{{{name}}}" for name in _PLACES)
                raise ConfigError(f"{what}: {text!r} has the place {{{place}}}; allowed: {allowed}")
        if not text:
            raise ConfigError(f"{what}: must not be empty")

    def of(self, item: Any) -> str:
        """The key for ``item``. Raises ``RecordError`` where it lacks a field."""
        if not self.places:
            return self.text
        return _PLACE.sub(lambda place: self._value(item, place[1]), self.text)

    def _value(self, item: Any, place: str) -> str:
        if place == "table":
            return TABLE_OF.get(type(item), "items")
        value = item.get(place) if isinstance(item, dict) else getattr(item, place, None)
        if value is None and place == "venue":
            return ""
        if not isinstance(value, str | int):
            raise RecordError(f"key {self.text!r}: the item has no {place}")
        return str(value)


class RedisSink(Sink):
    """A sink on a server that a user names."""

    accepts: ClassVar[Literal["any"]] = "any"

    def __init__(
        self,
        url: SecretStr | str,
        ca: Path | str | None = None,
        cert: Path | str | None = None,
        cert_key: Path | str | None = None,
    ) -> None:
        self.ca, self.cert, self.cert_key = (None if path is None else Path(path) for path in (ca, cert, cert_key))
        self.url = url if isinstance(url, SecretStr) else SecretStr(url)
        self._address = address_of_argument(url, Tls(self.ca, self.cert, self.cert_key))
        self._client: Client | None = None

    def config(self) -> dict[str, Any]:
        return {**super().config(), "url": str(self._address)}

    def check(self) -> None:
        with self._explained():
            check_output_server(self._address)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of the server inside come out as ``SinkError``: the task waits and tries again."""
        try:
            with explained(self._address):
                yield
        except StoreUnavailable as error:
            raise SinkError(str(error)) from error

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        self._ctx = ctx
        self._client = connect(self._address)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None
