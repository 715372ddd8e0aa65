"""Which values may be keys of state, and what can name a field."""

from typing import Any

from market_data_pipeline.errors import ConfigError

KEY_TYPES = frozenset({bool, int, float, str, bytes})


def check_key(key: Any) -> Any:
    """``key``, if it comes back from a snapshot as it was. Raises ``TypeError`` for anything but a plain value."""
    if type(key) not in KEY_TYPES:
        raise TypeError(f"a key may be bool, int, float, str or bytes, not {key!r:.100}")
    if type(key) is int and not -(2**63) <= key < 2**64:
        raise TypeError(f"a key may be a whole number of 64 bits, not {key!r:.100}")
    if type(key) is str and not key.isascii():
        key.encode()  # raises on text that is no Unicode
    return key


def check_field(name: str, what: str) -> str:
    """``name`` if it can name a field. Raises ``ConfigError``."""
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{what}: {name!r} is not the name of a field")
    return name
