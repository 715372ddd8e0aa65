"""SystemClock: the machine's clock in the units the contract names."""

import time

from market_data_pipeline.clock import SYSTEM_CLOCK, Clock, SystemClock


def test_wall_time_is_ns_since_the_epoch() -> None:
    before = time.time_ns()
    now = SYSTEM_CLOCK.time_ns()
    assert before <= now <= time.time_ns()
    assert isinstance(now, int)


def test_monotonic_is_in_seconds_and_never_goes_back() -> None:
    before = time.monotonic()
    readings = [SystemClock().monotonic() for _ in range(100)]
    assert readings == sorted(readings)
    assert before <= readings[0] <= readings[-1] <= time.monotonic()


async def test_sleep_of_zero_returns() -> None:
    clock: Clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0)
    assert clock.monotonic() - before < 5.0
