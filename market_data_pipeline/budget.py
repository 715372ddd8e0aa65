"""What several callers may ask a venue for together: the rule and the contract. Who keeps the budget is not known here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from market_data_pipeline.errors import ConfigError


@dataclass(frozen=True)
class BudgetRule:
    """``per_second`` requests on the long run, more than 0, and ``burst`` at once (at least 1) after a while without any.
    Raises ``ConfigError``."""

    per_second: float
    burst: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.per_second < math.inf:
            raise ConfigError(f"per_second: {self.per_second} is not above 0 and finite")
        if self.burst < 1:
            raise ConfigError(f"burst: {self.burst} must be at least 1")


class Budget(Protocol):
    """One budget, shared by all who name it."""

    async def acquire(self, requests: int = 1) -> None:
        """Return when ``requests`` more may be made. Who asks first gets them first."""
        ...
