"""Every component that has a name: a document makes what a program makes, with each argument of it."""

from __future__ import annotations

import asyncio
import operator
from datetime import datetime
from pathlib import Path
from typing import Any

import ib_async
import pytest

from market_data_pipeline import (
    AsofJoin,
    AsyncMap,
    BarConvention,
    Batcher,
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
from market_data_pipeline.catalog.parameters import accepted_by, factory_of, made
from market_data_pipeline.catalog.registry import ComponentKind, registry
from market_data_pipeline.catalog.text import parse_text
from market_data_pipeline.component import describe
from market_data_pipeline.dag.worries import unkept
from market_data_pipeline.sources.synthetic_time import Bursts

Row = tuple[ComponentKind, str, str, Any]

SOURCES: list[Row] = [
    ("source", "kafka", """
        {servers: ["a:9092", "b:9092"], topics: trades, kind: quote, format: msgpack, columns: {bid: p}, time_unit: ms,
         symbol: ES, start: 2024-01-01, until: end, on_lost: skip, max_delay: 2s, idle_after: 5s, live: true,
         batch_items: 100, group: bars, options: {client.id: mine, fetch.min.bytes: 5, enable.ssl: false}}""",
     KafkaSource(["a:9092", "b:9092"], "trades", "quote", format="msgpack", columns={"bid": "p"}, time_unit="ms",
                 symbol="ES", start="2024-01-01", until="end", on_lost="skip", max_delay="2s", idle_after="5s", live=True,
                 batch_items=100, group="bars",
                 options={"client.id": "mine", "fetch.min.bytes": 5, "enable.ssl": False})),
    ("source", "outside", """
        {factory: "tools.foreign:Numbers", convert: "builtins:str", repeatable: true, max_delay: 1s, idle_after: 2s, live: true}
        """,
     OutsideSource(factory="tools.foreign:Numbers", convert=str, repeatable=True, max_delay="1s", idle_after="2s", live=True)),
    ("source", "provider", """
        {provider: [{provider: interactive_brokers}, {provider: interactive_brokers, with: {name: other, client_id: 2}}],
         symbols: [AAPL], kinds: [trade, quote], on_overload: spill, queue_items: 100, spill_path: /tmp/spill,
         spill_bytes: 1000, quiet_after: 1m, give_up_after: 2m, gap_after: 1s, connect_timeout: 5s,
         reconnect: {first: 1s, seed: 3}, circuit: {failure_rate: 1, min_calls: 2}, max_delay: null, idle_after: 3s,
         live: false}""",
     ProviderSource([InteractiveBrokers(), InteractiveBrokers(name="other", client_id=2)], ["AAPL"],
                    ["trade", "quote"], on_overload="spill", queue_items=100, spill_path="/tmp/spill", spill_bytes=1000,
                    quiet_after="1m", give_up_after="2m", gap_after="1s", connect_timeout="5s",
                    reconnect=Reconnect(first="1s", seed=3), circuit=CircuitRule(failure_rate=1, min_calls=2),
                    max_delay=None, idle_after="3s", live=False)),
    ("source", "redis_stream", """
        {url: "redis://h:1/2", streams: [a, b], kind: rows, field: data, format: "builtins:str", columns: {price: p},
         time_unit: ms, symbol: X, start: latest, until: end, on_lost: skip, max_delay: 2s, idle_after: 5s, live: true,
         batch_items: 100}""",
     RedisStreamSource("redis://h:1/2", ["a", "b"], "rows", field="data", format=str, columns={"price": "p"},
                       time_unit="ms", symbol="X", start="latest", until="end", on_lost="skip", max_delay="2s",
                       idle_after="5s", live=True, batch_items=100)),
    ("source", "replay", """
        {path: [a.csv, b.csv], kind: quote, columns: {ts_event: t}, time_unit: iso, symbol: ES, speed: 2, max_delay: 5s,
         batch_items: 10, start: 2024-01-01, end: 1704153600000000000, exact: true, idle_after: 1m, live: true}""",
     Replay(["a.csv", Path("b.csv")], "quote", {"ts_event": "t"}, "iso", "ES", 2, "5s", 10, start="2024-01-01",
            end=1704153600000000000, exact=True, idle_after="1m", live=True)),
    ("source", "router", """
        {providers: [{provider: interactive_brokers}, {provider: interactive_brokers, with: {name: other, client_id: 2}}],
         symbols: [AAPL], kinds: [trade, quote], overlap: 500ms, overlap_items: 10, quiet_after: 1m, live: false,
         route: {value: failover, with: {fail_after: 1s, recover_after: 5_000_000, stale_after: 2s, standby: cold}}}""",
     SourceRouter([InteractiveBrokers(), InteractiveBrokers(name="other", client_id=2)], ["AAPL"], ["trade", "quote"],
                  overlap="500ms", overlap_items=10, quiet_after="1m", live=False,
                  route=Failover(fail_after="1s", recover_after=5_000_000, stale_after="2s", standby="cold"))),
    ("source", "synthetic", """
        {symbols: 10, items: 1_000, rate: 100, event_rate: 50.5, duplicates: 0.01, disorder: 1, disorder_by: 1s, zipf: 0,
         seed: 7, start: 0, idle_after: 1s, live: true, kinds: [trade, quote], sessions: ["09:30-16:00"],
         bursts: {every: 1m, factor: 3}, gaps: 0.1, gap_records: true}""",
     Synthetic(10, 1_000, rate=100, event_rate=50.5, duplicates=0.01, disorder=1, disorder_by="1s", zipf=0, seed=7,
               start=0, idle_after="1s", live=True, kinds=("trade", "quote"), sessions=["09:30-16:00"],
               bursts=Bursts("1m", factor=3), gaps=0.1, gap_records=True)),
]  # fmt: skip
OPERATORS: list[Row] = [
    ("operator", "asof_join", """
        {fields: [close], key: s, tolerance: 1m, how: inner, allow_exact: false, right_prefix: r_,
         combine: "operator:add", late: side_output}""",
     AsofJoin(["close"], "s", "1m", "inner", False, "r_", operator.add, "side_output")),
    ("operator", "async_map", """
        {fn: "asyncio:sleep", concurrency: 3, ordered: false, timeout: 1s, retries: 0, backoff: 1ms, backoff_max: 2ms}""",
     AsyncMap(asyncio.sleep, 3, False, "1s", 0, "1ms", "2ms")),
    ("operator", "bars", """
        {interval: {value: session_buckets, with: {calendar: XNYS, interval: 1m, after_close: 5s}}, late: revise,
         allowed_lateness: 10s, empty: "null", early_every: 100ms, convention: {closed: right, label: right},
         rules: {updates_ohlc: "builtins:bool", updates_volume: null, phases: [live, snapshot]}}""",
     TumblingBars(SessionBuckets("XNYS", "1m", "5s"), 0, "revise", "10s", "null", "100ms",
                  BarConvention("right", "right"), TradeRules(bool, None, phases=("live", "snapshot")))),
    ("operator", "batch", "{max_items: 10, max_bytes: 1000, max_time: 1s}", Batcher(10, 1000, "1s")),
    ("operator", "conflate", "{interval: 1s, key: s, align_to: -1ms, late: side_output}",
     Conflate("1s", "s", "-1ms", "side_output")),
    ("operator", "dedupe", "{fields: [symbol, id], within: null, max_keys: 5, content: [price], promote: false}",
     Dedupe("symbol", "id", within=None, max_keys=5, content=("price",), promote=False)),
    ("operator", "outside", """
        {factory: "tools.foreign:Doubler", make: "builtins:int", convert: "builtins:str", concurrency: 2, timeout: 1s,
         retries: 1}""",
     OutsideTransform(factory="tools.foreign:Doubler", make=int, convert=str, concurrency=2, timeout="1s", retries=1)),
    ("operator", "dollar_bars", "{notional: 1e6, overshoot: split, label: right, phases: null}",
     DollarBars(1e6, "split", "right", phases=None)),
    ("operator", "filter", '{predicate: "builtins:bool"}', Filter(bool)),
    ("operator", "flat_map", '{fn: "builtins:list"}', FlatMap(list)),
    ("operator", "gap_detector", "{seq: n, symbol: s, connection: c}", GapDetector("n", "s", "c")),
    ("operator", "interval_join", """
        {lower: -5s, upper: 1_000, fields: [bid], key: s, how: left, right_prefix: r_, combine: "operator:sub",
         late: side_output}""",
     IntervalJoin("-5s", 1000, ["bid"], "s", "left", "r_", operator.sub, "side_output")),
    ("operator", "label_bars", "{interval: 1m, label: right, ts: ts_recv, label_out: right}",
     LabelBars("1m", "right", "ts_recv", "right")),
    ("operator", "map", '{fn: "json:dumps"}', Map(__import__("json").dumps)),
    ("operator", "map_columns", '{fn: "copy:copy"}', MapColumns(__import__("copy").copy)),
    ("operator", "reference_join", """
        {fields: [tick], key: s, how: inner, wait: false, deleted: gone, right_prefix: x_, late: side_output}""",
     ReferenceJoin(["tick"], "s", "inner", False, "gone", "x_", late="side_output")),
    ("operator", "resample", "{interval: 5m, align_to: 1m, late: revise, allowed_lateness: 1h, empty: carry}",
     Resample("5m", "1m", "revise", "1h", "carry")),
    ("operator", "router", '{routes: {big: "builtins:bool"}, default: null, every: true}',
     Router({"big": bool}, None, True)),
    ("operator", "table_router", "{by: n, table: [[1, a], [2, [a, b]]], default: rest}",
     TableRouter("n", {1: "a", 2: ["a", "b"]}, "rest")),
    ("operator", "throttle", "{rate: 5, burst: 2, key: s, total: true, over: delay, by: event, max_waiting: 10}",
     Throttle(5, 2, "s", True, "delay", "event", 10)),
    ("operator", "tick_bars", '{n: 100, label: right, updates_ohlc: "builtins:bool", updates_volume: "builtins:str"}',
     TickBars(100, "right", bool, str)),
    ("operator", "tumbling_window", '{size: 5s, ts: "operator:neg", key: s, align_to: 1s, late: side_output}',
     TumblingWindow("5s", operator.neg, "s", "1s", "side_output")),
    ("operator", "volume_bars", "{volume: 0.5, overshoot: split, label: right}", VolumeBars(0.5, "split", "right")),
    ("operator", "window", """
        {windows: {value: session, with: {gap: 30s}},
         aggregations: {n: {value: count}, v: {value: vwap, with: {price: p}}},
         key: [symbol, venue], ts: ts_recv, late: revise, allowed_lateness: 1s, early_items: 5, early_every: 1s}""",
     WindowAggregate(Session("30s"), {"n": Count(), "v": Vwap("p")}, ("symbol", "venue"), "ts_recv", "revise", "1s",
                     5, "1s")),
]  # fmt: skip
SINKS: list[Row] = [
    ("sink", "collect", "", Collect()),
    ("sink", "coordinated", """
        {factory: "tools.foreign:coordinator", make: "builtins:str", settle: queue, timeout: 5s, high: 0.9, low: 0.0}""",
     CoordinatedSink(factory="tools.foreign:coordinator", make=str, settle="queue", timeout="5s", high=0.9, low=0.0)),
    ("sink", "outside", '{factory: "tools.foreign:lines", make: "builtins:str"}',
     OutsideSink(factory="tools.foreign:lines", make=str)),
    ("sink", "csv", "{path: out, roll_bytes: 10, roll_interval: 1s, fsync: true}", CsvFiles("out", 10, "1s", True)),
    ("sink", "discard", "{}", Discard()),
    ("sink", "guarded", "{sink: {sink: csv, with: {path: out}}, circuit: {open_for: 5s, trials: 2}}",
     GuardedSink(CsvFiles("out"), CircuitRule(open_for="5s", trials=2))),
    ("sink", "json_lines", "{path: ./out/, roll_interval: 5m}", JsonLines(Path("out"), roll_interval="5m")),
    ("sink", "kafka", """
        {servers: "a:9092", topic: "x.{table}", format: msgpack, key: k, transactional: true, partitioner: murmur2,
         timeout: 10s, outbox_bytes: 1_000_000, options: {client.id: mine}}""",
     KafkaTopic("a:9092", "x.{table}", format="msgpack", key="k", transactional=True, partitioner="murmur2",
                timeout="10s", outbox_bytes=1_000_000, options={"client.id": "mine"})),
    ("sink", "parquet", """
        {path: out, roll_bytes: 10, roll_interval: 1m, compression: none, open_parts: 2, fsync: true, keep_staged: 5s}""",
     ParquetFiles("out", 10, "1m", "none", open_parts=2, fsync=True, keep_staged="5s")),
    ("sink", "postgres", """
        {url: "postgresql://u:secret@h/db", schema: s, create: false, tables: [bars], prefix: p_, interval: 1s}""",
     PostgresStore("postgresql://u:secret@h/db", "s", False, tables=["bars"], prefix="p_", interval="1s")),
    ("sink", "redis_latest", '{url: "redis://h:1", key: "l:{symbol}", ttl: 1h}',
     RedisLatest("redis://h:1", "l:{symbol}", ttl="1h")),
    ("sink", "redis_stream", '{url: "redis://h:1", stream: "o:{table}", format: msgpack, maxlen: 10}',
     RedisOutput("redis://h:1", "o:{table}", format="msgpack", maxlen=10)),
    ("sink", "sqlite", "{path: a.db, fsync: true, create: false, tables: [trades], prefix: p_, interval: 1m}",
     SqliteStore("a.db", True, False, tables=["trades"], prefix="p_", interval="1m")),
    ("sink", "sqlite_table", "{path: a.db, table: bars, key: [symbol], fsync: true}",
     SqliteTable("a.db", "bars", ["symbol"], True)),
    ("sink", "stdout", "", Stdout()),
]  # fmt: skip
OTHERS: list[Row] = [
    ("provider", "ccxt", """
        {exchange: kraken, quotes: order_book, api_key: k, secret: s, options: {sandbox: false, timeout: 5},
         limits: {per_second: 2, symbols: 10}}""",
     CcxtProvider("kraken", quotes="order_book", api_key="k", secret="s", options={"sandbox": False, "timeout": 5},
                  limits=VenueLimits(2, symbols=10))),
    ("provider", "interactive_brokers", """
        {contracts: {ES: {value: "ib_async:Contract", with: {symbol: ES, secType: FUT}}}, host: h, port: 7, client_id: 3,
         name: x, subscriptions: 5, again_after: 1s}""",
     InteractiveBrokers({"ES": ib_async.Contract(symbol="ES", secType="FUT")}, host="h", port=7, client_id=3, name="x",
                        subscriptions=5, again_after="1s")),
    ("provider", "outside", """
        {factory: "tools.foreign:made_feed", name: x, kinds: [trade], instrument: "builtins:str", splittable: true,
         limits: {per_second: 2}}""",
     OutsideProvider(factory="tools.foreign:made_feed", name="x", kinds=["trade"], instrument=str, splittable=True,
                     limits=VenueLimits(2.0))),
    ("value", "by_symbol", """
        {patterns: {"BTC*": a, "*/USD": [b, a]}, default: [b], fail_after: 1s, recover_after: 0s, standby: cold}""",
     BySymbol({"BTC*": "a", "*/USD": ["b", "a"]}, ["b"], fail_after="1s", recover_after="0s", standby="cold")),
    ("value", "count", "{}", Count()),
    ("value", "count_window", "{n: 5}", CountWindow(5)),
    ("value", "failover", "{stale_after: 10s}", Failover(stale_after="10s")),
    ("value", "first", "{field: p}", First("p")),
    ("value", "fold", '{initial: {a: [1, 2]}, step: "operator:add", merge: "operator:or_"}',
     Fold({"a": [1, 2]}, operator.add, operator.or_)),
    ("value", "hop", "{size: 10s, slide: 5s, align_to: -1s}", Hop("10s", "5s", "-1s")),
    ("value", "http_feedback", '{url: "http://h:1/q", depth: d, high: 10, low: low, write_seconds: s, token: t}',
     HttpFeedback("http://h:1/q", "d", 10, "low", "s", "t")),
    ("value", "item_list", "", ItemList()),
    ("value", "last", "{field: p}", Last("p")),
    ("value", "max", "{field: p}", Max("p")),
    ("value", "mean", "{field: p}", Mean("p")),
    ("value", "min", "{field: p}", Min("p")),
    ("value", "priority", "{levels: [a, [b, c]], standby: cold}", Priority(["a", ["b", "c"]], standby="cold")),
    ("value", "quantile", "{field: p, q: [0.5, 1]}", Quantile("p", (0.5, 1))),
    ("value", "round_robin", "{recover_after: 1m}", RoundRobin(recover_after="1m")),
    ("value", "session", "{gap: 3m}", Session("3m")),
    ("value", "session_buckets", "{calendar: XNYS, interval: 1h}", SessionBuckets("XNYS", "1h")),
    ("value", "std", "{field: p, ddof: 1}", Std("p", 1)),
    ("value", "sum", "{field: p}", Sum("p")),
    ("value", "tumble", "{size: 1h, align_to: -15m}", Tumble("1h", "-15m")),
    ("value", "vwap", "{price: p, size: s}", Vwap("p", "s")),
]  # fmt: skip
ROWS = [*SOURCES, *OPERATORS, *SINKS, *OTHERS]


@pytest.mark.parametrize(("kind", "name", "text", "expected"), ROWS, ids=[f"{row[0]}-{row[1]}" for row in ROWS])
def test_a_document_makes_what_a_program_makes(kind: ComponentKind, name: str, text: str, expected: Any) -> None:
    given = parse_text(text, name).data or {}
    component = made(factory_of(kind, name), given)
    assert type(component) is type(expected)
    assert describe(component) == describe(expected)
    for argument in accepted_by(type(component)).shapes:
        if hasattr(expected, argument):  # nothing of the document's own types comes in
            value, wanted = getattr(component, argument), getattr(expected, argument)
            assert type(value) is type(wanted), argument
            if isinstance(wanted, dict):  # of which a description has all keys as text
                assert value.keys() == wanted.keys(), argument


def test_every_component_that_has_a_name_has_a_row() -> None:
    own = {(entry.kind, entry.name) for entry in registry().entries() if entry.origin == "market-data-pipeline"}
    assert own == {(kind, name) for kind, name, _, _ in ROWS}


def test_every_component_keeps_what_a_plan_must_tell_apart() -> None:
    dag = Dag("kept")
    for _, _, _, component in [*SOURCES, *OPERATORS, *SINKS]:
        dag.add_node(Node("one", component))
    assert unkept(dag) == []


def test_a_clock_is_no_argument_of_a_document() -> None:
    assert "clock" not in accepted_by(CcxtProvider).shapes
    assert "clock" not in accepted_by(InteractiveBrokers).shapes


def test_a_date_becomes_what_its_argument_wants() -> None:
    def wants(day: datetime, text: str) -> tuple[datetime, str]:
        return day, text

    given = parse_text("{day: 2024-01-02, text: 2024-01-02}", "x").data
    assert made(wants, given) == (datetime(2024, 1, 2), "2024-01-02")
