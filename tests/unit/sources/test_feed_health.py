"""State of a feed -> events."""

from __future__ import annotations

from market_data_pipeline.records import FEED_EVENTS, FeedEvent
from market_data_pipeline.sources.feed_health import FeedHealth


def _names(events: list[FeedEvent]) -> list[str]:
    assert all(event.event in FEED_EVENTS for event in events)
    return [event.event for event in events]


def test_quiet_is_not_disconnected() -> None:
    health = FeedHealth("x", quiet_after=30.0)
    assert _names(health.connected(100.0, 1)) == ["connected"]
    assert _names(health.look(129.9, 2)) == []
    assert health.look(130.0, 3) == [FeedEvent("x", "quiet", "", 3, "nothing for 30.0 s")]
    assert health.is_up
    assert _names(health.look(500.0, 4)) == [], "told once"
    assert _names(health.heard(501.0, 5)) == ["resumed"]
    assert _names(health.heard(502.0, 6)) == []
    assert health.silence(505.0) == 3.0
    assert _names(health.disconnected(7, "cut")) == ["disconnected"]
    assert not health.is_up
    assert health.silence(600.0) == 0.0


def test_what_is_no_transition_gives_no_event() -> None:
    health = FeedHealth("x", 30.0)
    assert health.disconnected(1, "refused") == [FeedEvent("x", "disconnected", "", 1, "refused")]
    assert health.disconnected(1, "refused again") == [], "told once"
    assert health.look(1000.0, 2) == []
    assert _names(health.suspended(3, "too often")) == ["suspended"]
    assert health.suspended(4, "again") == []
    assert _names(health.connected(5.0, 5)) == ["connected"]
    assert health.suspended(6, "it is up") == []


def test_a_refused_symbol_does_not_change_the_feed() -> None:
    health = FeedHealth("x", 30.0)
    health.connected(0.0, 0)
    assert health.refused(1, "trade", "A", "unknown") == [FeedEvent("x", "failed", "A", 1, "trade: unknown")]
    assert health.is_up
    assert _names(health.failed(2, "wrong key")) == ["failed"]
    assert not health.is_up
    assert health.failed(3, "wrong key") == []
