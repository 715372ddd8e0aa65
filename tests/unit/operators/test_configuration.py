"""Mistakes in arguments are told where they are made, not in a worker."""

from collections.abc import Callable
from typing import Any

import pytest

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.operators.aggregations import Count, Sum
from market_data_pipeline.operators.bars import TradeRules, TumblingBars
from market_data_pipeline.operators.batch import Batcher
from market_data_pipeline.operators.conflate import Conflate
from market_data_pipeline.operators.gaps import GapDetector
from market_data_pipeline.operators.joins.asof import AsofJoin
from market_data_pipeline.operators.resample import LabelBars
from market_data_pipeline.operators.router import Router, TableRouter
from market_data_pipeline.operators.throttle import Throttle
from market_data_pipeline.operators.window import TumblingWindow, WindowAggregate
from market_data_pipeline.operators.windows import Tumble

FAR = 10**30
COUNT = {"n": Count()}


@pytest.mark.parametrize(
    ("make", "named", "setting"),
    [
        (TumblingBars, {"convention": "right"}, "convention"),
        (TumblingBars, {"rules": True}, "rules"),
        (TumblingBars, {"align_to": FAR}, "align_to"),
        (TumblingBars, {"early_every": FAR}, "early_every"),
        (TradeRules, {"corrections": "yes"}, "corrections"),
        (TradeRules, {"updates_ohlc": "I"}, "updates_ohlc"),
        (LabelBars, {"interval": FAR}, "interval"),
        (WindowAggregate, {"windows": Tumble(5), "aggregations": [Count()]}, "aggregations"),
        (WindowAggregate, {"windows": Tumble(5), "aggregations": {"s": Sum(None)}}, "aggregations: 's'"),  # type: ignore[arg-type]
        (WindowAggregate, {"windows": Tumble(5), "aggregations": COUNT, "ts": 5}, "ts"),
        (TumblingWindow, {"size": 5, "key": 5}, "key"),
        (TumblingWindow, {"size": 5, "ts": ""}, "ts"),
        (GapDetector, {"seq": None}, "seq"),
        (GapDetector, {"connection": 5}, "connection"),
        (Throttle, {"rate": 1, "key": None}, "key"),
        (Conflate, {"key": 5}, "key"),
        (Conflate, {"interval": FAR}, "interval"),
        (Conflate, {"interval": "1s", "align_to": FAR}, "interval"),
        (Router, {"routes": ["a"]}, "routes"),
        (Router, {"routes": {"a": 5}}, "routes: 'a'"),
        (Router, {"routes": {"a": bool}, "default": 0}, "output"),
        (TableRouter, {"by": None, "table": {"A": "x"}}, "by"),
        (TableRouter, {"by": "symbol", "table": "A"}, "table"),
        (Batcher, {"max_items": "5"}, "batch: max_items"),
        (Batcher, {"max_bytes": 1.5}, "batch: max_bytes"),
        (AsofJoin, {"fields": 5}, "fields"),
    ],
)
def test_a_mistake_names_its_setting(make: Callable[..., Any], named: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConfigError, match=f"^{setting}[:=]"):
        make(**named)
