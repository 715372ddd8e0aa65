"""Messages of a bus -> records: what a Kafka message or an entry of a Redis stream holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgpack
import orjson

from market_data_pipeline.adapters.serialization import FORMATS, Format, decoder
from market_data_pipeline.errors import ConfigError, RecordError
from market_data_pipeline.frame import Columns, to_rows
from market_data_pipeline.packing import check_lengths
from market_data_pipeline.records import KINDS, ROW_RECORDS
from market_data_pipeline.sources.rows import RowParser, iso_ns

Decode = Callable[[bytes], Any]
"""A message's bytes as a record, or as a mapping of its fields. What it raises makes the message a dead letter."""

_KIND_OF: dict[type[Any], str] = {**{cls: kind for kind, cls in ROW_RECORDS.items()}, **KINDS}


class MessageReader:
    """Makes items of ``kind`` (``trade``, ``quote``, ``bar``, or ``rows`` for whatever the messages hold).

    ``format``: ``json``, ``msgpack``, or a function. An object that says its ``kind`` (as :class:`KafkaTopic` writes it) is
    that record; of others ``columns``, ``time_unit`` and ``symbol`` say how their fields are meant (see :class:`Replay`).
    """

    def __init__(
        self,
        kind: str,
        format: Format | Decode,  # noqa: A002 - the name that users know
        columns: Mapping[str, str] | None,
        time_unit: str,
        symbol: str | None,
    ) -> None:
        if not callable(format) and format not in FORMATS:
            raise ConfigError(f"format: {format!r} is not allowed; one of: {', '.join(FORMATS)}, or a function")
        self.kind = kind
        self._parser = RowParser(kind, columns, time_unit, symbol)
        self._mapped = bool(columns) or time_unit != "ns" or symbol is not None
        self._decoder = None if callable(format) else decoder(format)
        self._decode = format if callable(format) else None
        self._json = format == "json"

    def read(self, messages: Sequence[bytes]) -> list[Any]:
        """An item, or a ``RecordError``, for each message."""
        if self._decoder is not None and not self._mapped and self.kind != "rows":
            quick = self._decoder.decode_all(messages)
            if isinstance(quick.items, Columns) and quick.items.kind == self.kind and not quick.refused:
                return to_rows(quick.items)
        return [self._item(message) for message in messages]

    def read_fields(self, fields: Mapping[str, Any]) -> Any:
        """An item, or a ``RecordError``, of fields that are text."""
        try:
            return self._parser.parse(fields)
        except RecordError as error:
            return error

    def _item(self, message: bytes) -> Any:
        try:
            return self._checked(self._loaded(message))
        except RecordError as error:
            return error
        except Exception as error:  # a user's function may raise anything
            if self._decode is None and not isinstance(error, ValueError | msgpack.UnpackException):
                raise
            return RecordError(f"{type(error).__name__}: {error}")

    def _loaded(self, message: bytes) -> Any:
        if self._decode is not None:
            return self._decode(message)
        assert self._decoder is not None
        if not self._mapped:
            return self._decoder.decode(message)
        return orjson.loads(message) if self._json else _unpacked(message)  # a kind it says does not name our fields

    def _checked(self, value: Any) -> Any:
        if self.kind == "rows":
            return value
        if isinstance(value, Mapping):
            return self._parser.parse(value)
        found = _KIND_OF.get(type(value))
        if found == self.kind:
            return value
        raise RecordError(f"a {found or type(value).__name__}, not a {self.kind}")


def _unpacked(message: bytes) -> Any:
    size = len(message)
    check_lengths(message, size)
    return msgpack.unpackb(message, strict_map_key=True, max_ext_len=0, max_str_len=size, max_array_len=size)


def moment_ns(value: str | int | datetime, name: str) -> int:
    """ISO text (UTC where it names no zone), a ``datetime`` or int ns, as ns. Raises ``ConfigError``."""
    if isinstance(value, int):
        return value
    try:
        return iso_ns(value.isoformat() if isinstance(value, datetime) else value)
    except (ValueError, TypeError):
        raise ConfigError(f"{name}: {value!r} is no time; write ISO text, ns since 1970, or a datetime") from None


def time_of(item: Any) -> int | None:
    """``ts_event`` of an item (``ts_open`` of a bar without), ``None`` where it has none."""
    value = item.get("ts_event") if isinstance(item, Mapping) else getattr(item, "ts_event", None)
    if value == 0:
        value = getattr(item, "ts_open", value)
    return value if type(value) is int else None
