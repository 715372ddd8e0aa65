"""The budget that the calls to a venue come out of."""

from __future__ import annotations

import re

from market_data_pipeline.budget import Budget, BudgetRule, MemoryBudgets
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.sources.base import SourceContext
from market_data_pipeline.sources.provider import MarketDataProvider
from market_data_pipeline.store.keys import check_name

_LONGEST = 40


def budget_name(provider: MarketDataProvider) -> str:
    """The name of ``provider``'s budget: its attribute ``budget`` where it has one, else its name, in lower case and with ``-``
    for what a budget's name may not hold. Raises ``ConfigError`` for a ``budget`` that is no name."""
    given = getattr(provider, "budget", None)
    if given is None:
        return re.sub(r"[^a-z0-9-]", "-", provider.name.lower())[:_LONGEST] or "-"
    if not isinstance(given, str):
        raise ConfigError(f"{provider.name}: budget: {given!r} is not the name of a budget")
    return check_name(f"{provider.name}: budget", given)


def budget_of(provider: MarketDataProvider, ctx: SourceContext) -> Budget:
    """The budget of ``provider``; where ``ctx`` knows none, one that nobody else has."""
    make = ctx.budget or MemoryBudgets(ctx.clock).of
    return make(budget_name(provider), BudgetRule(provider.limits.per_second))
