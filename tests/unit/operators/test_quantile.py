"""Quantiles: exact for few items, near for many, and always the same for the same items in the same order."""

import sys
from typing import Any

import numpy as np
import pytest

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, Columns, Frame, to_rows
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.quantile import EXACT, Quantile
from market_data_pipeline.operators.window import WindowAggregate
from market_data_pipeline.operators.windows import Session, Tumble

QS = (0.0, 0.01, 0.25, 0.5, 0.9, 0.999, 1.0)


def started(windows: Any = None, q: Any = QS) -> WindowAggregate:
    operator = WindowAggregate(windows or Tumble("1h"), {"q": Quantile("price", q)}, key=None)
    operator.open(OperatorContext("w"))
    return operator


def prices(values: Any, ts: int = 0) -> Frame:
    values = np.asarray(values, np.float64)
    return Frame(Columns("", {"ts_event": np.full(len(values), ts), "price": values}))


def only(operator: WindowAggregate) -> Any:
    (row,) = [row for frame in operator.advance(END) for row in to_rows(frame.items)]
    return row["q"]


def restarted(operator: WindowAggregate) -> WindowAggregate:
    successor = started()
    successor.restore({name: blob for name, blob in operator.snapshot().items() if blob is not None})
    return successor


@pytest.mark.parametrize("n", [1, 2, 3, 10, EXACT - 1])
def test_few_items_are_exact(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    operator = started()
    list(operator.process(prices(values)))
    assert only(operator) == pytest.approx(np.quantile(values, QS))


@pytest.mark.parametrize("shape", ["normal", "lognormal", "uniform"])
def test_many_items_are_near_in_rank(shape: str) -> None:
    values = getattr(np.random.default_rng(1), shape)(size=100_000)
    operator = started()
    list(operator.process(prices(values)))
    ranks = [float((values <= found).mean()) for found in only(operator)]
    assert ranks == pytest.approx(QS, abs=0.01)
    near_ends = [(rank, q) for rank, q in zip(ranks, QS, strict=True) if not 0.01 < q < 0.99]
    assert all(abs(rank - q) < 0.001 for rank, q in near_ends)


def test_frames_commits_and_restarts_change_nothing() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=5000)
    whole = started()
    list(whole.process(prices(values)))
    expected = only(whole)
    for _ in range(3):
        operator, at = started(), 0
        while at < len(values):
            size = int(rng.integers(1, 700))
            list(operator.process(prices(values[at : at + size])))
            at += size
            operator = restarted(operator)
        assert only(operator) == expected


def test_an_early_look_changes_nothing() -> None:
    values = np.random.default_rng(3).normal(size=3000)
    plain, watched = started(), WindowAggregate(Tumble("1h"), {"q": Quantile("price", QS)}, key=None, early_items=130)
    watched.open(OperatorContext("w"))
    for operator in (plain, watched):
        list(operator.process(prices(values)))
    assert only(plain) == only(watched)


@pytest.mark.parametrize(("left", "right"), [(100, 100), (1000, 50), (50, 1000), (1000, 1000)])
def test_sessions_that_become_one(left: int, right: int) -> None:
    values = np.random.default_rng(4).normal(size=left + right + 1)
    operator = started(Session(10))
    list(operator.process(prices(values[:left], 0)))
    list(operator.process(prices(values[left:-1], 20)))
    list(operator.process(prices(values[-1:], 10)))
    ranks = [float((values <= found).mean()) for found in only(operator)]
    assert ranks == pytest.approx(QS, abs=0.02)


def test_one_quantile_is_a_number() -> None:
    operator = started(q=0.5)
    list(operator.process(prices([3, 1, 2])))
    assert only(operator) == 2.0


@pytest.mark.parametrize("q", [-0.1, 1.1, "0.5", True, (), (0.5, 2), None])
def test_q_is_checked(q: Any) -> None:
    with pytest.raises(ConfigError, match=r"^q: .* is not allowed; a number from 0 to 1"):
        Quantile("price", q)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketches", None)
    with pytest.raises(ConfigError, match=r"^Quantile needs .*: pip install 'market-data-pipeline\[sketches\]'$"):
        Quantile("price")
