"""What keeps several providers for the same symbols from losing records, and from being changed too often."""

from __future__ import annotations

from tools.mutations.mutation import Mutation

ROUTING = "market_data_pipeline/sources/routing.py"
STANDBY = "market_data_pipeline/sources/standby.py"
INTAKE = "market_data_pipeline/sources/routed_intake.py"
ROUTES_TESTS = ("tests/unit/sources/test_routes.py",)
STANDBY_TESTS = ("tests/unit/sources/test_standby.py",)
INTAKE_TESTS = ("tests/unit/sources/test_routed_intake.py",)
LINK = "market_data_pipeline/sources/feed_link.py"
LINK_TESTS = ("tests/unit/sources/test_feed_link.py",)


def _routes() -> list[Mutation]:
    """When a symbol goes to another provider."""
    failed = "if fitness.reason and now - fitness.since >= self._fail_after:"
    return [
        Mutation("route: not left before its time", ROUTING, failed, "if fitness.reason:", ROUTES_TESTS),
        Mutation(
            "route: not gone back to before its time",
            ROUTING,
            "to = self._best(item, better, now - self._recover_after)",
            "to = self._best(item, better, -math.inf)",
            ROUTES_TESTS,
        ),
        Mutation(
            "route: not evened before its time",
            ROUTING,
            "not fitness.reason and now - fitness.since >= self._recover_after:",
            "not fitness.reason:",
            ROUTES_TESTS,
        ),
        Mutation(
            "route: another reason is no new beginning",
            ROUTING,
            "        if not fitness.reason:\n            fitness.since = now\n",
            "        fitness.since = now\n",
            ROUTES_TESTS,
        ),
        Mutation(
            "route: a symbol that was refused stays so",
            ROUTING,
            "if fitness.reason and not fitness.refused:",
            "if fitness.reason:",
            ROUTES_TESTS,
        ),
        Mutation(
            "route: who is not read on is not quiet",
            ROUTING,
            "return not self.busy and now",
            "return now",
            ROUTES_TESTS,
        ),
        Mutation(
            "router: a cold backup that is heard does not rest",
            "market_data_pipeline/sources/router.py",
            "self._routing.is_needed(feed, now) or self._standby.speaks(feed)",
            "self._routing.is_needed(feed, now)",
            ("tests/unit/sources/test_source_router.py::test_a_cold_backup_that_is_still_heard_is_not_let_go",),
        ),
    ]


def _standby() -> list[Mutation]:
    """What passes, and what is told to be missing."""
    kept = "until = min(self._routing.since(item, voice.speaker) if wrong else now, voice.held)"
    lagging = "if is_waited_for and (voice.behind or _is_same(record, voice.last)):"
    missed = "if not _reaches(memory, voice.last):"
    return [
        Mutation("standby: what waits is kept while something is wrong", STANDBY, kept, "until = now", STANDBY_TESTS),
        Mutation(
            "standby: what waited goes on in a change",
            STANDBY,
            "        yield from self._behind(voice, memory)\n",
            "",
            STANDBY_TESTS,
        ),
        Mutation(
            "standby: what waits for a change is kept however late that is seen",
            STANDBY,
            "if assigned != voice.speaker and not routing.reason(item, assigned):",
            "if self._due(item, voice.speaker, now) is None:",
            STANDBY_TESTS,
        ),
        Mutation(
            "standby: who is back is heard after the overlap",
            STANDBY,
            " and now - routing.since(item, assigned) < self._overlap:",
            " and False:",
            (STANDBY_TESTS[0] + "::test_who_is_back_is_heard_after_the_overlap",),
        ),
        Mutation(
            "standby: who lags is not heard before it has caught up", STANDBY, lagging, "if False:", STANDBY_TESTS
        ),
        Mutation("standby: what nobody had is told", STANDBY, missed, "if False:", STANDBY_TESTS),
        Mutation(
            "standby: what is behind the last record, and no more",
            STANDBY,
            "if begin is not None and not begin.includes(waiting.record):",
            "if False:",
            STANDBY_TESTS,
        ),
        Mutation(
            "standby: what comes after a break does not go on from before it",
            STANDBY,
            "memory = voice.memories.pop(provider, None)  # what comes next does not go on from there",
            "memory = voice.memories.get(provider)",
            STANDBY_TESTS,
        ),
        Mutation(
            "standby: records wait for room in the order in which they passed",
            "market_data_pipeline/sources/intake.py",
            "async with self._order:  # which is fair: who asked first is first",
            "if True:",
            ("tests/unit/sources/test_routed_intake.py",),
        ),
    ]


def _waiting() -> list[Mutation]:
    """What a full inbox, too little room and a process that stood still must not lose."""
    there = "(is_away and read - self._routing.since(item, to) < self._overlap) or self._is_gone("
    return [
        Mutation(
            "standby: what had no room is told in each change",
            STANDBY,
            there,
            "is_away and self._is_gone(",
            STANDBY_TESTS,
        ),
        Mutation(
            "standby: what others bring while who is heard has to wait is kept",
            STANDBY,
            "        until = min(until, self._routing.read_until(item[0], voice.speaker, now))\n",
            "",
            STANDBY_TESTS,
        ),
        Mutation(
            "standby: who came while who is heard had to wait was not there before",
            STANDBY,
            "read = min(now, self._routing.read_until(item[0], voice.speaker, now))",
            "read = now",
            STANDBY_TESTS,
        ),
        Mutation(
            "standby: who had to wait is heard to its end",
            STANDBY,
            "not unfit and routing.read_until(item[0], speaker, now) < now",
            "False",
            INTAKE_TESTS,
        ),
        Mutation(
            "router: time passes only as far as somebody looked",
            "market_data_pipeline/sources/watched_time.py",
            "self._seen + min(self._clock.monotonic() - self._looked_at, self._most)",
            "self._clock.monotonic()",
            INTAKE_TESTS,
        ),
        Mutation(
            "router: symbols that go to several are named",
            INTAKE,
            "loads[old] or ways[old] > 1",
            "loads[old]",
            INTAKE_TESTS,
        ),
        Mutation(
            "feed: a standstill is not held against it",
            LINK,
            "read_until, wall = self._clock.monotonic(), self._time.read_until(),",
            "read_until, wall = self._clock.monotonic(), self._clock.monotonic(),",
            LINK_TESTS,
        ),
        Mutation(
            "feed: a snapshot that comes twice fills the hole once",
            "market_data_pipeline/sources/feed_gaps.py",
            "if number in line.come:",
            "if False:",
            ("tests/unit/sources/test_feed_gaps.py",),
        ),
        Mutation(
            "feed: who was not read on is not quiet",
            LINK,
            "            self._intake.tell(self.health.heard(self._clock.monotonic(), self._clock.time_ns()))\n",
            "",
            LINK_TESTS,
        ),
    ]


GUARDS: tuple[Mutation, ...] = (*_routes(), *_standby(), *_waiting())
