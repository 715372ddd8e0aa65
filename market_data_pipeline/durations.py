"""Durations as people write them ("1s", "250ms", "5m") and as the system keeps them: int nanoseconds."""

import re
from datetime import timedelta

from market_data_pipeline.errors import ConfigError

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3600 * 1_000_000_000,
    "d": 86400 * 1_000_000_000,
}
_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ns|us|ms|s|m|h|d)\s*")

Duration = str | int | timedelta
"""``"1s"``, ``"250ms"``, ``"1d"``; an int of nanoseconds; or a ``timedelta``."""


def parse_duration(value: Duration, name: str = "duration") -> int:
    """Nanoseconds of ``value``; ``name`` is what the error calls it. Raises :class:`ConfigError`."""
    if isinstance(value, bool) or not isinstance(value, str | int | timedelta):
        raise ConfigError(f"{name}: {value!r} is not a duration; write for example '1s', '250ms', '5m', '1h'")
    if isinstance(value, timedelta):
        return (value.days * 86400 + value.seconds) * 1_000_000_000 + value.microseconds * 1000
    if isinstance(value, int):
        return value
    match = _PATTERN.fullmatch(value)
    if match is None:
        raise ConfigError(f"{name}: {value!r} is not a duration; write for example '1s', '250ms', '5m', '1h'")
    number, unit = match.groups()
    whole, _, fraction = number.partition(".")
    scale = _UNITS[unit]
    return int(whole) * scale + (int(fraction) * scale // 10 ** len(fraction) if fraction else 0)


def signed_duration(value: Duration, name: str) -> int:
    """Like :func:`parse_duration`, and text may begin with a minus: ``"-15m"``. For offsets."""
    text = value.lstrip() if isinstance(value, str) else ""
    return -parse_duration(text[1:], name) if text.startswith("-") else parse_duration(value, name)


def positive_duration(value: Duration, name: str) -> int:
    """Like :func:`parse_duration`, and greater than zero."""
    nanos = parse_duration(value, name)
    if nanos <= 0:
        raise ConfigError(f"{name}: {value!r} must be greater than zero")
    return nanos


def wall_duration(value: Duration, name: str, zero: bool = False) -> int:
    """Like :func:`positive_duration`, for waits and time limits: a whole number below 1 ms is refused, for seconds were meant.
    ``zero``: 0 is allowed, too."""
    nanos = parse_duration(value, name)
    if type(value) is int and 0 < value < _UNITS["ms"]:
        raise ConfigError(
            f"{name}: {value} is {value} ns, for a whole number is nanoseconds; write '{value}s' for seconds"
        )
    if nanos < 0 and zero:
        raise ConfigError(f"{name}: {value!r} must not be below zero")
    return nanos if zero and nanos == 0 else positive_duration(value, name)


def duration_text(nanos: int) -> str:
    """``nanos`` (not negative) as one would write it: ``"90s"``, ``"250ms"``; :func:`parse_duration` gives the same again."""
    unit = max((unit for unit, scale in _UNITS.items() if nanos % scale == 0), key=_UNITS.__getitem__) if nanos else "s"
    return f"{nanos // _UNITS[unit]}{unit}"
