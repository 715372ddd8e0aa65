"""Who hears that Kafka's servers are away."""

from __future__ import annotations

from confluent_kafka import KafkaError

from market_data_pipeline.adapters.kafka import Reach


def test_why_servers_are_away_is_told_until_something_comes() -> None:
    told: list[str] = []
    reach = Reach("source in", told.append)
    reach.heard()
    reach.failed(KafkaError(KafkaError._MSG_TIMED_OUT, "one message"))
    assert told == []
    reach.failed(KafkaError(KafkaError._TRANSPORT, "127.0.0.1:9: refused"))
    reach.failed(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    reach.heard()
    reach.heard()
    assert told == [
        "source in: servers away (127.0.0.1:9: refused)",
        "source in: servers away (1/1 brokers are down)",
        "",
    ]


def test_nobody_has_to_listen() -> None:
    reach = Reach("source in")
    reach.failed(KafkaError(KafkaError._TRANSPORT, "refused"))
    assert reach.why == "refused"
    reach.heard()
    assert reach.why == ""
