"""Which values may be keys of state."""

from typing import Any

KEY_TYPES = frozenset({bool, int, float, str, bytes})


def check_key(key: Any) -> Any:
    """``key``, if it comes back from a snapshot as it was. Raises ``TypeError`` for anything but a plain value."""
    if type(key) not in KEY_TYPES:
        raise TypeError(f"a key may be bool, int, float, str or bytes, not {key!r:.100}")
    return key
