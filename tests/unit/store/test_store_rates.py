"""Rates in a job's record: as they are said, heard, and forgotten when nobody says them again."""

from __future__ import annotations

import pytest

from market_data_pipeline.store.rates import STALE_SECONDS, HeardRates, published, rates_in


def test_what_is_published_is_heard() -> None:
    assert rates_in(published(7, {"a": 1.5, "b": 2000.0})) == {"a": 1.5, "b": 2000.0}
    assert published(7, {}) == ""
    assert rates_in("") == {}


@pytest.mark.parametrize(
    "text",
    ["x", "[]", "1", "{}", '{"rates": 5}', '{"rates": {"a": "x"}}', '{"rates": {"a": null}}', '{"rates": {"a": 0}}',
     '{"rates": {"a": 1%s}}' % ("0" * 400), '{"rates": {"a": -1}}', '{"rates": {"a": NaN}}', '{"rates": {"a": Infinity}}'],
)  # fmt: skip
def test_what_is_damaged_limits_nobody(text: str) -> None:
    assert rates_in(text) == {}


def test_a_rate_holds_until_nobody_has_said_it_for_a_while() -> None:
    heard = HeardRates()
    assert heard.at(0.0) == {}
    heard.hear(published(1, {"a": 5.0}), 100.0)
    heard.hear(published(1, {"a": 5.0}), 100.0 + STALE_SECONDS - 1)
    assert heard.at(100.0 + STALE_SECONDS - 1) == {"a": 5.0}
    assert heard.at(100.0 + STALE_SECONDS) == {}, "the same words again are nobody's"
    heard.hear(published(2, {"a": 5.0}), 120.0)
    assert heard.at(120.0) == {"a": 5.0}
    heard.hear("", 121.0)
    assert heard.at(121.0) == {}
