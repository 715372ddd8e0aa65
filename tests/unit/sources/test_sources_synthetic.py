"""Synthetic trades: the same for the same arguments, resumable, with the shares that were asked for."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate
from typing import Any

import pytest
from tools.fake_clock import FakeClock

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import to_rows
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.records import Trade
from market_data_pipeline.sources.base import Batch, SourceContext
from market_data_pipeline.sources.synthetic import DEFAULT_START, Synthetic


async def batches(source: Synthetic, position: Any = None, clock: FakeClock | None = None) -> list[Batch]:
    fresh = source.fresh()
    await fresh.open(SourceContext("src", clock=clock or FakeClock()), position)
    found = []
    while (batch := await fresh.read()) is not None:
        found.append(batch)
    await fresh.close()
    return found


async def rows(source: Synthetic) -> list[Trade]:
    return [row for batch in await batches(source) for row in to_rows(batch.items)]


@pytest.mark.parametrize("items", [0, 1, 999, 32768, 32769, 70000])
async def test_counts_are_exact(items: int) -> None:
    found = await batches(Synthetic(symbols=5, items=items, duplicates=0.1, disorder=0.1))
    assert sum(len(batch.items) for batch in found) == items


async def test_the_same_arguments_give_the_same_items() -> None:
    make = lambda seed: Synthetic(symbols=20, items=5000, duplicates=0.02, disorder=0.1, seed=seed)  # noqa: E731
    first = await rows(make(7))
    assert first == await rows(make(7))
    assert first != await rows(make(8))


async def test_resume_at_any_batch_gives_the_same_rest() -> None:
    source = Synthetic(symbols=20, items=2000, rate=40_000, duplicates=0.05, disorder=0.2, seed=3)
    whole = await batches(source)
    assert len(whole) == 10
    for at, batch in enumerate(whole):
        rest = await batches(source, unpack(pack(batch.position)))
        assert [to_rows(b.items) for b in rest] == [to_rows(b.items) for b in whole[at + 1 :]]


async def test_records_are_sane_and_in_order_without_disorder() -> None:
    found = await rows(Synthetic(symbols=30, items=20_000, event_rate=1000))
    assert [row.ts_event for row in found] == [DEFAULT_START + n * 1_000_000 for n in range(20_000)]
    assert [row.trade_id for row in found] == list(range(20_000))
    assert {row.symbol for row in found} <= {f"S{i:04d}" for i in range(30)}
    assert {row.side for row in found} == {"buy", "sell"}
    assert all(row.price > 0 and row.size > 0 and row.ts_recv >= row.ts_event for row in found)
    assert all(abs(row.price * 100 - round(row.price * 100)) < 1e-6 for row in found)


async def test_popularity_is_zipf_or_flat() -> None:
    counts = Counter(row.symbol for row in await rows(Synthetic(symbols=10, items=60_000, zipf=1.0)))
    harmonic = sum(1 / n for n in range(1, 11))
    for rank in range(1, 11):
        assert counts[f"S{rank - 1:04d}"] == pytest.approx(60_000 / rank / harmonic, rel=0.1)
    flat = Counter(row.symbol for row in await rows(Synthetic(symbols=10, items=60_000, zipf=0.0)))
    assert all(count == pytest.approx(6000, rel=0.1) for count in flat.values())


async def test_the_share_of_duplicates_is_about_what_was_asked_for() -> None:
    found = await rows(Synthetic(symbols=50, items=60_000, duplicates=0.05, seed=1))
    by_id: dict[int | str, Trade] = {}
    again = 0
    for row in found:
        again += row.trade_id in by_id
        assert by_id.setdefault(row.trade_id, row) == row, "a duplicate is equal to its original"
    assert again / len(found) == pytest.approx(0.05, rel=0.15)


async def test_disorder_has_its_share_and_never_exceeds_max_delay() -> None:
    source = Synthetic(symbols=50, items=60_000, disorder=0.1, disorder_by="20ms", event_rate=10_000, seed=1)
    found = await rows(source)
    assert source.max_delay == 20_000_000
    newest = list(accumulate((row.ts_event for row in found), max))
    behind = [top - row.ts_event for top, row in zip(newest, found, strict=True)]
    assert max(behind) <= 20_000_000
    assert max(behind) > 10_000_000
    assert sum(lag > 0 for lag in behind) / len(found) == pytest.approx(0.1, rel=0.15)
    assert {row.trade_id for row in found} == set(range(60_000)), "disorder loses nothing"


async def test_rate_paces_by_the_clock_and_not_without_one() -> None:
    clock = FakeClock()
    await batches(Synthetic(symbols=3, items=1000, rate=500), clock=clock)
    assert clock.monotonic() == pytest.approx(2.0)
    idle = FakeClock()
    await batches(Synthetic(symbols=3, items=1000), clock=idle)
    assert idle.slept == []


async def test_rate_goes_on_at_the_same_pace_after_a_resume() -> None:
    source = Synthetic(symbols=3, items=1000, rate=500)
    position = (await batches(source))[249].position
    clock = FakeClock()
    rest = await batches(source, position, clock)
    assert sum(len(batch.items) for batch in rest) == 500
    assert clock.monotonic() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"symbols": 0}, "symbols=0"),
        ({"items": -1}, "items=-1"),
        ({"duplicates": 1.5}, "duplicates=1.5"),
        ({"disorder": -0.1}, "disorder=-0.1"),
        ({"rate": 0}, "rate=0"),
        ({"event_rate": -5}, "event_rate=-5"),
        ({"disorder_by": "later"}, "disorder_by: 'later'"),
        ({"idle_after": 0}, "idle_after: 0 must be greater than zero"),
        ({"live": True}, "live: True needs idle_after"),
    ],
)
def test_wrong_arguments_are_named_with_their_value(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Synthetic(**arguments)


def test_idleness_is_off_unless_it_is_asked_for() -> None:
    assert (Synthetic().idle_after, Synthetic().live) == (None, False)
    source = Synthetic(idle_after="2s", live=True)
    assert (source.idle_after, source.live) == (2_000_000_000, True)
    assert source.config()["idle_after"] == 2_000_000_000, "part of the plan"
