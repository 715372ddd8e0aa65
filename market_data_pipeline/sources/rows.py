"""Text rows -> standard records, with a reason for every row that cannot be used."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from market_data_pipeline.decimals import decimal_text
from market_data_pipeline.errors import ConfigError, RecordError
from market_data_pipeline.records import COLUMN_TYPES, FLAG, FLOAT, INT, MAX_TIME, MIN_TIME, RECORDS, SAME_AS, USUAL

TIME_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
SIZES = frozenset({"size", "bid_size", "ask_size", "volume", "buy_volume", "sell_volume"})
"""Fields that are never negative; prices may be."""
_SIDES = {"buy": "buy", "b": "buy", "sell": "sell", "s": "sell", "": "", "unknown": ""}
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_FRACTION = re.compile(r"[.,](\d+)")
_TIME_DIGITS = 19
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RowParser:
    """Makes records of ``kind`` from mappings of text or JSON values.

    ``columns`` maps a record's field to the file's column where the names differ; ``symbol`` is the constant symbol of a
    file that has none; ``time_unit`` is ``ns``, ``us``, ``ms``, ``s`` or ``iso``. Kind ``rows`` passes mappings through.
    ``exact``: prices and sizes that are text stay the text that was sent, if it is a finite decimal number; an int becomes its
    digits, and a float, of which no text is known any more, stays one.
    """

    def __init__(
        self,
        kind: str,
        columns: Mapping[str, str] | None,
        time_unit: str,
        symbol: str | None,
        exact: bool = False,
    ) -> None:
        if kind != "rows" and kind not in RECORDS:
            raise ConfigError(f"kind: {kind!r} is not allowed; one of: {', '.join(RECORDS)}, rows")
        if time_unit != "iso" and time_unit not in TIME_UNITS:
            raise ConfigError(f"time_unit: {time_unit!r} is not allowed; one of: {', '.join(TIME_UNITS)}, iso")
        self.kind = kind
        self._unit = time_unit
        self._exact = exact
        self._constant = symbol
        fields: tuple[str, ...] = RECORDS[kind]._fields if kind in RECORDS else ()
        unknown = set(columns or {}) - set(fields)
        if unknown and kind != "rows":
            raise ConfigError(
                f"columns: {sorted(unknown)[0]!r} is no field of a {kind}; there are: {', '.join(fields)}"
            )
        self._plan = [(name, (columns or {}).get(name, name), self._converter(name)) for name in fields]
        self._optional = USUAL.get(kind, {})
        self._mapped = set(columns or {})

    def required(self) -> list[str]:
        """The columns that a file must have."""
        constant = {"symbol"} if self._constant is not None else set()
        return [
            column
            for name, column, _ in self._plan
            if name not in constant and (name in self._mapped or name not in self._optional) and not self._derived(name)
        ]

    def parse(self, row: Mapping[str, Any]) -> Any:
        """One record. Raises ``RecordError`` naming the field and the value."""
        if self.kind == "rows":
            return dict(row)
        values: dict[str, Any] = {}
        for name, column, convert in self._plan:
            if name == "symbol" and self._constant is not None:
                values[name] = self._constant
                continue
            raw = row.get(column)
            if raw is None or raw == "":
                if self._derived(name):
                    values[name] = values[SAME_AS[self.kind][name]]
                    continue
                if name in self._optional:
                    values[name] = self._optional[name]
                    continue
                raise RecordError(f"{column}: {'missing' if raw is None else 'empty'}")
            try:
                values[name] = convert(raw)
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                detail = f" ({error})" if isinstance(error, RecordError) else ""
                raise RecordError(f"{column}: {raw!r} is not {self._word(name)}{detail}") from error
        return RECORDS[self.kind](**values)

    def _derived(self, name: str) -> bool:
        return name in SAME_AS.get(self.kind, ())

    def _word(self, name: str) -> str:
        if name.startswith("ts_") and self._unit == "iso":
            return "an ISO 8601 time"
        return f"{_WORDS[COLUMN_TYPES[name]]}{' of at least 0' if name in SIZES else ''}"

    def _converter(self, name: str) -> Callable[[Any], Any]:
        if name.startswith("ts_"):
            return iso_ns if self._unit == "iso" else self._scaled_ns
        if name in SIZES:
            return _exact_size if self._exact else _finite_size
        by_type: dict[str, Callable[[Any], Any]] = {
            FLOAT: _exact if self._exact else _finite,
            INT: _integer,
            FLAG: _flag,
            "|i1": side_of,
            "any": _identifier,
            "dict": _symbol,
        }
        return by_type[COLUMN_TYPES[name]]

    def _scaled_ns(self, value: Any) -> int:
        scale = TIME_UNITS[self._unit]
        if isinstance(value, int) and not isinstance(value, bool):
            return _bounded(value * scale)
        try:
            number = Decimal(str(value))
            if number.adjusted() > _TIME_DIGITS:  # "1e999999" would take half a minute to become an int
                raise RecordError("outside 64 bits")
            return _bounded(int(number * scale))
        except ArithmeticError as error:  # also decimal's own overflow
            raise RecordError("not a number" if not _is_iso(value) else 'time_unit="iso" reads it') from error


_WORDS = {
    FLOAT: "a finite number", INT: "an integer", FLAG: "true or false", "|i1": "buy, sell or empty",
    "any": "an id", "dict": "a symbol",
}  # fmt: skip


def _bounded(number: int) -> int:
    if not MIN_TIME < number < MAX_TIME:
        raise RecordError("outside 64 bits")
    return number


def _integer(value: Any) -> int:
    if isinstance(value, bool | float) or "_" in str(value):
        raise RecordError("not an integer")
    return _bounded(int(value))


def _finite(value: Any) -> float:
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        raise RecordError("not a number")
    number = float(value)
    if not math.isfinite(number):
        raise RecordError("not finite")
    return number


def _exact(value: Any) -> float | str:
    """``value`` as it was sent: text, or a float that was never text here."""
    if isinstance(value, float):
        return _finite(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RecordError("not a number")
    return decimal_text(str(value))


def _finite_size(value: Any) -> float:
    number = _finite(value)
    if number < 0:
        raise ValueError
    return number


def _exact_size(value: Any) -> float | str:
    number = _exact(value)
    if Decimal(number) < 0:
        raise ValueError
    return number


def _is_iso(value: Any) -> bool:
    try:
        iso_ns(value)
    except (ValueError, TypeError, RecordError):
        return False
    return True


def _flag(value: Any) -> bool:
    return _FLAGS[str(value).lower()]


def side_of(value: Any) -> str:
    """``buy``, ``sell`` or ``""`` of what files call it. Raises ``KeyError``."""
    return _SIDES[str(value).lower()]


def _identifier(value: Any) -> int | str:
    if isinstance(value, bool | list | dict | float):
        raise RecordError("needs text or an integer")
    if isinstance(value, int) and not MIN_TIME < value < MAX_TIME:
        return str(value)
    return value if isinstance(value, int) else str(value)


def _symbol(value: Any) -> str:
    if not isinstance(value, str):
        raise RecordError("not text")
    return value


def iso_ns(value: Any) -> int:
    """ISO 8601 text, UTC where it names no zone, as ns. Raises ``ValueError``, ``TypeError``."""
    fraction = _FRACTION.search(value)  # datetime stops at microseconds
    moment = datetime.fromisoformat(_FRACTION.sub("", value, 1))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    delta = moment - _EPOCH
    nanos = int(fraction[1].ljust(9, "0")[:9]) if fraction else 0
    return _bounded((delta.days * 86400 + delta.seconds) * 1_000_000_000 + nanos)
