"""The circuit breaker: its states, and what holds in any order of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_pipeline.circuit import CircuitBreaker, CircuitRule, Ticket
from market_data_pipeline.errors import ConfigError

RULE = CircuitRule(failure_rate=0.5, window="10s", min_calls=4, open_for="5s", trials=2)


def _called(breaker: CircuitBreaker, now: float, fails: bool) -> None:
    ticket = breaker.allow(now)
    assert ticket is not None
    (breaker.failed if fails else breaker.succeeded)(ticket, now)


def _opened(now: float = 0.0) -> CircuitBreaker:
    breaker = CircuitBreaker(RULE)
    for _ in range(4):
        _called(breaker, now, fails=True)
    assert breaker.state(now) == "open"
    return breaker


def test_it_opens_by_rate_and_not_before_enough_calls() -> None:
    breaker = CircuitBreaker(RULE)
    for fails in (True, True, True):
        _called(breaker, 0.0, fails)
    assert breaker.state(0.0) == "closed"
    assert breaker.recent(0.0) == (3, 3)
    _called(breaker, 0.0, fails=False)
    assert breaker.state(0.0) == "closed", "a success does not open it"
    _called(breaker, 0.0, fails=True)
    assert breaker.state(0.0) == "open"


def test_failures_outside_the_window_are_forgotten() -> None:
    breaker = CircuitBreaker(RULE)
    for _ in range(3):
        _called(breaker, 0.0, fails=True)
    _called(breaker, 10.5, fails=True)
    assert breaker.state(10.5) == "closed"
    assert breaker.recent(10.5) == (1, 1)


def test_half_open_allows_its_trials_and_closes_when_all_succeed() -> None:
    breaker = _opened()
    assert breaker.allow(4.9) is None
    assert breaker.wait(2.0) == pytest.approx(3.0)
    first, second = breaker.allow(5.0), breaker.allow(5.0)
    assert first is not None
    assert second is not None
    assert breaker.state(5.0) == "half_open"
    assert breaker.allow(5.0) is None
    assert breaker.wait(5.0) > 0
    breaker.succeeded(first, 5.1)
    assert breaker.allow(5.1) is None, "as many trials as allowed have been made"
    breaker.succeeded(second, 5.2)
    assert breaker.state(5.2) == "closed"
    assert breaker.recent(5.2) == (0, 0)


def test_one_failed_trial_opens_it_again_and_late_results_are_ignored() -> None:
    breaker = _opened()
    first, second = breaker.allow(5.0), breaker.allow(5.0)
    assert first is not None
    assert second is not None
    breaker.failed(first, 6.0)
    assert breaker.state(10.9) == "open"
    breaker.succeeded(second, 11.0)
    assert breaker.state(11.0) == "half_open"


def test_a_trial_that_was_given_up_makes_room() -> None:
    breaker = _opened()
    tickets = [breaker.allow(5.0), breaker.allow(5.0)]
    assert breaker.allow(5.0) is None
    assert tickets[0] is not None
    breaker.given_up(tickets[0])
    assert breaker.allow(5.0) is not None


@pytest.mark.parametrize(
    ("field", "value"), [("failure_rate", 0), ("failure_rate", 1.1), ("min_calls", 0), ("trials", 0), ("window", "0s")]
)
def test_a_rule_says_what_is_wrong(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        CircuitRule(**{field: value})  # type: ignore[arg-type]


class _Played:
    """A breaker with what must hold of it, told in another way: by the tickets that are out and when calls failed."""

    def __init__(self) -> None:
        self.breaker, self.now = CircuitBreaker(RULE), 0.0
        self.out: list[tuple[Ticket, int]] = []  # a ticket, and how often the state had changed when it was given
        self.changes, self.opened_at = 0, 0.0
        self.failures: list[float] = []

    def ask(self) -> None:
        state, wait = self.breaker.state(self.now), self.breaker.wait(self.now)
        ticket = self.breaker.allow(self.now)
        assert (ticket is None) == (wait > 0)
        assert ticket is not None or state != "closed"
        assert ticket is None or state != "open"
        assert state != "open" or self.now < self.opened_at + 5.0
        if ticket is not None:
            self.out.append((ticket, self.changes))
        if state == "half_open":
            assert sum(era == self.changes for _, era in self.out) <= RULE.trials

    def end(self, what: str) -> None:
        ticket, era = self.out.pop(0)
        before = self.breaker.state(self.now)
        if what == "give up":
            self.breaker.given_up(ticket)
        else:
            (self.breaker.succeeded if what == "succeed" else self.breaker.failed)(ticket, self.now)
        if what == "fail" and era == self.changes and before == "closed":
            self.failures.append(self.now)
        after = self.breaker.state(self.now)
        if (before, after) == ("closed", "open"):
            recent = [at for at in self.failures if at > self.now - 10.0]
            assert len(recent) >= RULE.failure_rate * RULE.min_calls
        if after != before:
            assert era == self.changes, "a call of an earlier time changes nothing"
            assert (before, after) in {("closed", "open"), ("half_open", "open"), ("half_open", "closed")}
            self.changes, self.opened_at, self.failures = self.changes + 1, self.now, []


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["ask", "succeed", "fail", "give up"])), max_size=200))
def test_invariants(steps: list[tuple[float, str]]) -> None:
    """Whatever happens: open allows nothing, half-open has at most its trials under way, closed always allows, and the circuit
    opens only after enough failures."""
    played = _Played()
    for passed, what in steps:
        played.now += passed
        if what == "ask":
            played.ask()
        elif played.out:
            played.end(what)
