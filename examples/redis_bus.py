"""Redis streams in and out: trades of one stream, one-second bars to another, and the latest bar of each symbol as a hash.

    redis-cli XADD trades '*' symbol BTC-USD ts_event 1700000000000000000 price 37000.5 size 0.1 trade_id 1
    mdp run examples/redis_bus.py --set url=redis://localhost:6379/0
    redis-cli XRANGE bars - + ; redis-cli HGETALL latest:bars:BTC-USD

``until=end``: stop where the trades end now. The job's own state is on its own server (``MDP_REDIS_URL``, or the embedded one);
the two may be one.
"""

from typing import Literal

from market_data_pipeline import Pipeline, RedisLatest, RedisOutput, RedisStreamSource


def pipeline(url: str, interval: str = "1s", until: Literal["end"] | None = None) -> Pipeline:
    return (
        Pipeline("redis-bus")
        .source(RedisStreamSource(url, "trades", until=until))
        .key_by("symbol")
        .dedupe("symbol", "trade_id")
        .bars(interval)
        .sink(RedisOutput(url, "bars"), name="stream")
        .sink(RedisLatest(url), name="latest")
    )
