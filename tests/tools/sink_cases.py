"""The cases of all sinks, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tools.cases_files import CsvFilesCase, GuardedCase, JsonLinesCase, SqliteTableCase
from tools.cases_kafka import KafkaTopicCase, KafkaTransactionsCase
from tools.cases_parquet import make_parquet
from tools.cases_redis import make_redis_output
from tools.cases_sql import make_postgres, make_sqlite
from tools.sink_case import SinkCase

Make = Callable[[Path], SinkCase]
"""Makes a case; may use the empty folder. Calls ``pytest.skip`` where the machine lacks what it needs."""

CASES: dict[str, Make] = {
    "guarded": GuardedCase,
    "json-lines": JsonLinesCase,
    "csv": CsvFilesCase,
    "sqlite-table": SqliteTableCase,
    "kafka": KafkaTopicCase,
    "kafka-transactions": KafkaTransactionsCase,
    "postgres-store": make_postgres,
    "sqlite-store": make_sqlite,
    "parquet": make_parquet,
    "redis-output": make_redis_output,
}
