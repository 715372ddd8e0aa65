"""Trades of a Kafka topic -> bars -> files, with what tests turn."""

from pathlib import Path
from typing import Literal

from market_data_pipeline import JsonLines, KafkaSource, Pipeline


def pipeline(servers: str, topic: str, output: Path, partitioned: bool = False) -> Pipeline:
    how: Literal["mmh3"] | None = "mmh3" if partitioned else None
    made = Pipeline("kafka").source(
        KafkaSource(servers, topic, until="end", partitioned=how, max_delay="500ms", batch_items=256)
    )
    if not partitioned:
        made = made.key_by("symbol")
    return made.bars("1s").sink(JsonLines(output), name="files")
