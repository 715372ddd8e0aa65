"""What keeps rates: budgets that are shared, and what stores say of themselves."""

from __future__ import annotations

from tools.mutations.mutation import LUA, STORE, Mutation

BUDGET = "market_data_pipeline/budget.py"
STORE_RATES = "coordinator/mdp_coordinator/store_rates.py"
SERVER_TESTS = (STORE + "test_store_budget.py",)
BUDGET_TESTS = ("tests/unit/top/test_budget.py",)
RATE_TESTS = ("tests/unit/coordinator/test_coordinator_store_rates.py",)


def _budgets() -> list[Mutation]:
    lua, link = LUA + "budget.lua", "market_data_pipeline/sources/feed_link.py"
    feeds = ("tests/unit/sources/test_provider_budget.py",)
    patient = "return LONGEST // 2 + LONGEST // 2 * min(refusals, _STEPS) // _STEPS"
    return [
        Mutation(
            "budget: a clock that goes back stood still",
            lua,
            "due, at = due - (at - now), now",
            "at = now",
            SERVER_TESTS,
        ),
        Mutation(
            "budget: a refusal remembers a clock that went back",
            lua,
            "if taken or back or",
            "if taken or",
            SERVER_TESTS,
        ),
        Mutation(
            "budget: a refusal remembers a smaller burst",
            lua,
            "if taken or back or room < before then",
            "if taken or back then",
            SERVER_TESTS,
        ),
        Mutation(
            "budget: no place more than a second ahead",
            lua,
            "local taken = wait <= tonumber(ARGV[4])",
            "local taken = true",
            SERVER_TESTS,
        ),
        Mutation(
            "budget: also at a full server",
            "market_data_pipeline/store/budget.py",
            'Script("budget", "allow-oom")',
            'Script("budget")',
            SERVER_TESTS,
        ),
        Mutation(
            "budget: callers of a process stand in line",
            BUDGET,
            "async with _line(self._budgets.where, self._name):",
            "if True:",
            BUDGET_TESTS,
        ),
        Mutation("budget: newcomers do not pass who was refused", BUDGET, patient, "return LONGEST", BUDGET_TESTS),
        Mutation(
            "feed: a connect comes out of the budget",
            link,
            "                await self._budget.acquire()\n                down = await",
            "                down = await",
            feeds,
        ),
        Mutation(
            "feed: a subscription comes out of the budget",
            link,
            "        await self._budget.acquire()\n        self._in_line, self._asked",
            "        self._in_line, self._asked",
            feeds,
        ),
        Mutation(
            "rate coordinator: it gives its connection back",
            "market_data_pipeline/orchestration/rate_coordinator.py",
            "await found.client.aclose()",
            "pass",
            ("tests/unit/orchestration/test_rate_coordinator.py",),
        ),
    ]


def _feedback() -> list[Mutation]:
    stores, heard = "market_data_pipeline/store/stores.py", (STORE + "test_store_stores.py",)
    known = "self._heard[token] if self._heard.get(token, (0, 0.0))[0] == word.number else (word.number, now)"
    cut = "self._cut = _MOST if steep else self._cut_after(tried)"
    shares = ("tests/unit/coordinator/test_coordinator_store_shares.py",)
    return [
        Mutation(
            "store rate: between its levels nothing changes",
            STORE_RATES,
            "if low and self.rate is not None:",
            "if self.rate is not None:",
            RATE_TESTS,
        ),
        Mutation(
            "store rate: a steep rise is cut at once", STORE_RATES, cut, "self._cut = STEP / (1 + STEP)", RATE_TESTS
        ),
        Mutation(
            "store rate: what is tried is a step from what is known",
            STORE_RATES,
            "return max(step, min(guess, much.rate / (1 + STEP)))",
            "return guess",
            RATE_TESTS,
        ),
        Mutation(
            "store rate: none for a store that says nothing",
            STORE_RATES,
            "if self._silent >= _FORGOTTEN:",
            "if False:",
            RATE_TESTS,
        ),
        Mutation(
            "rates: of streams and store the smaller one holds",
            "coordinator/mdp_coordinator/rates.py",
            "name: min(store.rate, found.get(name, store.rate))",
            "name: max(store.rate, found.get(name, store.rate))",
            RATE_TESTS,
        ),
        Mutation(
            "store rate: who brings in little is not cut",
            STORE_RATES,
            "self._set(_level(used, (1 - self._cut) * sum(used)))",
            "self._set(tried.rate * (1 - self._cut) / len(used))",
            shares,
        ),
        Mutation(
            "store rate: one that is not used up goes away",
            STORE_RATES,
            "elif (between := self._bracketed(tried, self._too_much)) > rate:",
            "elif between := self._bracketed(tried, self._too_much):",
            shares,
        ),
        Mutation(
            "store poll: what was said long ago is not said",
            "market_data_pipeline/runtime/store_poll.py",
            "if asked.said is not None and now - asked.said_at <= STALE_SECONDS:",
            "if asked.said is not None:",
            ("tests/unit/runtime/test_runtime_store_poll.py",),
        ),
        Mutation("stores: what is old counts no more", stores, "if now - at <= STALE_SECONDS]", "]", heard),
        Mutation("stores: what is said again is not new", stores, known, "(word.number, now)", heard),
    ]


GUARDS: tuple[Mutation, ...] = (*_budgets(), *_feedback())
