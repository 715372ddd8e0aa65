"""What ``mdp run`` says about speed: the time in which the job worked, counted until the streams are empty."""

from __future__ import annotations

import pytest

from market_data_pipeline.launcher.meter import Meter


def test_waiting_for_the_first_item_does_not_count() -> None:
    meter = Meter()
    for tenth in range(9):
        assert meter.update(0, 0, tenth / 10) == 0.0
    assert meter.update(500, 1000, 0.9) == pytest.approx(500 / 0.9)
    assert meter.busy == pytest.approx(0.1)


def test_what_stands_in_the_streams_behind_the_last_item_counts() -> None:
    meter = Meter()
    meter.update(0, 0, 0.0)
    meter.update(1000, 1500, 0.5)
    meter.update(1000, 1900, 1.0)
    meter.update(1000, 2000, 1.5)
    meter.update(1000, 2000, 2.0)
    assert meter.busy == pytest.approx(1.5)


def test_silence_ends_the_rate_and_is_part_of_the_time_when_more_comes() -> None:
    meter = Meter()
    meter.update(0, 0, 0.0)
    assert meter.update(100, 100, 0.5) == pytest.approx(200.0)
    assert meter.update(100, 100, 1.0) == pytest.approx(200.0), "a short silence is no news"
    assert meter.update(100, 100, 2.0) == 0.0
    assert meter.busy == pytest.approx(0.5)
    assert meter.update(200, 200, 3.0) == pytest.approx(100.0)
    assert meter.busy == pytest.approx(3.0), "a commit may take longer than the time between two looks"


def test_what_came_in_before_this_run_is_not_its_own() -> None:
    """A job that goes on brings its counts along; its speed is that of what comes now."""
    meter = Meter()
    meter.update(1_000_000, 2_000_000, 0.0)
    meter.update(1_000_300, 2_000_600, 0.5)
    assert meter.items == 300
