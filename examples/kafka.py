"""Kafka in, Kafka out: trades of one topic, one-second bars to another.

    mdp run examples/kafka.py --set servers=localhost:9092
    mdp run examples/kafka.py --set servers=localhost:9092 --set until=end --set transactional=true

``trades``: a topic of trades as JSON (``symbol``, ``ts_event`` in ns, ``price``, ``size``; ``trade_id`` where there is one).
``bars``: the topic that gets the bars; both must be there. ``until=end``: stop where the trades end now. ``transactional``:
bars stand there exactly once for consumers that read committed; else at least once, and equal ones have the same ``mdp-id``.
"""

from typing import Literal

from market_data_pipeline import KafkaSource, KafkaTopic, Pipeline


def pipeline(
    servers: str,
    trades: str = "trades",
    bars: str = "bars",
    interval: str = "1s",
    until: Literal["end"] | None = None,
    transactional: bool = False,
) -> Pipeline:
    return (
        Pipeline("kafka")
        .source(KafkaSource(servers, trades, until=until))
        .key_by("symbol")
        .dedupe("symbol", "trade_id", within="10m")
        .bars(interval)
        .sink(KafkaTopic(servers, bars, transactional=transactional))
    )
