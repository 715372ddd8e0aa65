"""Recorded 1-minute bars to coarser ones, row for row as polars does it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tools.recorded import fx_minutes, needs_fx, resampled

from market_data_pipeline.frame import END, NO_MARK, Columns, Dictionary, Frame, to_rows
from market_data_pipeline.operators.base import Operator, OperatorContext
from market_data_pipeline.operators.resample import LabelBars, Resample
from market_data_pipeline.records import Bar

pytestmark = needs_fx
MINUTE = 60_000_000_000


class Line:
    """Operators one behind the other, each restored from its stored state before every frame if wanted."""

    def __init__(self, *operators: Operator, restarts: bool = False) -> None:
        self.templates, self.restarts = operators, restarts
        self.stored: list[dict[str, bytes]] = [{} for _ in operators]
        self.working = [self._new(n, NO_MARK) for n in range(len(operators))]

    def _new(self, at: int, watermark: int) -> Operator:
        operator = self.templates[at].fresh()
        operator.open(OperatorContext("line"))
        operator.restore(self.stored[at], watermark)
        return operator

    def step(self, items: Any, mark: int) -> list[Any]:
        frames = [Frame(items)]
        for at, operator in enumerate(self.working):
            frames = [made for frame in frames if len(frame.items) for made in operator.process(frame)]
            frames += operator.advance(mark)
            assert operator.ctx.dead_letters == []
            if self.restarts:
                for key, blob in operator.snapshot().items():
                    if blob is None:
                        self.stored[at].pop(key, None)
                    else:
                        self.stored[at][key] = blob
                self.working[at] = self._new(at, mark)
        return [row for frame in frames for row in to_rows(frame.items)]


def minutes_as_bars(shift: int = 0) -> Columns:
    """The recorded minutes; ``ts_event`` is their start plus ``shift``."""
    table = fx_minutes()
    prices: dict[str, Any] = {name: table[name].to_numpy() for name in ("open", "high", "low", "close")}
    ts = table["ts"].to_numpy()
    return Columns("", {"symbol": Dictionary.encode(["GBPUSD"] * len(ts)), "ts_event": ts + shift, **prices})


def coarse(line: Line, minutes: Columns, frame_items: int) -> list[tuple[Any, ...]]:
    """What ``line`` makes of ``minutes``, with the watermark of a source without disorder."""
    bars: list[Bar] = []
    for start in range(0, len(minutes), frame_items):
        part = minutes.take(slice(start, start + frame_items))
        bars += line.step(part, int(part.array("ts_event").max()))
    bars += line.step([], END)
    assert all(bar.is_final and bar.revision == 0 and bar.symbol == "GBPUSD" for bar in bars)
    return [(bar.ts_open, bar.open, bar.high, bar.low, bar.close) for bar in bars]


@pytest.mark.parametrize(("interval", "every"), [("5m", "5m"), ("1h", "1h"), ("1d", "1d")])
@pytest.mark.parametrize("frame_items", [1000, 97])
def test_minutes_resampled_equal_polars_row_for_row(interval: str, every: str, frame_items: int) -> None:
    expected = resampled(fx_minutes(), every)
    assert len(expected) > (20 if interval == "1d" else 500)
    assert coarse(Line(LabelBars("1m"), Resample(interval)), minutes_as_bars(), frame_items) == expected


def test_by_way_of_five_minutes_and_with_restarts_it_is_the_same() -> None:
    line = Line(LabelBars("1m"), Resample("5m"), Resample("1h"), restarts=True)
    assert coarse(line, minutes_as_bars(), 500) == resampled(fx_minutes(), "1h")


def test_minutes_that_are_labelled_by_their_end() -> None:
    line = Line(LabelBars("1m", label="right"), Resample("1h"))
    assert coarse(line, minutes_as_bars(shift=MINUTE), 1000) == resampled(fx_minutes(), "1h")


def test_disorder_between_two_watermarks_changes_nothing() -> None:
    minutes, order = minutes_as_bars(), list(range(30_117))
    line, rng, found = Line(LabelBars("1m"), Resample("1h")), random.Random(7), []
    for start in range(0, len(order), 700):
        part = order[start : start + 700]
        mark = int(minutes.array("ts_event")[part].max())
        rng.shuffle(part)
        found += line.step(minutes.take(part), mark)  # type: ignore[arg-type]
    found += line.step([], END)
    assert [(bar.ts_open, bar.open, bar.high, bar.low, bar.close) for bar in found] == resampled(fx_minutes(), "1h")


def test_the_oracle_is_the_plain_loop() -> None:
    table = fx_minutes()
    groups: dict[int, list[tuple[float, ...]]] = {}
    for ts, *prices in table.select("ts", "open", "high", "low", "close").rows():
        groups.setdefault(ts // (60 * MINUTE) * 60 * MINUTE, []).append(tuple(prices))
    plain = [
        (start, rows[0][0], max(row[1] for row in rows), min(row[2] for row in rows), rows[-1][3])
        for start, rows in sorted(groups.items())
    ]
    assert resampled(table, "1h") == plain
