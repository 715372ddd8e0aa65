"""Rules of a router, and what they decide over time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_pipeline.component import describe
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.sources.feed_health import Feed
from market_data_pipeline.sources.routes import BySymbol, Failover, Priority, RoundRobin, RouteRule
from market_data_pipeline.sources.routing import Routing, Switch

ALL = ("a", "b", "c")
SYMBOLS = tuple(f"S{number}" for number in range(7))


def routing(
    rule: RouteRule,
    providers: Sequence[str] = ALL,
    symbols: Sequence[str] = ("A", "B"),
    kinds: Sequence[str] = ("trade",),
) -> Routing:
    """One feed per provider, called like it, with the symbols that it may bring."""
    rankings = {symbol: rule.ranking(symbol, providers) for symbol in symbols}
    feeds = [
        Feed(name, name, tuple(s for s in symbols if any(name in level for level in rankings[s]))) for name in providers
    ]
    return Routing(rule, rankings, [feed for feed in feeds if feed.symbols], 0.0, kinds=kinds)


def fit(of: Routing, now: float, *providers: str, symbols: Sequence[str] = ("A", "B")) -> None:
    for provider in providers:
        of.fit(provider, [item for item in of.items if item[0] in symbols and of.has(item, provider)], now)


def spread(of: Routing, symbols: Sequence[str] = SYMBOLS) -> list[str]:
    return [of.assignment(symbol) for symbol in symbols]


@pytest.mark.parametrize(
    ("rule", "ranking"),
    [
        (Failover(), (("a",), ("b",), ("c",))),
        (RoundRobin(), (("a", "b", "c"),)),
        (Priority(["c", ["b", "a"]]), (("c",), ("b", "a"))),
        (BySymbol({"BTC*": "b"}), (("b",),)),
        (BySymbol({"ETH*": "b"}), (("a",), ("b",), ("c",))),
        (BySymbol({"ETH*": "b"}, default="c"), (("c",),)),
        (BySymbol([("BTC/*", ["c", "a"]), ("*", "b")]), (("c",), ("a",))),
        (BySymbol({"*": ["a", "b", "a"], "BTC*": "c"}), (("a",), ("b",))),
        (BySymbol({"btc*": "a", "BTC/US[DT]": "b"}), (("b",),)),
    ],
)
def test_who_may_bring_a_symbol(rule: RouteRule, ranking: Any) -> None:
    assert rule.ranking("BTC/USD", ALL) == ranking


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Failover(fail_after="soon"), "fail_after: 'soon' is not a duration"),
        (lambda: Failover(recover_after=-1), "recover_after: -1 must not be below zero"),
        (lambda: RoundRobin(stale_after="0s"), "stale_after: '0s' must be greater than zero"),
        (lambda: Failover(standby="warm"), "standby: 'warm' is not allowed; one of: hot, cold"),
        (lambda: Priority("binance"), "levels: names of providers"),
        (lambda: Priority(["a", []]), "levels: one of them has no provider"),
        (lambda: Priority(["a", ["b", "a"]]), "levels: 'a' stands there twice"),
        (lambda: Priority(["a", "b"]).ranking("X", ALL), "levels: provider 'c' stands in none of them; each provider needs"),
        (lambda: Priority(["binanec"]).ranking("X", ["binance"]), "no provider 'binanec'; did you mean 'binance'?"),
        (lambda: BySymbol({}), "patterns: names of providers by pattern"),
        (lambda: BySymbol("BTC*"), "patterns: names of providers by pattern"),
        (lambda: BySymbol({"*": []}), "patterns: '*' has no provider"),
        (lambda: BySymbol({"*": "a"}, default=[]), "default: names of providers"),
        (lambda: BySymbol({"ETH*": "z"}).ranking("X", ALL), "patterns: 'ETH*': no provider 'z'; there are: a, b, c"),
        (lambda: BySymbol({"X": "a"}, default="coinbse").ranking("X", ["a", "coinbase"]), "mean 'coinbase'?"),
    ],
)  # fmt: skip
def test_what_a_rule_may_not_be(make: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        make()


def test_a_rule_is_described_by_its_fields() -> None:
    """As a file gives them, and as a program does."""
    assert describe(BySymbol({"BTC*": ["a", "b"]}, standby="cold")) == {
        "type": "market_data_pipeline.sources.routes.BySymbol",
        "fail_after": "3s", "recover_after": "30s", "stale_after": None, "standby": "cold",
        "patterns": {"BTC*": ["a", "b"]}, "default": None,
    }  # fmt: skip
    assert describe(Priority(["a", ["b", "c"]])) == describe(Priority(("a", ("b", "c"))))


def test_a_provider_is_left_late_and_returned_to_later() -> None:
    of = routing(Failover(fail_after="3s", recover_after="30s"))
    fit(of, 1.0, "a", "b", "c")
    assert of.decide(2.0) == []
    of.lost("a", "disconnected", 10.0)
    assert of.decide(12.9) == []
    assert of.decide(13.0) == [Switch("A", "a", "b", "disconnected"), Switch("B", "a", "b", "disconnected")]
    assert of.loads() == {"a": 0, "b": 2, "c": 0}
    fit(of, 20.0, "a")
    assert of.decide(49.9) == []
    assert of.decide(50.0) == [Switch("A", "b", "a", "recovered"), Switch("B", "b", "a", "recovered")]
    assert of.decide(500.0) == []


def test_a_short_break_changes_nothing() -> None:
    of = routing(Failover(fail_after="3s"))
    fit(of, 0.0, "a", "b")
    for second in range(10, 100, 3):
        of.lost("a", "disconnected", float(second))
        assert of.decide(second + 2.9) == []
        fit(of, second + 2.95, "a")
        assert of.decide(second + 2.99) == []


def test_another_reason_is_no_new_beginning() -> None:
    of = routing(Failover(fail_after="3s"))
    fit(of, 0.0, "a", "b")
    for second, why in [(10.0, "disconnected"), (11.0, "suspended"), (12.0, "disconnected"), (12.9, "suspended")]:
        of.lost("a", why, second)
        assert of.decide(second) == []
    assert of.decide(13.0) == [Switch("A", "a", "b", "suspended"), Switch("B", "a", "b", "suspended")]


def test_where_none_is_fit_nobody_moves() -> None:
    of = routing(Failover(fail_after="1s"))
    fit(of, 0.0, "a", "b")
    of.lost("b", "disconnected", 5.0)
    of.lost("a", "suspended", 6.0)
    assert of.decide(100.0) == []
    fit(of, 200.0, "c")
    assert of.decide(200.0) == [Switch("A", "a", "c", "suspended"), Switch("B", "a", "c", "suspended")]


def test_a_refused_symbol_moves_alone_and_for_good() -> None:
    of = routing(Failover(fail_after="1s", recover_after="5s"))
    fit(of, 0.0, "a", "b")
    of.refused("a", ("B", "trade"), 1.0)
    assert of.decide(2.0) == [Switch("B", "a", "b", "refused")]
    fit(of, 3.0, "a")  # of the call that had asked for it
    assert of.decide(100.0) == []
    of.lost("a", "disconnected", 100.0)
    assert of.decide(101.0) == [Switch("A", "a", "b", "disconnected")]
    fit(of, 102.0, "a", symbols=["A"])
    assert of.decide(107.0) == [Switch("A", "b", "a", "recovered")]


def test_a_refused_kind_moves_alone_and_the_rest_stays() -> None:
    for kind, stays in (("trade", "quote"), ("quote", "trade")):
        of = routing(Failover(fail_after="1s", recover_after="5s"), kinds=("trade", "quote"))
        fit(of, 0.0, "a", "b", "c")
        of.refused("b", ("A", kind), 1.0)
        of.refused("a", ("A", kind), 1.0)
        told = of.decide(2.0)
        assert told == ([Switch("A", "a", "c", "refused")] if kind == "trade" else []), "whose trades, whose symbol"
        assert (of.provider(("A", kind)), of.provider(("A", stays))) == ("c", "a"), "the next one refuses it, too"
        of.lost("a", "disconnected", 10.0)
        of.decide(11.0)
        assert of.provider(("A", stays)) == "b"
        fit(of, 20.0, "a")
        of.decide(25.0)
        assert {of.provider(item) for item in of.items} == {"a"}, "a new connection is asked anew"


def test_kinds_of_a_symbol_go_together_where_several_share() -> None:
    of = routing(RoundRobin(fail_after="0s", recover_after="5s"), ("a", "b"), "ABCD", kinds=("trade", "quote"))
    fit(of, 0.0, "a", "b", symbols="ABCD")
    of.refused("a", ("A", "quote"), 1.0)
    of.refused("b", ("B", "trade"), 1.0)
    of.decide(2.0)
    apart = {symbol for symbol in "ABCD" if of.provider((symbol, "trade")) != of.provider((symbol, "quote"))}
    assert apart == {"A", "B"}
    of.decide(9.0)
    assert [of.provider(("B", kind)) for kind in ("trade", "quote")] == ["a", "b"], "what b serves stays with it"
    assert of.loads() == {"a": 2, "b": 2}
    of.lost("b", "disconnected", 10.0)
    of.decide(10.0)
    assert of.loads() == {"a": 4, "b": 0}
    fit(of, 11.0, "b", symbols="ABCD")
    for now in (16.0, 16.1, 30.0):
        of.decide(now)
    assert of.loads() == {"a": 2, "b": 2}
    apart = {symbol for symbol in "ABCD" if of.provider((symbol, "trade")) != of.provider((symbol, "quote"))}
    assert apart <= {"A"}, "what is refused, and no more"


def test_quiet_counts_only_while_another_one_is_not() -> None:
    of = routing(Failover(fail_after="1s", recover_after="5s", stale_after="10s"), ("a", "b"))
    fit(of, 0.0, "a", "b")
    of.brought("a", 1.0)
    of.brought("b", 1.0)
    assert of.decide(100.0) == [], "the market is closed"
    of.brought("b", 101.0)
    assert of.decide(101.0) == [], "quiet from now on"
    assert of.decide(102.0) == [Switch("A", "a", "b", "quiet"), Switch("B", "a", "b", "quiet")]
    assert of.decide(500.0) == [], "that b is quiet, too, does not make a good one of a"
    of.brought("a", 500.0)
    assert of.decide(504.9) == []
    assert [switch.why for switch in of.decide(505.0)] == ["recovered", "recovered"]


def test_who_is_not_read_on_is_not_quiet() -> None:
    of = routing(Failover(fail_after="0s", stale_after="10s"), ("a", "b"))
    fit(of, 0.0, "a", "b")
    of.delivering("a", 10.0)
    of.brought("b", 50.0)
    assert of.decide(50.0) == []
    of.delivered("a", 50.0, waited=True)
    assert len(of.decide(50.0)) == 2


def test_levels_of_equal_rank_share_and_the_next_one_helps() -> None:
    of = routing(Priority([["a", "b"], "c"], fail_after="1s", recover_after="5s"), symbols=SYMBOLS)
    fit(of, 0.0, *ALL, symbols=SYMBOLS)
    assert spread(of) == list("abababa")
    of.lost("a", "disconnected", 10.0)
    assert {switch.new for switch in of.decide(11.0)} == {"b"}
    of.lost("b", "disconnected", 20.0)
    assert {switch.new for switch in of.decide(21.0)} == {"c"}
    fit(of, 30.0, "b", symbols=SYMBOLS)
    fit(of, 31.0, "a", symbols=SYMBOLS)
    assert len(of.decide(35.0)) == 7
    assert spread(of) == list("bbbbbbb")
    assert {switch.why for switch in of.decide(36.0)} == {"even"}
    assert Counter(spread(of)) == {"a": 3, "b": 4}


def test_round_robin_moves_as_few_as_it_can() -> None:
    of = routing(RoundRobin(fail_after="1s", recover_after="5s"), symbols=SYMBOLS)
    fit(of, 0.0, *ALL, symbols=SYMBOLS)
    assert spread(of) == list("abcabca")
    assert of.decide(10.0) == []
    of.lost("b", "disconnected", 10.0)
    moved = of.decide(11.0)
    assert {switch.symbol for switch in moved} == {"S1", "S4"}
    assert Counter(spread(of)) in ({"a": 3, "c": 4}, {"a": 4, "c": 3})
    fit(of, 20.0, "b", symbols=SYMBOLS)
    assert of.decide(24.9) == []
    back = of.decide(25.0)
    assert [(switch.symbol, switch.why) for switch in sorted(back)] == [("S1", "even"), ("S4", "even")]
    assert spread(of) == list("abcabca")


def test_an_uneven_rest_does_not_move_for_ever() -> None:
    """b refuses all but one: it cannot be made even, and what it has stays."""
    of = routing(RoundRobin(fail_after="0s", recover_after="0s"), ("a", "b"), SYMBOLS)
    fit(of, 0.0, "a", "b", symbols=SYMBOLS)
    for symbol in SYMBOLS[1:]:
        of.refused("b", (symbol, "trade"), 1.0)
    of.decide(1.0)
    assert of.decide(2.0) == []
    assert of.loads() == {"a": 6, "b": 1}


def test_cold_backups_are_needed_from_a_failure_to_the_return() -> None:
    of = routing(Failover(fail_after="4s", recover_after="5s", standby="cold"), ("a", "b"))
    feed = Feed("b", "b", ("A", "B"))
    assert not of.is_needed(feed, 3.9)
    assert of.is_needed(feed, 4.0), "a is not there in time"
    fit(of, 5.0, "a")
    assert not of.is_needed(feed, 6.0)
    of.lost("a", "disconnected", 10.0)
    assert of.is_needed(feed, 10.0), "before fail_after is over"
    fit(of, 11.0, "b")
    assert len(of.decide(14.0)) == 2
    fit(of, 20.0, "a")
    of.decide(24.9)
    assert of.is_needed(feed, 24.9)
    assert len(of.decide(25.0)) == 2
    assert not of.is_needed(feed, 25.0)


STEPS = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from(ALL), st.booleans()), min_size=1, max_size=80
)  # fmt: skip
RULES = st.sampled_from(
    [
        Failover(fail_after="3s", recover_after="10s"),
        Priority([["a", "b"], "c"], fail_after="3s", recover_after="10s"),
        RoundRobin(fail_after="3s", recover_after="10s"),
        BySymbol({"S[0-3]": ["b", "a"]}, fail_after="3s", recover_after="10s"),
    ]
)


@given(RULES, STEPS)
def test_no_switch_without_its_time(rule: RouteRule, steps: list[tuple[int, str, bool]]) -> None:
    """Providers come and go at any times (tenths of a second). Whoever is left was unfit for 3 s, or whoever is taken was fit
    for 10 s; so between two returns to one provider, of one symbol, there are 10 s. Nobody is taken
    who is unfit. When all have come back, each symbol is at its best, evenly."""
    of = routing(rule, symbols=SYMBOLS)
    now, since = 0.0, dict.fromkeys(ALL, 0.0)
    up = dict.fromkeys(ALL, False)
    returned: dict[tuple[str, str], float] = {}
    for tenths, provider, is_up in steps:
        for _ in range(tenths):
            now = round(now + 0.1, 3)
            for switch in of.decide(now):
                assert up[switch.new]
                if switch.why in ("recovered", "even"):
                    assert now - since[switch.new] > 9.99
                    assert now - returned.get((switch.symbol, switch.new), -100.0) > 9.99
                    returned[switch.symbol, switch.new] = now
                else:
                    assert not up[switch.old]
                    assert now - since[switch.old] > 2.99
        if up[provider] != is_up:
            up[provider], since[provider] = is_up, now
            if is_up:
                fit(of, now, provider, symbols=SYMBOLS)
            else:
                of.lost(provider, "disconnected", now)
    fit(of, now, *(name for name in ALL if not up[name]), symbols=SYMBOLS)
    of.decide(now + 10.0)
    of.decide(now + 10.1)
    best = rule.ranking("S6", ALL)[0]
    for symbol in SYMBOLS:
        assert of.assignment(symbol) in rule.ranking(symbol, ALL)[0], "all are back"
    if len(best) > 1:
        counts = [of.loads()[name] for name in best]
        assert max(counts) - min(counts) <= 1
