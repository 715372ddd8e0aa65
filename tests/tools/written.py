"""Components with arguments that are not the default ones, one for each name in the registry; and what they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ib_async
from pydantic import SecretStr

from market_data_pipeline import (
    AsofJoin,
    AsyncMap,
    BarConvention,
    Batcher,
    Bursts,
    BySymbol,
    CcxtProvider,
    CircuitRule,
    Collect,
    Conflate,
    CoordinatedSink,
    Count,
    CountWindow,
    CsvFiles,
    Dag,
    Dedupe,
    Discard,
    DollarBars,
    Failover,
    Filter,
    First,
    FlatMap,
    Fold,
    GapDetector,
    GuardedSink,
    Hop,
    HttpFeedback,
    InteractiveBrokers,
    IntervalJoin,
    ItemList,
    JsonLines,
    KafkaSource,
    KafkaTopic,
    LabelBars,
    Last,
    Map,
    MapColumns,
    Max,
    Mean,
    Min,
    Node,
    OutsideProvider,
    OutsideSink,
    OutsideSource,
    OutsideTransform,
    ParquetFiles,
    PostgresStore,
    Priority,
    ProviderSource,
    Quantile,
    Reconnect,
    RedisLatest,
    RedisOutput,
    RedisStreamSource,
    ReferenceJoin,
    Replay,
    Resample,
    RoundRobin,
    Router,
    Session,
    SessionBuckets,
    SourceRouter,
    SqliteStore,
    SqliteTable,
    Std,
    Stdout,
    Sum,
    Synthetic,
    TableRouter,
    Throttle,
    TickBars,
    TradeRules,
    Tumble,
    TumblingBars,
    TumblingWindow,
    VenueLimits,
    VolumeBars,
    Vwap,
    WindowAggregate,
)
from market_data_pipeline.frame import Columns

SECRETS = ("s3cret-a", "s3cret-b", "s3cret-c", "s3cret-d", "s3cret-e")
"""What must stand in no document."""


def item_of(item: Any) -> Any:
    return item


def items_of(item: Any) -> list[Any]:
    return [item]


def columns_of(columns: Columns) -> Columns:
    return columns


def wanted(conditions: str) -> bool:
    return "X" not in conditions


def large(item: Any) -> bool:
    return bool(item.size > 100)


def pair(left: Any, right: Any) -> Any:
    return left, right


def second_of(item: Any) -> int:
    return int(item.ts_event)


async def answered(item: Any) -> Any:
    return item


def ccxt() -> CcxtProvider:
    return CcxtProvider(
        "coinbase", quotes="order_book", api_key="s3cret-a", secret=SecretStr("s3cret-b"), options={"depth": {"n": 5}},
        limits=VenueLimits(3.0, symbols_per_call=5),
    )  # fmt: skip


def theirs() -> OutsideProvider:
    return OutsideProvider(
        factory="tools.foreign:Feed",
        name="theirs",
        kinds=["trade"],
        instrument=items_of,
        splittable=True,
        limits=VenueLimits(2.0),
    )


def brokers() -> InteractiveBrokers:
    contracts = {"ES": ib_async.Future("ES", "202612", "CME"), "EUR": {"secType": "CASH", "symbol": "EUR"}}
    return InteractiveBrokers(contracts, port=7497, client_id=3, name="desk", subscriptions=9, again_after="20s")


SOURCES = {
    "kafka": lambda: KafkaSource(
        ["a:9092", "b:9092"], "trades", "quote", format="msgpack", columns={"bid": "b"}, time_unit="ms",
        start=datetime(2026, 1, 2, tzinfo=UTC), partitioned="mmh3", on_lost="skip", max_delay=None, batch_items=10,
        options={"sasl.password": "s3cret-c", "fetch.min.bytes": 5}, group="g-${x}",
    ),
    "outside": lambda: OutsideSource(factory="tools.foreign:Numbers", convert=second_of, repeatable=True, max_delay=None),
    "provider": lambda: ProviderSource(
        [ccxt(), brokers()], ["ES", "EUR"], on_overload="spill", spill_path="spill", spill_bytes=1 << 20,
        quiet_after="10s", give_up_after="1m", reconnect=Reconnect(seed=4), circuit=CircuitRule(window="5s", trials=2),
        idle_after=None, live=False, max_delay="2s",
    ),
    "redis_stream": lambda: RedisStreamSource(
        "redis://me:s3cret-d@h:6379/1", ["s:1", "s:2"], "rows", field="d", format="msgpack", until="end", idle_after="9s",
        live=True,
    ),
    "replay": lambda: Replay(
        [Path("a.csv"), "b.csv"], "quote", {"bid": "b"}, "us", speed=2.5, max_delay="3s", start="2026-01-02T00:00:00Z",
        end=datetime(2026, 1, 3, tzinfo=UTC), idle_after="1s", live=True,
    ),
    "router": lambda: SourceRouter(
        [ccxt(), brokers()], ["ES", "EUR"], ("trade", "quote"), route=Failover(recover_after="1m"), overlap="3s",
        overlap_items=9, quiet_after="10s", reconnect=Reconnect(seed=4), circuit=CircuitRule(window="5s"), live=False,
    ),
    "synthetic": lambda: Synthetic(
        5, None, rate=10.0, duplicates=0.5, disorder=0.25, disorder_by="1s", zipf=0.0, seed=4, kinds=("trade", "quote"),
        sessions=["09:30-16:00"], bursts=Bursts("2m", "3s", 4.0), gaps=0.1, gap_records=False, idle_after="1m", live=True,
    ),
}  # fmt: skip
OPERATORS = {
    "outside": lambda: OutsideTransform(
        factory="tools.foreign:Doubler", make=item_of, convert=items_of, concurrency=2, timeout="2s", retries=1
    ),
    "asof_join": lambda: AsofJoin((), "k", "5s", "inner", False, "r_", pair, "side_output"),
    "async_map": lambda: AsyncMap(answered, 4, False, "2s", 5, "1s", "3s"),
    "bars": lambda: TumblingBars(
        "5s", "-1s", "revise", "1m", "carry", "1s", BarConvention(label="right", max_empty=9),
        TradeRules(wanted, wanted, True, None),
    ),
    "batch": lambda: Batcher(5, 1000, "1s"),
    "conflate": lambda: Conflate("250ms", "k", "50ms", "side_output"),
    "dedupe": lambda: Dedupe("a", "b", within="10m", max_keys=9, content=("c",), promote=False),
    "dollar_bars": lambda: DollarBars(1e6, "split", "right", wanted, wanted, ("live", "snapshot")),
    "filter": lambda: Filter(large),
    "flat_map": lambda: FlatMap(items_of),
    "gap_detector": lambda: GapDetector("seq", "s", "c"),
    "interval_join": lambda: IntervalJoin("-1s", "2s", ["x"], "k", "left", "r_", None, "side_output"),
    "label_bars": lambda: LabelBars("1m", "right", "ts_recv", "right"),
    "map": lambda: Map(item_of),
    "map_columns": lambda: MapColumns(columns_of),
    "reference_join": lambda: ReferenceJoin(["lot"], "k", "inner", False, "gone", "r_", pair, "side_output"),
    "resample": lambda: Resample(SessionBuckets("XNYS", "30m", "5m"), late="side_output", empty="null"),
    "router": lambda: Router({"big": large, "rest": item_of}, default=None, every=True),
    "table_router": lambda: TableRouter("venue", {"A": "one", "B": ["one", "two"], 7: "three"}, default="other"),
    "throttle": lambda: Throttle(0.5, 3, "k", True, "delay", None, 9),
    "tick_bars": lambda: TickBars(7, "right", wanted, None, None),
    "tumbling_window": lambda: TumblingWindow("3s", second_of, item_of, "1s", "side_output"),
    "volume_bars": lambda: VolumeBars(5, "split", "right", None, wanted),
    "window": lambda: WindowAggregate(
        Hop("10s", "5s", "1s"), {"n": Count()}, ("symbol", "venue"), second_of, "revise", "1m", early_every="1s"
    ),
}  # fmt: skip
SINKS = {
    "coordinated": lambda: CoordinatedSink(
        factory="tools.foreign:coordinator", make=item_of, settle="queue", timeout="9s", high=0.7, low=0.1
    ),
    "outside": lambda: OutsideSink(factory="tools.foreign:lines", make=item_of),
    "collect": Collect,
    "csv": lambda: CsvFiles("out", 1000, "5s", True),
    "discard": Discard,
    "guarded": lambda: GuardedSink(PostgresStore("postgresql://me:s3cret-e@h/d", "mine"), CircuitRule(0.25, "5s")),
    "json_lines": lambda: JsonLines(Path("out") / "${x}", 1000, "5s", True),
    "kafka": lambda: KafkaTopic(
        "a:9092", "out.{table}", format="msgpack", key="venue", transactional=True, partitioner="murmur2", timeout="5s",
        outbox_bytes=100, options={"sasl.password": SecretStr("s3cret-c")},
    ),
    "parquet": lambda: ParquetFiles("out", 1000, "5s", "snappy", open_parts=3, fsync=True, keep_staged="5s"),
    "postgres": lambda: PostgresStore(
        "postgresql://me:s3cret-e@h/d", "mine", False, tables=["bars"], prefix="p_", interval="1s"
    ),
    "redis_latest": lambda: RedisLatest(SecretStr("redis://:s3cret-d@h"), "l:{symbol}", ttl="5s"),
    "redis_stream": lambda: RedisOutput("redis://:s3cret-d@h", "o:{table}", format="msgpack", maxlen=9),
    "sqlite": lambda: SqliteStore("x.db", True, False, tables=["bars"], prefix="p_", interval="1s"),
    "sqlite_table": lambda: SqliteTable("x.db", "t", ["a", "b"], True),
    "stdout": Stdout,
}  # fmt: skip
AGGREGATIONS = {
    "count": Count,
    "first": lambda: First("price"),
    "fold": lambda: Fold({"n": [0, "$${"]}, pair, merge=pair),
    "item_list": ItemList,
    "last": lambda: Last("price"),
    "max": lambda: Max("price"),
    "mean": lambda: Mean("price"),
    "min": lambda: Min("price"),
    "quantile": lambda: Quantile("price", (0.1, 0.9)),
    "std": lambda: Std("price", 1),
    "sum": lambda: Sum("size"),
    "vwap": lambda: Vwap("p", "s"),
}
WINDOWS = {
    "count_window": lambda: CountWindow(9),
    "hop": lambda: Hop("10s", "5s", "1s"),
    "session": lambda: Session("3m"),
    "tumble": lambda: Tumble("5s", "-1s"),
}
BUCKETS = {"session_buckets": lambda: SessionBuckets("XNYS", "session", "5m")}
ROUTES = {
    "by_symbol": lambda: BySymbol({"E*": ["desk", "coinbase"]}, "coinbase", fail_after="1s", stale_after="9s"),
    "failover": lambda: Failover(fail_after="1s", recover_after="2m", stale_after="9s", standby="cold"),
    "priority": lambda: Priority([["desk", "coinbase"]], standby="cold"),
    "round_robin": lambda: RoundRobin(recover_after="5s"),
}
PROVIDERS = {"ccxt": ccxt, "interactive_brokers": brokers, "outside": theirs}


def written() -> Mapping[tuple[str, str], Any]:
    """For each kind and name a component that has such a thing in it, or a Dag whose node ``it`` has."""
    found: dict[tuple[str, str], Any] = {}
    for kind, table in (("source", SOURCES), ("operator", OPERATORS), ("sink", SINKS)):
        found |= {(kind, name): make() for name, make in table.items()}
    windows = {name: WindowAggregate(make(), {"n": Sum("size")}) for name, make in WINDOWS.items()}
    aggregated = {name: WindowAggregate(Tumble("1s"), {"x": make()}) for name, make in AGGREGATIONS.items()}
    bars = {name: TumblingBars(make()) for name, make in BUCKETS.items()}
    routes = {name: SourceRouter([ccxt(), brokers()], ["ES"], route=make()) for name, make in ROUTES.items()}
    found |= {("value", name): made for name, made in {**windows, **aggregated, **bars, **routes}.items()}
    symbols = {"ccxt": "BTC/USD", "interactive_brokers": "ES", "outside": "X"}
    said = HttpFeedback("http://writes:8080/queue", "stats.depth", 100.0, 10.0, token="s3cret-a")
    fed = Dag("fed")
    fed.add_node(Node("source", Synthetic()))
    fed.add_node(Node("it", Discard(), feedback=said))
    fed.add_edge("source", "it")
    found["value", "http_feedback"] = fed
    return found | {("provider", name): ProviderSource(make(), [symbols[name]]) for name, make in PROVIDERS.items()}
