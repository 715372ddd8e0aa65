"""Budgets that all processes at a server share: each question is one script, by the server's clock."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from market_data_pipeline.budget import BudgetRule, Budgets
from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.store.client import Client, Script, address_of, explained, until_done
from market_data_pipeline.store.keys import budget_key
from market_data_pipeline.store.url import Address

_BUDGET = Script("budget", "allow-oom")  # small and bounded; a full server must not let everybody through


class ServerBudgets(Budgets):
    """The budgets at the server of ``client``. While it is away callers wait. A question that is asked twice, because its
    answer was lost, costs a place and no more. A server that lost everything has full budgets: ``burst`` more than allowed,
    once. Raises ``StoreUnavailable`` for what waiting does not mend (a right that is missing), ``ConfigError`` for a name that
    is no key. ``address``: the server's; ``loop``: the event loop that the client is of, where one runs when this is made."""

    def __init__(self, client: Client, address: str | Address, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(str(address_of(address)), clock)
        self._client, self.address = client, address
        self.loop: asyncio.AbstractEventLoop | None = None
        with suppress(RuntimeError):
            self.loop = asyncio.get_running_loop()

    async def ask(self, name: str, rule: BudgetRule, requests: int, longest: int) -> int:
        keys, args = [budget_key(name)], [rule.interval, rule.burst, requests, longest]
        with explained(self.address):
            return int(await until_done(lambda: _BUDGET.call(self._client, keys, args), f"budget {name}", self._clock))
