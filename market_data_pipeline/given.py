"""Arguments that are of a wrong type, told where the object is made."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from market_data_pipeline.errors import ConfigError

_LONGEST_SHOWN = 100


def check_given(value: object, kind: Any, name: str, needed: str) -> None:
    """Raises ``ConfigError`` unless ``value``, the argument ``name``, is a ``kind`` (as ``isinstance`` has it); ``needed`` is
    the kind for people."""
    if not isinstance(value, kind):
        instead = "; give an instance" if isinstance(value, type) else ""
        text = repr(value)
        shown = text if len(text) <= _LONGEST_SHOWN else f"{type(value).__name__}(...)"
        raise ConfigError(f"{name}: {shown} is no {needed}{instead}")


def check_numbers(of: object, *names: str, whole: bool = True) -> None:
    """Raises ``ConfigError`` for the first of the attributes ``names`` that is no number; ``True`` is none."""
    for name in names:
        value = getattr(of, name)
        if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
            raise ConfigError(f"{name}: {value!r:.{_LONGEST_SHOWN}} is no {'whole ' if whole else ''}number")
