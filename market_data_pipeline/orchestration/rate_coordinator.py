"""One rate for a user's own code, wherever it runs: an operator that asks a venue, a provider of one's own, a script."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import InitVar, dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self

from market_data_pipeline.budget import HOST, Budget, BudgetRule, Budgets, in_process
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.given import check_given
from market_data_pipeline.settings import Settings, load_settings, server_address
from market_data_pipeline.store.budget import ServerBudgets
from market_data_pipeline.store.client import Client, connect
from market_data_pipeline.store.keys import check_name

log = logging.getLogger(__name__)


class _Found(NamedTuple):
    """Where the budget is for the code of one event loop; ``client`` where the connection is our own."""

    budget: Budget
    client: Client | None


@dataclass(eq=False)
class RateCoordinator:
    """The budget ``name`` (``[a-z0-9-]{1,40}``): ``per_second`` requests on the long run and ``burst`` at once, for all
    processes that name it at one server. A provider's budget has the provider's name, so calls of your own can share it.

    Where the server is: ``settings`` say, where they are given; else it is the worker's that runs this code; else the
    environment's (``MDP_REDIS_URL`` ...). Where none is named, this process keeps to the rate by itself, and says so in the
    log once. While the server is away callers wait. Who names one budget with another rule is spaced by that one.

    It may stand in a function's closure, in a component or in a dataclass: two processes describe it alike, a copy is the same
    one, and a pickled one finds its server anew (by ``settings`` where they were given, with all they hold). ``close`` it, or
    use it with ``async with``, where the process goes on without it. Raises ``ConfigError`` for a name, rate, burst or
    address that cannot be."""

    name: str
    per_second: float
    burst: int = 1
    settings: InitVar[Settings | None] = None

    def __post_init__(self, settings: Settings | None) -> None:
        check_given(self.name, str, "name", "text")
        check_name("name", self.name)
        if not isinstance(settings, Settings | None):  # an address, say: it may hold a password
            raise ConfigError(
                f"settings: a {type(settings).__name__} is no Settings; make them with load_settings(redis_url=...)"
            )
        self._rule, self._settings = BudgetRule(self.per_second, self.burst), settings
        self._found: dict[asyncio.AbstractEventLoop, _Found] = {}
        self._told = False

    async def acquire(self, n: int = 1) -> None:
        """Return when ``n`` more requests may be made, at most ``burst`` (else ``ConfigError``). Raises ``StoreUnavailable``
        where the server refuses. Cancelled meanwhile, the place of these ``n`` may be lost, and no more."""
        loop = asyncio.get_running_loop()
        found = self._found.get(loop)
        if found is None:
            budgets, client = self._look_for(loop)
            found = _Found(budgets.of(self.name, self._rule), client)
            self._found = {one: kept for one, kept in self._found.items() if not one.is_closed()} | {loop: found}
        await found.budget.acquire(n)

    def _look_for(self, loop: asyncio.AbstractEventLoop) -> tuple[Budgets, Client | None]:
        host = HOST.get()
        if self._settings is None and host is not None:
            if isinstance(host, ServerBudgets) and host.loop not in (
                None,
                loop,
            ):  # code in a thread with a loop of its own
                client = connect(host.address)
                return ServerBudgets(client, host.address), client
            return host, None
        settings = self._settings or load_settings()
        if settings.redis_url is not None:
            address = server_address(settings)
            client = connect(address)
            return ServerBudgets(client, address), client
        if not self._told:
            log.warning("rate %r: no server is named (MDP_REDIS_URL), this process keeps to it by itself", self.name)
            self._told = True
        return in_process(), None

    async def close(self) -> None:
        """Give the connection of this event loop back. Another ``acquire`` makes a new one."""
        found = self._found.pop(asyncio.get_running_loop(), None)
        if found is not None and found.client is not None:
            await found.client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[str, float, int, Settings | None]]:
        return type(self), (self.name, self.per_second, self.burst, self._settings)
