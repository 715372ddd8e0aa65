"""Whose records pass, and what waits of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from market_data_pipeline.records import Gap, Quote, Trade
from market_data_pipeline.sources.feed_gaps import FeedGaps
from market_data_pipeline.sources.feed_health import Feed
from market_data_pipeline.sources.routes import Failover, RouteRule
from market_data_pipeline.sources.routing import Routing
from market_data_pipeline.sources.standby import Missed, Renumbered, Standby

KINDS = ("trade", "quote")
RULE = Failover(fail_after="3s", recover_after="10s")


def trade(number: int, symbol: str = "A", ts: int | None = None, **fields: Any) -> Trade:
    return Trade(symbol, number * 10 if ts is None else ts, 0, 1.0, 1.0, trade_id=number, **fields)


def quote(ts: int) -> Quote:
    return Quote("A", ts, 0, 1.0, 1.0, 2.0, 1.0)


class Play:
    """What ``RoutedIntake`` does, with time as the test says it."""

    def __init__(
        self,
        *providers: str,
        rule: RouteRule = RULE,
        most: int = 100,
        symbols: Sequence[str] = ("A",),
        venue: str = "",
    ) -> None:
        self.now = 0.0
        feeds = [Feed(name, name, tuple(symbols)) for name in providers]
        self.symbols = tuple(symbols)
        rankings = {symbol: rule.ranking(symbol, providers) for symbol in symbols}
        self.routing = Routing(rule, rankings, feeds, 0.0, kinds=KINDS, catch_up=1.0)
        venues = {name: venue or name for name in providers}
        self.standby = Standby(self.routing, "trade", venues, overlap=1.0, keep=1.0, most=most)
        self.gaps = FeedGaps("trade")
        self.out: list[Any] = []

    def up(self, *providers: str) -> None:
        for provider in providers:
            self.served(provider)
        self.look()

    def served(self, provider: str) -> None:
        self.gaps.served(provider, self.symbols)
        self.routing.fit(provider, [(symbol, kind) for symbol in self.symbols for kind in KINDS], self.now)

    def down(self, provider: str) -> None:
        self.routing.lost(provider, "disconnected", self.now)
        self.standby.lost(provider, self.symbols)
        self.look()
        self.gaps.lost(provider, self.now)

    def look(self, now: float | None = None) -> None:
        self.now = self.now if now is None else now
        self.routing.decide(self.now)
        self.settle()

    def settle(self) -> None:
        for waiting in self.standby.settle(self.now):
            if isinstance(waiting.record, Missed):
                self.gaps.missed(waiting.record.symbol, self.now)
            elif isinstance(waiting.record, Renumbered):
                self.gaps.renumbered(waiting.record.symbol)
            else:
                self.give(waiting.feed, waiting.record)

    def bring(self, provider: str, *records: Any) -> None:
        self.routing.brought(provider, self.now)
        if self.standby.is_touched:
            self.settle()
        for record in records:
            if self.standby.take(provider, provider, record, self.now):
                self.give(provider, record)

    def give(self, feed: str, record: Any) -> None:
        before, passed = self.gaps.see(record, feed) if not isinstance(record, Gap) else ([], record)
        self.out += [*before, passed]

    def ids(self) -> list[Any]:
        return [item.trade_id if isinstance(item, Trade) else item for item in self.out]


def test_a_backup_stands_in_from_behind_the_last_record() -> None:
    play = Play("a", "b")
    play.up("a", "b")
    play.bring("a", trade(1), trade(2))
    play.bring("b", trade(1), trade(2), trade(3), trade(4))
    assert play.ids() == [1, 2]
    play.down("a")
    assert play.ids() == [1, 2, 3, 4], "at once, and without a gap"
    assert play.routing.assignment("A") == "a"
    play.bring("b", trade(5))
    assert play.ids() == [1, 2, 3, 4, 5]


def test_a_backup_that_lags_is_not_heard_before_it_has_caught_up() -> None:
    play = Play("a", "b")
    play.up("a", "b")
    play.look(10.0)
    play.bring("a", trade(1), trade(2), trade(3))
    play.bring("b", trade(1))
    play.down("a")
    play.bring("b", trade(2), trade(3), trade(4), trade(3))
    assert play.ids() == [1, 2, 3, 4, 3]
    play.up("a")
    play.look(12.0)
    play.down("a")
    play.look(13.5)
    play.bring("b", trade(1))
    assert play.ids()[-1] == 1, "its clock may be another one: it is waited for the overlap, no longer"


def test_who_was_there_all_the_while_stands_in_before_who_has_just_come_back() -> None:
    play = Play("a", "b", "c", rule=Failover(fail_after="0s", recover_after="0s"))
    play.up("a", "b", "c")
    play.look(10.0)
    play.bring("a", trade(1))
    play.bring("b", trade(1))
    play.down("a")
    play.bring("b", trade(2))
    play.bring("c", trade(1), trade(2), trade(3), trade(4))
    play.look(10.4)
    play.up("a")
    assert play.routing.assignment("A") == "a"
    play.look(10.8)
    play.bring("a", trade(4), trade(5))
    play.down("b")
    assert play.ids() == [1, 2, 3, 4], "of these, a brought the last, and nobody else is asked for a gap"
    play.bring("c", trade(5))
    play.look(11.4)
    play.bring("a", trade(6))
    assert play.ids() == [1, 2, 3, 4, 5, 6], "the one whose symbol it is speaks when it has been there for the overlap"
    assert play.standby.speaker(("A", "trade")) == "a"


def test_what_was_there_for_a_moment_only_has_a_gap_in_front() -> None:
    play = Play("a", "b")
    play.up("a", "b")
    play.look(10.0)
    play.bring("a", trade(1), trade(2))
    play.bring("b", trade(1), trade(2))
    play.down("a")
    play.bring("b", trade(3))
    play.look(20.0)
    play.up("a")
    play.bring("a", trade(6), trade(7))
    play.look(20.3)
    play.down("a")
    play.down("b")
    assert play.ids() == [1, 2, 3, Gap("A", 4, 5, 2, 60), 6, 7]


def test_other_ids_are_compared_by_time_and_one_time_comes_twice() -> None:
    """Trades of one millisecond: which of them had come is not known."""
    play = Play("a", "b")
    play.up("a", "b")
    play.look(10.0)
    play.bring("a", trade(1, ts=100), trade(2, ts=200))
    play.bring("b", trade(901, ts=100), trade(902, ts=200), trade(903, ts=200), trade(904, ts=300))
    play.down("a")
    assert play.ids() == [1, 2, 902, 903, 904]


def test_ids_of_another_kind_make_no_gap_with_a_number() -> None:
    play = Play("a", "b")
    play.up("a")
    play.bring("a", trade(1), trade(2), trade(3))
    play.down("a")
    play.up("b")
    play.bring("b", trade(1_000_000, ts=40))
    assert play.ids() == [1, 2, 3, Gap("A", 0, 0, 0, 40), 1_000_000]


def test_ids_that_were_seen_of_both_count_for_both() -> None:
    play = Play("a", "b")
    play.up("a", "b")
    play.bring("a", trade(1), trade(2), trade(3))
    play.bring("b", trade(1), trade(2), trade(3))
    play.down("a")
    play.bring("b", trade(4))
    play.down("b")
    play.up("a")
    play.bring("a", trade(7))
    assert play.ids() == [1, 2, 3, 4, Gap("A", 5, 6, 2, 70), 7]


def test_what_one_had_that_broke_off_first_is_given_out_when_nobody_is_left() -> None:
    play = Play("a", "b")
    play.up("a", "b")
    play.look(10.0)
    play.bring("a", trade(1), trade(2))
    play.bring("b", trade(1), trade(2), trade(3))
    play.down("b")
    assert play.ids() == [1, 2]
    play.down("a")
    play.up("b")
    play.bring("b", trade(6))
    assert play.ids() == [1, 2, 3, Gap("A", 4, 5, 2, 60), 6]


def test_what_one_had_before_it_broke_off_does_not_go_on_into_what_it_has_now() -> None:
    play = Play("a", "b")
    play.up("a", "b")
    play.look(10.0)
    play.bring("a", trade(1), trade(2))
    play.bring("b", trade(1), trade(2), trade(3))
    play.down("b")
    play.up("b")
    play.bring("b", trade(5))
    play.down("a")
    assert play.ids() == [1, 2, 3, Gap("A", 4, 4, 1, 50), 5]


def test_what_one_had_that_has_just_broken_off_goes_in_front_of_who_was_not_there_for_long() -> None:
    play = Play("a", "b", "c")
    play.up("a", "b")
    play.look(10.0)
    play.bring("a", trade(1), trade(2))
    play.up("c")
    play.bring("c", trade(5), trade(6))
    play.bring("b", trade(1), trade(2), trade(3), trade(4), trade(5))
    play.down("b")
    play.down("a")
    play.bring("c", trade(7))
    assert play.ids() == [1, 2, 3, 4, 5, 6, 7]
    play = Play("a", "b", "c")
    play.up("a", "b")
    play.look(10.0)
    play.bring("a", trade(1), trade(2))
    play.bring("b", trade(1), trade(2), trade(3), trade(4))
    play.up("c")
    play.bring("c", trade(6))
    play.down("b")
    play.down("a")
    assert play.ids() == [1, 2, 3, 4, Gap("A", 0, 0, 0, 60), 6], "and what none of them had is told"


def test_who_is_quiet_stands_in_where_nobody_else_is_left() -> None:
    play = Play("a", "b", rule=Failover(fail_after="3s", stale_after="200ms"))
    play.up("a", "b")
    play.look(10.0)
    play.bring("a", trade(1))
    play.bring("b", trade(1), trade(2))
    play.look(10.1)
    play.bring("a", trade(1, ts=5, phase="snapshot"))
    play.look(10.25)
    assert play.routing.reason(("A", "trade"), "b") == "quiet"
    play.down("a")
    assert [item for item in play.ids() if item != 1] == [2], "what waits goes on at once"
    play.bring("b", trade(3))
    assert play.ids()[-2:] == [2, 3]


def test_who_is_back_is_heard_after_the_overlap() -> None:
    play = Play("a", "b")
    play.up("a", "b")
    play.look(5.0)
    play.bring("a", trade(1))
    play.down("a")
    play.look(6.0)
    play.up("a")
    play.bring("a", trade(4), trade(5))
    play.bring("b", trade(2), trade(3))
    play.look(6.9)
    play.bring("b", trade(4))
    assert play.ids() == [1, 2, 3, 4], "b lags, and has what a missed"
    play.look(7.0)
    assert play.ids() == [1, 2, 3, 4, 5]
    assert play.standby.speaker(("A", "trade")) == "a"


def test_what_came_with_the_answer_of_who_is_back_is_kept_however_late_the_next_look_is() -> None:
    play = Play("a", "b")
    play.up("a", "b")
    play.look(5.0)
    play.bring("a", trade(1))
    play.down("a")
    play.bring("a", trade(2))
    play.served("a")
    play.look(9.0)
    assert play.ids() == [1, 2]


def test_what_had_no_room_when_who_is_back_is_heard_is_told() -> None:
    play = Play("a", "b", most=5, venue="x")
    play.up("a", "b")
    play.look(5.0)
    for name in "ab":
        play.bring(name, trade(1))
    play.down("a")
    play.up("a")
    play.bring("a", *(trade(number) for number in range(2, 12)))
    play.bring("b", trade(2))
    play.look(6.0)
    play.bring("a", trade(12))
    assert play.ids() == [1, 2, Gap("A", 3, 6, 4, 70), *range(7, 13)]


def test_what_others_bring_while_who_is_heard_has_to_wait_is_kept() -> None:
    """What that one had not brought before it broke off is theirs, or told."""
    play = Play("a", "b", "c", venue="x")
    play.up("a", "b")
    play.look(10.0)
    for name in "ab":
        play.bring(name, trade(1))
    play.routing.delivering("a", play.now)
    for second in range(2, 60):
        play.look(10.0 + second)
        play.bring("b", trade(second))
    play.routing.delivered("a", play.now, waited=True)
    play.bring("a", trade(2))
    play.down("a")
    assert play.ids() == list(range(1, 60))


def test_who_came_while_who_is_heard_had_to_wait_was_not_there_all_the_while() -> None:
    play = Play("a", "b", venue="x")
    play.up("a")
    play.look(10.0)
    play.bring("a", trade(1))
    play.routing.delivering("a", play.now)
    play.look(30.0)
    play.up("b")
    play.bring("b", trade(5))
    play.look(60.0)
    play.routing.delivered("a", play.now, waited=True)
    play.down("a")
    assert play.ids() == [1, Gap("A", 2, 4, 3, 50), 5]


def test_what_had_no_room_while_who_is_heard_had_to_wait_is_told() -> None:
    """That this one is heard at last says nothing of what came meanwhile."""
    play = Play("a", "b", most=5, venue="x")
    play.up("a", "b")
    play.look(10.0)
    play.bring("a", trade(1))
    play.routing.delivering("a", play.now)
    play.look(12.0)
    play.bring("b", *(trade(number) for number in range(1, 21)))
    play.look(60.0)
    play.routing.delivered("a", play.now, waited=True)
    play.bring("a", trade(2))
    play.down("a")
    assert play.ids() == [1, 2, Gap("A", 3, 15, 13, 160), *range(16, 21)]


def test_what_waited_too_long_is_no_news() -> None:
    """Of a venue that had it long ago, and not of the one that is heard, which was there: also after a return."""
    play = Play("a", "b")
    play.up("a", "b")
    play.look(5.0)
    play.bring("a", trade(1))
    play.down("a")
    play.up("a")
    play.look(7.0)
    play.look(20.0)
    play.bring("b", trade(901, ts=500))
    play.look(100.0)
    play.routing.brought("a", 100.0)
    play.down("a")
    play.bring("b", trade(902, ts=600))
    assert play.ids() == [1, 902]


def test_at_the_beginning_the_primary_is_waited_for() -> None:
    play = Play("a", "b")
    play.up("b")
    play.bring("b", trade(1), trade(2))
    play.look(2.0)
    play.bring("b", trade(3))
    assert play.ids() == []
    play.look(3.0)
    assert play.ids() == [1, 2, 3], "what waited is there from the beginning, though older than the overlap"
    assert play.routing.assignment("A") == "b"


def test_what_waits_is_bounded_and_what_is_missing_then_is_told() -> None:
    play = Play("a", "b", most=3)
    play.up("a", "b")
    play.look(100.0)
    play.bring("a", trade(1), trade(2))
    play.bring("b", *(trade(number) for number in range(1, 9)))
    play.down("a")
    assert play.ids() == [1, 2, Gap("A", 3, 5, 3, 60), 6, 7, 8]


def test_what_a_living_feed_did_not_bring_is_not_missing() -> None:
    """Another venue trades more often. What only that one had is no hole while the first one brings other symbols."""
    play = Play("a", "b", symbols=("A", "B"))
    play.up("a", "b")
    play.look(10.0)
    play.bring("a", trade(1))
    play.bring("b", trade(901, ts=500))
    play.look(20.0)
    play.bring("a", trade(2, "B"))
    play.down("a")
    play.bring("b", trade(902, ts=600))
    assert play.ids() == [1, 2, 902]
    dead = Play("a", "b")
    dead.up("a", "b")
    dead.look(10.0)
    dead.bring("a", trade(1))
    dead.bring("b", trade(901, ts=500))
    dead.look(20.0)
    dead.bring("b", trade(902, ts=600))
    dead.down("a")
    assert dead.ids() == [1, Gap("A", 0, 0, 0, 600), 902]


def test_quotes_have_a_last_record_of_their_own() -> None:
    play = Play("a", "b")
    play.up("a", "b")
    play.bring("a", trade(5), quote(20))
    play.bring("b", trade(5), quote(10), quote(30), trade(6))
    play.down("a")
    assert play.out == [trade(5), quote(20), quote(30), trade(6)]


def test_a_refused_kind_comes_from_another_one_that_serves_it_and_fails_over() -> None:
    """The trades stay. What waits of the next one that has quotes goes on when the one that brought them is away."""
    play = Play("a", "b", "c")
    play.up("a", "b", "c")
    play.look(10.0)
    play.routing.refused("a", ("A", "quote"), play.now)
    play.look()
    for name in "bc":
        play.bring(name, trade(1), quote(1))
    play.bring("a", trade(1))
    assert play.out == [quote(1), trade(1)]
    play.look(20.0)
    assert (play.routing.assignment("A"), play.routing.provider(("A", "quote"))) == ("a", "b")
    play.bring("c", quote(2), trade(2))
    play.down("b")
    assert play.out == [quote(1), trade(1), quote(2)]
    play.down("a")
    assert play.out == [quote(1), trade(1), quote(2), trade(2)]


def test_symbols_that_change_together_stay_in_order_of_arrival() -> None:
    """Else those of the one would be late behind the other's."""
    play = Play("a", "b", symbols=("A", "B"))
    play.up("a", "b")
    play.bring("b", trade(1), trade(2, "B"), trade(3), trade(4, "B"))
    play.down("a")
    assert play.ids() == [1, 2, 3, 4]


TIMES = st.lists(st.tuples(st.integers(1, 30), st.sampled_from("ab")), max_size=40)


@given(TIMES, st.integers(0, 5), st.integers(0, 5), st.sampled_from([{"a", "b"}, {"a"}, {"b"}]))
def test_nothing_is_lost_that_one_of_them_had(
    changes: list[tuple[int, str]], lag_a: int, lag_b: int, fallible: set[str]
) -> None:
    """A trade happens each tick; a feed brings it ``lag`` ticks later if it is up all that time. Feeds break (``fallible``) and
    come back at any tick. What comes out grows, and what is not there is told as missing; while one feed is always up,
    nothing is."""
    play = Play("a", "b", rule=Failover(fail_after="300ms", recover_after="1s"))
    play.up("a", "b")
    # so that it is known that both count the same way
    for number in range(1, 40):
        play.now = number / 10
        for name, lag in (("a", lag_a), ("b", lag_b)):
            if number > lag:
                play.bring(name, trade(number - lag))
    at, lags, since = 40, {"a": lag_a, "b": lag_b}, {"a": 0, "b": 0}
    is_up = {"a": True, "b": True}
    switches = iter(changes + [(15, name) for name in "ab" if sum(c[1] == name for c in changes) % 2] + [(60, "")])
    for ticks, name in switches:
        for _ in range(ticks):
            play.look(at / 10)
            for feed, lag in lags.items():
                if is_up[feed] and at - lag >= since[feed]:
                    play.bring(feed, trade(at - lag))
            at += 1
        if name in fallible:
            is_up[name] = not is_up[name]
            if is_up[name]:
                since[name] = at
                play.up(name)
            else:
                play.down(name)
    passed = [item for item in play.ids() if not isinstance(item, Gap)]
    gaps = [item for item in play.out if isinstance(item, Gap)]
    assert passed == sorted(set(passed))
    told = {number for gap in gaps for number in range(gap.first, gap.last + 1)}
    assert told.isdisjoint(passed)
    assert {*passed, *told} == set(range(1, max(passed) + 1))
    assert max(passed) >= at - 1 - max(lags.values())
    if len(fallible) == 1:
        assert gaps == []


@given(
    st.lists(st.tuples(st.integers(1, 12), st.sampled_from("abc-")), max_size=40),
    st.tuples(*[st.integers(0, 4)] * 3),
    st.sampled_from(["abc", "ab", "ac", "bc"]),
)
def test_nothing_is_lost_that_one_of_three_had(
    changes: list[tuple[int, str]], lag: tuple[int, int, int], fallible: str
) -> None:
    """As above, with three of one venue: nothing is missing that is not told, or comes twice; while one is always up,
    nothing is missing. At ``-`` the process stands still, and sees after that what came meanwhile."""
    play = Play("a", "b", "c", rule=Failover(fail_after="300ms", recover_after="1s"), venue="x")
    play.up("a", "b", "c")
    lags = dict(zip("abc", lag, strict=True))
    for number in range(1, 40):
        play.now = number / 10
        for name in "abc":
            if number > lags[name]:
                play.bring(name, trade(number - lags[name]))
    changes = [change for change in changes if change[1] in fallible + "-"]
    at, since, is_up = 40, dict.fromkeys("abc", 0), dict.fromkeys("abc", True)
    ends = [(15, name) for name in "abc" if sum(c[1] == name for c in changes) % 2]
    for ticks, name in [*changes, *ends, (60, "end")]:
        meanwhile = [(feed, tick) for tick in range(at, at + ticks) for feed in "abc"]
        if name == "-":
            play.now = (at + ticks) / 10
        for feed, tick in meanwhile:
            if name != "-":
                play.look(tick / 10)
            if is_up[feed] and tick - lags[feed] >= since[feed]:
                play.bring(feed, trade(tick - lags[feed]))
        at += ticks
        if name in fallible:
            is_up[name] = not is_up[name]
            since[name] = at
            (play.up if is_up[name] else play.down)(name)
    passed = [item for item in play.ids() if not isinstance(item, Gap)]
    told = {number for gap in play.out if isinstance(gap, Gap) for number in range(gap.first, gap.last + 1)}
    assert passed == sorted(set(passed))
    assert told.isdisjoint(passed)
    assert {*passed, *told} == set(range(1, max(passed) + 1))
    assert max(passed) >= at - 1 - max(lag)
    if fallible != "abc":
        assert not any(isinstance(item, Gap) for item in play.out)
