"""Time that passes only as far as somebody looked."""

from __future__ import annotations

from market_data_pipeline.sources.watched_time import WatchedTime
from tests.tools.fake_clock import FakeClock


def test_it_is_the_clocks_time_while_looks_come_in_time() -> None:
    clock = FakeClock()
    time = WatchedTime(clock, 1.0)
    for _ in range(3):
        clock.advance(0.75)
        assert time.now() == clock.monotonic()
        time.looked()
        assert time.now() == clock.monotonic()


def test_what_came_before_the_last_look_has_been_read() -> None:
    clock = FakeClock()
    time = WatchedTime(clock, 1.0)
    for at in (0.5, 5.5):
        clock.advance(at - clock.monotonic())
        time.looked()
        clock.advance(0.25)
        assert time.read_until() == at


def test_behind_a_late_look_it_catches_up() -> None:
    clock = FakeClock()
    time = WatchedTime(clock, 1.0)
    clock.advance(5.0)
    assert time.now() == 1.0
    time.looked()
    assert time.now() == 1.0, "a late look lets no more pass"
    clock.advance(0.5)
    assert time.now() == 1.5
    time.looked()
    assert time.now() == 2.0
    for _ in range(4):
        time.looked()
    assert time.now() == clock.monotonic() == 5.5
