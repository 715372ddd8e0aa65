"""Optional packages: imported when they are used, with one line that says how to install a missing one."""

from __future__ import annotations

import importlib
from typing import Any

from market_data_pipeline.errors import ConfigError


def extra(module: str, name: str, what: str) -> Any:
    """The module ``module``, which the extra ``name`` brings, for ``what`` (a connector's name, say). Raises ``ConfigError``
    where it cannot be imported."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name or module
        hint = f"pip install 'market-data-pipeline[{name}]'"
        raise ConfigError(f"{what} needs the extra {name} ({missing} is missing): {hint}") from error
