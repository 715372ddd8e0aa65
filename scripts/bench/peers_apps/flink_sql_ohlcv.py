"""The main job for Flink 2.3 SQL: 1,000 symbols, 1-second OHLCV by event time, parallelism 2.

    flink_sql_ohlcv.py ITEMS [--count]

Prints ``seconds S``: from submitting the statement to the end of its job. The sink is a black hole; with ``--count`` the bars
are counted instead (a job of its own, not to be timed, and slow: use few items) and ``bars N of M trades`` is printed.

The watermark is a millisecond behind: ten trades share one, and those behind the first would be late at a window's end.
"""

import sys
import time

from pyflink.table import EnvironmentSettings, TableEnvironment

ITEMS = int(sys.argv[1])
TRADES = f"""
CREATE TABLE trades (
  id BIGINT,
  symbol AS CONCAT('S', CAST(MOD(id * 7919, 1000) AS STRING)),
  price AS CAST(100.0 + MOD(id, 97) * 0.01 AS DOUBLE),
  size AS CAST(1.0 + MOD(id, 5) AS DOUBLE),
  ts AS TO_TIMESTAMP_LTZ(1767364200000 + id / 10, 3),
  WATERMARK FOR ts AS ts - INTERVAL '0.001' SECOND
) WITH (
  'connector' = 'datagen', 'fields.id.kind' = 'sequence', 'fields.id.start' = '0', 'fields.id.end' = '{ITEMS - 1}',
  'rows-per-second' = '1000000000', 'number-of-rows' = '{ITEMS}'
)"""
BARS = """
SELECT symbol, window_start, FIRST_VALUE(price), MAX(price), MIN(price), LAST_VALUE(price), SUM(size), COUNT(*) AS trades
FROM TABLE(TUMBLE(TABLE trades, DESCRIPTOR(ts), INTERVAL '1' SECOND)) GROUP BY symbol, window_start, window_end"""
SINK = """
CREATE TABLE sink (
  symbol STRING, ts_open TIMESTAMP(3), first_price DOUBLE, high DOUBLE, low DOUBLE, last_price DOUBLE, volume DOUBLE,
  trades BIGINT
) WITH ('connector' = 'blackhole')"""


def main() -> None:
    tables = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    tables.get_config().set("parallelism.default", "2")
    tables.execute_sql(TRADES)
    if "--count" in sys.argv:
        count = tables.execute_sql(f"SELECT COUNT(*), SUM(trades) FROM ({BARS})")
        with count.collect() as rows:
            *_, (bars, trades) = (list(row) for row in rows)
        print(f"bars {bars} of {trades} trades")
        return
    tables.execute_sql(SINK)
    began = time.perf_counter()
    tables.execute_sql(f"INSERT INTO sink {BARS}").wait()
    print(f"seconds {time.perf_counter() - began}")


if __name__ == "__main__":
    main()
