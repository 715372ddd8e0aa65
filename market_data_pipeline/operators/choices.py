"""Arguments that are one of a few words."""

from __future__ import annotations

from market_data_pipeline.errors import ConfigError


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raises ``ConfigError`` unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ConfigError(f"{name}: {value!r} is not allowed; one of: {', '.join(allowed)}")
