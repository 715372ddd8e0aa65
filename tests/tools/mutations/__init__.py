"""Every guard of the protocol, and how to take it away: what ``scripts/mutate`` does one at a time.

``old`` is found exactly once in its file (a test sees to that), ``new`` is what is there without the guard, ``tests`` are
those that must fail then.
"""

from __future__ import annotations

from tools.mutations import (
    guards_catalog,
    guards_commit,
    guards_control,
    guards_given,
    guards_outside,
    guards_rates,
    guards_router,
    guards_runtime,
    guards_sinks,
)
from tools.mutations.mutation import Mutation, occurrences

__all__ = ["MUTATIONS", "Mutation", "occurrences"]

MUTATIONS: tuple[Mutation, ...] = (
    *guards_commit.GUARDS, *guards_control.GUARDS, *guards_runtime.GUARDS, *guards_sinks.GUARDS,
    *guards_catalog.GUARDS, *guards_rates.GUARDS, *guards_outside.GUARDS,
    *guards_router.GUARDS, *guards_given.GUARDS,
)  # fmt: skip
