"""Gap detection, against a plain loop, on rows and columns, with a restart anywhere."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline import Gap, GapDetector, Trade
from market_data_pipeline.frame import Frame, columns_from_rows, to_rows
from market_data_pipeline.operators.base import OperatorContext


class Bench:
    """An operator with a store behind it."""

    def __init__(self, **arguments: Any) -> None:
        self.template = GapDetector(**arguments)
        self.state: dict[str, bytes] = {}
        self.ctx = OperatorContext("gaps")
        self.passed: list[Any] = []
        self.gaps: list[Gap] = []
        self.restart()

    def restart(self) -> None:
        self.operator = self.template.fresh()
        self.operator.open(self.ctx)
        self.operator.restore(self.state)

    def feed(self, items: Any) -> None:
        for frame in self.operator.process(Frame(items)):
            (self.gaps if frame.port == "gaps" else self.passed).extend(to_rows(frame.items))
        for key, blob in self.operator.snapshot().items():
            assert blob is not None
            self.state[key] = blob


def trade(symbol: str, number: Any) -> Trade:
    return Trade(symbol, 7, 0, 1.0, 1.0, "", number)


def plain(items: list[Trade]) -> tuple[list[Gap], int]:
    last: dict[str, int] = {}
    gaps, disorder = [], 0
    for item in items:
        before, number = last.get(item.symbol), int(item.trade_id)
        if before is not None and number <= before:
            disorder += 1
            continue
        if before is not None and number > before + 1:
            gaps.append(Gap(item.symbol, before + 1, number - 1, number - before - 1, 7))
        last[item.symbol] = number
    return gaps, disorder


steps = st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from([1, 1, 1, 1, 1, 1, 2, 5, 0, -3])), max_size=80)


@given(steps, st.integers(1, 20), st.booleans(), st.booleans())
@settings(derandomize=True, max_examples=300, deadline=None)
def test_gaps_are_those_of_a_plain_loop(
    history: list[tuple[str, int]], size: int, columns: bool, restart: bool
) -> None:
    at = dict.fromkeys("ABC", 100)
    items = []
    for symbol, step in history:
        at[symbol] += step
        items.append(trade(symbol, at[symbol]))
    bench = Bench()
    for start in range(0, len(items), size):
        part = items[start : start + size]
        bench.feed(columns_from_rows(part)[0] if columns else part)
        if restart:
            bench.restart()
    gaps, disorder = plain(items)
    assert sorted(bench.gaps) == sorted(gaps)
    assert bench.passed == items
    assert (bench.ctx.counts["gap"], bench.ctx.counts["out_of_order"]) == (len(gaps), disorder)


def test_a_reconnect_starts_anew() -> None:
    bench = Bench(seq="n", connection="conn")
    row = {"symbol": "A", "ts_event": 3}
    bench.feed([{**row, "n": 1, "conn": "x"}, {**row, "n": 50, "conn": "y"}, {**row, "n": 52, "conn": "y"}])
    bench.restart()
    bench.feed([{**row, "n": 2, "conn": "x"}, {**row, "n": 4, "conn": "x"}])
    assert bench.gaps == [Gap("A", 51, 51, 1, 3), Gap("A", 3, 3, 1, 3)]


def test_what_has_no_number_passes_and_is_counted() -> None:
    bench = Bench()
    odd = [trade("A", "x7"), {"symbol": "A"}, 5, {"symbol": [], "trade_id": 1}, {"symbol": "A", "trade_id": True}]
    bench.feed([trade("A", 1), *odd, trade("A", 2)])
    assert bench.passed[1:6] == odd
    assert (bench.gaps, bench.ctx.counts["unnumbered"]) == ([], 5)


def test_many_symbols_change_few_blocks() -> None:
    bench = Bench()
    bench.feed(columns_from_rows([trade(f"S{n}", 1) for n in range(1_000)])[0])
    assert len(bench.state) == 4
    before = dict(bench.state)
    bench.feed([trade("S700", 2)])
    assert [key for key in bench.state if bench.state[key] != before[key]] == ["2"]
    bench.restart()
    bench.feed([trade("S999", 3), trade("S0", 2)])
    assert bench.gaps == [Gap("S999", 2, 2, 1, 7)]


def test_what_cannot_be_stored_passes_unnumbered() -> None:
    bench = Bench(connection="side")
    odd = [trade("\ud800", 5), trade("A", 2**70), {"symbol": "A", "trade_id": 2, "side": "\ud800"}]
    bench.feed([trade("A", 1), *odd, trade("A", 3)._replace(ts_event="now")])  # type: ignore[arg-type]
    bench.restart()
    assert len(bench.passed) == 5
    assert bench.gaps == [Gap("A", 2, 2, 1, 0)]
    assert bench.ctx.counts["unnumbered"] == 3
