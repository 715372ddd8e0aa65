"""Records of other packages <-> ours: by their fields, never by their types.

======================================================== =================================================================
theirs (attributes, or the keys of a mapping)            ours
======================================================== =================================================================
``symbol``, or ``instrument`` that is text or has one    ``symbol``
``ts_event``, ``ts``, ``timestamp``, ``time``            ``ts_event`` in ns: a datetime with a time zone; a whole number of
                                                         ns; a float of seconds. ``ts_ns`` is always ns
``ts_recv``, ``received_at``                             ``ts_recv``, 0 where there is none
``price``; ``size``, ``volume`` or ``quantity``          numbers, decimals and decimal texts as floats, always finite
``side``: an enum or text                                ``"buy"``, ``"sell"`` or ``""``
``trade_id``, ``id``; of quotes ``update_id``            as it is; other types than text and whole numbers as text
``bid``, ``ask`` (``bid_price``, ``ask_price``)          the same; sizes that are missing are 0
``open`` ... ``close``; ``ts_open``, ``ts_close`` or     a bar's window; without an end the ``resolution`` (``"1m"``) says it
a time and ``resolution`` or ``interval``
======================================================== =================================================================

What is missing or wrong is a ``RecordError`` that names field and object. A time is never guessed: one without a time zone, or
a number that may be seconds as well as milliseconds, is refused."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from market_data_pipeline.decimals import decimal_float
from market_data_pipeline.durations import duration_text, parse_duration
from market_data_pipeline.errors import ConfigError, RecordError
from market_data_pipeline.records import KINDS, MAX_TIME, MIN_TIME, SAME_AS, Bar, Quote, Record, Trade

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST_NS = 10**17
"""A smaller number of ns is before March 1973: rather one of other units."""
_SECONDS = (1e8, 1e11)
_TIMES = ("ts_event", "ts", "timestamp", "time")
_SIZES = ("size", "volume", "quantity")
_SIDES = {
    "buy": "buy", "b": "buy", "sell": "sell", "s": "sell", "": "", "unknown": "", "none": "", "undefined": "", "u": "", "n": "",
}  # fmt: skip


def record_of(found: Any) -> Record:
    """A trade, quote or bar: whichever ``found`` has the fields of. Our own records as they are. Raises ``RecordError``."""
    if type(found) in KINDS:
        return found  # type: ignore[no-any-return]
    if _has(found, "open") and _has(found, "close"):
        return bar_of(found)
    if _has(found, "bid") or _has(found, "bid_price") or _has(found, "ask") or _has(found, "ask_price"):
        return quote_of(found)
    if _has(found, "price"):
        return trade_of(found)
    raise _wrong("record", found, "it has no price, no bid and ask, and no open and close")


def trade_of(found: Any) -> Trade:
    """``found`` as a trade. Raises ``RecordError``."""
    if type(found) is Trade:
        return found
    return Trade(
        _symbol(found),
        _time(found, _TIMES),
        _received(found),
        _number(found, "price"),
        _number(found, *_SIZES),
        _side(found),
        _id(found, "trade_id", "id"),
        _conditions(found),
        venue=_venue(found),
    )


def quote_of(found: Any) -> Quote:
    """``found`` as a quote; sizes that are missing are 0.0. Raises ``RecordError``."""
    if type(found) is Quote:
        return found
    return Quote(
        _symbol(found),
        _time(found, _TIMES),
        _received(found),
        _number(found, "bid", "bid_price"),
        _number(found, "bid_size", default=0.0),
        _number(found, "ask", "ask_price"),
        _number(found, "ask_size", default=0.0),
        _id(found, "update_id"),
        _venue(found),
    )


def bar_of(found: Any) -> Bar:
    """``found`` as a bar; the time is its start. Raises ``RecordError``."""
    if type(found) is Bar:
        return found
    begin = _time(found, ("ts_open", *_TIMES))
    end = _time(found, ("ts_close", "end"), default=-1)
    if end == -1:
        end = begin + _length(found)
    if not begin < end <= MAX_TIME:
        raise _wrong("ts_close", found, f"{end} is not behind ts_open {begin}")
    first, high, low, last = (_number(found, name) for name in ("open", "high", "low", "close"))
    vwap = _number(found, SAME_AS["bar"]["vwap"] if _value(found, "vwap") is None else "vwap")
    count = _value(found, "trade_count")
    if count is not None and (type(count) is not int or count < 0):
        raise _wrong("trade_count", found, f"{count!r:.100} is no count")
    volume = _number(found, "volume", default=0.0)
    return Bar(_symbol(found), begin, end, first, high, low, last, volume, vwap, count or 0, begin)


def as_fields(record: Record) -> dict[str, Any]:
    """``record`` for another package: its fields, and beside them the usual other names. ``ts`` and ``timestamp``: the time as
    a datetime in UTC (of a bar: its start; what is below a microsecond only ``ts_ns`` has); ``volume`` of a trade; ``id``; of
    a bar ``resolution`` (a text such as ``"1m"``). Raises ``RecordError`` for what is no record."""
    if type(record) not in KINDS:
        raise _wrong("record", record, "only Trade, Quote and Bar can be handed on")
    fields: dict[str, Any] = record._asdict()
    at = record.ts_open if isinstance(record, Bar) else record.ts_event
    fields |= {"ts_ns": at, "ts": _datetime(at, record), "timestamp": _datetime(at, record)}
    if isinstance(record, Trade):
        fields |= {"volume": record.size, "quantity": record.size, "id": record.trade_id}
    if isinstance(record, Quote):
        fields |= {"bid_price": record.bid, "ask_price": record.ask}
    if isinstance(record, Bar):
        fields["resolution"] = duration_text(record.ts_close - record.ts_open)
    return fields


def as_dto(record: Record, cls: Callable[..., Any]) -> Any:
    """``record`` as a ``cls`` of another package (a pydantic model, a dataclass, a NamedTuple, any function), which is given
    those of :func:`as_fields` that it has arguments for, by name. Raises ``RecordError`` where it wants others."""
    fields = as_fields(record)
    parameters = inspect.signature(cls).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        return cls(**fields)
    wanted = [one for one in parameters if one.kind is not inspect.Parameter.VAR_POSITIONAL]
    missing = [one.name for one in wanted if one.name not in fields and one.default is inspect.Parameter.empty]
    name = getattr(cls, "__qualname__", repr(cls))
    if missing:
        raise _wrong(missing[0], record, f"{name} wants it; there are: {', '.join(fields)}")
    try:
        return cls(**{one.name: fields[one.name] for one in wanted if one.name in fields})
    except Exception as error:  # a model's own validation
        raise RecordError(f"{name} refuses {record!r:.200}: {type(error).__name__}: {error}") from error


def _wrong(field: str, found: Any, why: str) -> RecordError:
    return RecordError(f"{field}: {why}, in {type(found).__qualname__} {found!r:.200}")


def _value(found: Any, *names: str) -> Any:
    """The first field of ``names`` that is there and not ``None``."""
    for name in names:
        try:
            value = found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)
        except Exception as error:  # a property of theirs
            raise _wrong(name, found, f"reading it raised {type(error).__name__}: {error}") from error
        if value is not None:
            return value
    return None


def _has(found: Any, name: str) -> bool:
    return _value(found, name) is not None


def symbol_of(instrument: Any) -> str | None:
    """The symbol of an instrument: itself, or its ``symbol``; ``None`` where it has none."""
    symbol = instrument if isinstance(instrument, str) else _value(instrument, "symbol")
    return symbol if isinstance(symbol, str) and symbol else None


def _symbol(found: Any) -> str:
    symbol = _value(found, "symbol", "instrument")
    if symbol is None:
        raise _wrong("symbol", found, "missing, and there is no instrument")
    named = symbol_of(symbol)
    if named is None:
        raise _wrong("symbol", found, f"{symbol!r:.100} is no text, and has no symbol")
    return str(named)


def _time(found: Any, names: tuple[str, ...], default: int | None = None) -> int:
    exact = _value(found, "ts_ns") if default is None else None
    if type(exact) is int and 0 < exact <= MAX_TIME:
        return exact
    for name in names:
        value = _value(found, name)
        if value is not None:
            try:
                return _nanoseconds(value)
            except (ValueError, TypeError, OverflowError) as error:
                raise _wrong(name, found, str(error)) from error
    if default is None:
        raise _wrong(names[0], found, f"missing; looked for: {', '.join(names)}, ts_ns")
    return default


def _nanoseconds(value: Any) -> int:
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError(f"{value!r:.100} has no time zone, so it may be any of many times; give it in UTC")
        at = (value - _EPOCH) // _MICROSECOND * 1000 + getattr(value, "nanosecond", 0)  # pandas has these
        if not MIN_TIME < at < MAX_TIME:
            raise ValueError(f"{value!r:.100} does not fit into 64 bits of nanoseconds")
        return at
    if hasattr(value, "__index__") and not isinstance(value, bool):
        number = operator.index(value)
        if _FIRST_NS <= number <= MAX_TIME:
            return number
        raise ValueError(f"{number} is too small or too large for nanoseconds, and the unit of a number is not guessed")
    if isinstance(value, float):
        if _SECONDS[0] <= value < _SECONDS[1]:
            return round(value * 1e6) * 1000
        raise ValueError(f"{value!r} are no seconds since 1970, and the unit of a number is not guessed")
    raise ValueError(f"{value!r:.100} is no time; a datetime with a time zone, ns as int or s as float")


def _received(found: Any) -> int:
    return _time(found, ("ts_recv", "received_at"), default=0) if _value(found, "ts_recv") != 0 else 0


def _datetime(at: int, record: Record) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=at // 1000)
    except OverflowError as error:
        raise _wrong("ts_event", record, f"{at} does not fit into a datetime") from error


def _length(found: Any) -> int:
    value = _value(found, "resolution", "interval")
    if value is None:
        raise _wrong("ts_close", found, "missing, and there is no resolution or interval")
    try:
        if isinstance(value, int):
            raise TypeError  # of seconds, or of what
        return parse_duration(value, "resolution")
    except (ConfigError, TypeError) as error:
        raise _wrong("resolution", found, f"{value!r:.100} is no length of time such as '1m'") from error


def _number(found: Any, *names: str, default: float | None = None) -> float:
    value = _value(found, *names)
    if value is None:
        if default is None:
            raise _wrong(names[0], found, "missing" if len(names) == 1 else f"missing; looked for: {', '.join(names)}")
        return default
    if isinstance(value, bool):
        raise _wrong(names[0], found, f"{value} is no number")
    try:
        number = decimal_float(value) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise _wrong(names[0], found, f"{value!r:.100} is no number") from error
    if not math.isfinite(number):
        raise _wrong(names[0], found, f"{value!r:.100} is not finite")
    return number


def _side(found: Any) -> str:
    side = _value(found, "side")
    text = side
    if isinstance(side, Enum):
        text = side.value if isinstance(side.value, str) else side.name
    known = _SIDES.get(str(text or "").lower())
    if known is None:
        raise _wrong("side", found, f"{side!r:.100} is not buy, sell or unknown")
    return known


def _id(found: Any, *names: str) -> int | str:
    value = _value(found, *names)
    if value is None:
        return ""
    return value if type(value) in (int, str) else str(value)


def _venue(found: Any) -> str:
    venue = _value(found, "venue")
    return venue if isinstance(venue, str) else ""


def _conditions(found: Any) -> str:
    conditions = _value(found, "conditions")
    if isinstance(conditions, list | tuple):
        return ",".join(map(str, conditions))
    return "" if conditions is None else str(conditions)
