"""The sinks for Redis on a real server: what is newest stays, and each entry stands there once, whoever dies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from market_data_pipeline import DagRuntime, Pipeline, RedisLatest, RedisOutput, Synthetic
from market_data_pipeline.errors import ConfigError, CorruptState, SinkError
from market_data_pipeline.frame import Frame, columns_from_rows
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.records import Bar, Quote, Trade
from market_data_pipeline.sinks import redis as redis_sinks
from market_data_pipeline.sinks.base import SinkContext
from market_data_pipeline.store.client import connect_blocking
from market_data_pipeline.store.embedded import EmbeddedServer, free_port

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def server(running: EmbeddedServer) -> EmbeddedServer:
    with connect_blocking(running.url) as client:
        client.flushall()
    return running


def context(generation: int, **more: Any) -> SinkContext:
    return SinkContext("out", "0123456789abcdef", 0, generation, f"owner{generation}", generation)._replace(**more)


def trade(symbol: str, ts: int, number: int | str = "", price: float = 1.0) -> Trade:
    return Trade(symbol, ts, 0, price, 1.0, "", number)


def ask(server: EmbeddedServer, *words: Any) -> Any:
    with connect_blocking(server.url) as client:
        return client.execute_command(*words)


def latest(server: EmbeddedServer, key: str) -> dict[str, str]:
    with connect_blocking(server.url) as client:
        found = cast("dict[bytes, bytes]", client.hgetall(key))
    return {name.decode(): value.decode() for name, value in found.items()}


def sent(server: EmbeddedServer, stream: str = "out:trades") -> list[Any]:
    with connect_blocking(server.url) as client:
        entries = cast("list[Any]", client.xrange(stream))
    assert all(fields.keys() == {b"data"} for _, fields in entries)
    return [json.loads(fields[b"data"]) for _, fields in entries]


async def step(sink: Any, *items: Any) -> Any:
    await sink.write([Frame(list(items))])
    state = unpack(pack(await sink.prepare(False)))
    await sink.committed()
    return state


# --- the latest value -------------------------------------------------------------------------------------------


async def latest_sink(server: EmbeddedServer, generation: int = 1, **arguments: Any) -> RedisLatest:
    refused = arguments.pop("reject", None)
    sink = RedisLatest(server.url, **arguments)
    await sink.open(context(generation, **({"reject": refused} if refused else {})), None)
    return sink


async def test_the_latest_record_of_each_symbol_with_all_its_fields(server: EmbeddedServer) -> None:
    sink = await latest_sink(server)
    await step(sink, trade("A", 5, 7, 2.5), trade("B", 1), trade("A", 3, 6), Quote("A", 9, 0, 1.0, 2.0, 3.0, 4.0, 5))
    found = latest(server, "latest:trades:A")
    assert found.pop("_order")
    expected = {name: str(value) for name, value in trade("A", 5, 7, 2.5)._asdict().items()}
    assert found == {"kind": "trade", **expected}
    assert latest(server, "latest:trades:B")["ts_event"] == "1"
    assert latest(server, "latest:quotes:A")["bid"] == "1.0"
    assert ask(server, "TTL", "latest:trades:A") == -1
    await sink.close()


async def test_an_older_event_never_replaces_a_newer_one(server: EmbeddedServer) -> None:
    counts: list[int] = []
    sink = RedisLatest(server.url, "latest:{symbol}")
    await sink.open(context(1, counted=lambda name, n: counts.append(n)), None)
    base = 1_767_364_200_000_000_000  # beyond what a double can tell apart
    for ts, number in ((base + 1, 5), (base, 9), (base + 1, 4), (base - 10**18, 1), (-5, 1)):
        await step(sink, trade("A", ts, number))
        assert latest(server, "latest:A")["trade_id"] == "5"
    assert sum(counts) == 4
    await step(sink, trade("A", base + 1, 6))
    assert latest(server, "latest:A")["trade_id"] == "6"
    await sink.close()


async def test_bars_go_by_window_and_revision(server: EmbeddedServer) -> None:
    sink = await latest_sink(server)
    bar = Bar("A", 60, 120, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1, 60)
    for revision, at, shown in ((1, 60, 1), (0, 60, 1), (2, 60, 2), (5, 0, 2), (0, 120, 0)):
        await step(sink, bar._replace(revision=revision, ts_open=at))
        assert latest(server, "latest:bars:A")["revision"] == str(shown)
    await sink.close()


async def test_of_equal_ones_a_zombies_does_not_replace_its_successors(server: EmbeddedServer) -> None:
    zombie, owner = await latest_sink(server, 1), await latest_sink(server, 2)
    await step(owner, trade("A", 5, "x", 2.0))
    await step(zombie, trade("A", 5, "x", 1.0))
    assert latest(server, "latest:trades:A")["price"] == "2.0"
    await step(owner, trade("A", 5, "x", 3.0))
    assert latest(server, "latest:trades:A")["price"] == "3.0"
    await zombie.close()
    await owner.close()


orders = st.lists(
    st.tuples(st.sampled_from("AB"), st.integers(-3, 3) | st.just(2**62), st.integers(-2, 2) | st.just("x")),
    min_size=1,
    max_size=12,
)


@settings(max_examples=40)
@given(orders, st.booleans(), st.integers(1, 4))
async def test_rows_and_columns_leave_the_same(running: EmbeddedServer, given_: Any, columns: bool, size: int) -> None:
    with connect_blocking(running.url) as client:
        client.flushall()
    trades = [trade(symbol, ts, number, float(n)) for n, (symbol, ts, number) in enumerate(given_)]
    sink = await latest_sink(running)
    for start in range(0, len(trades), size):
        batch = trades[start : start + size]
        await sink.write([Frame(columns_from_rows(batch)[0] if columns else batch)])
        await sink.prepare(False)
    for symbol in {t.symbol for t in trades}:
        of_symbol = [t for t in trades if t.symbol == symbol]
        best = max(
            enumerate(of_symbol),
            key=lambda p: (p[1].ts_event, p[1].trade_id if isinstance(p[1].trade_id, int) else 0, p[0]),
        )[1]
        assert latest(running, f"latest:trades:{symbol}")["price"] == str(best.price)
    await sink.close()


async def test_what_a_hash_cannot_hold_harms_no_other(server: EmbeddedServer) -> None:
    refused: list[Any] = []
    sink = await latest_sink(
        server, key="{symbol}", reject=lambda item, reason: refused.append((item["symbol"], reason))
    )
    await step(sink, *({"symbol": symbol, "ts_event": 1, "n": 1} for symbol in "ABC"))
    await step(
        sink,
        {"symbol": "A", "ts_event": 2, "n": 2},
        {"symbol": "B", "ts_event": 2, "_order": "zzz"},
        {"symbol": "C", "ts_event": 2, **{f"f{n}": n for n in range(9000)}},
    )
    assert [latest(server, symbol)["n"] for symbol in "ABC"] == ["2", "1", "1"]
    assert [(symbol, "1000 at most" in reason) for symbol, reason in refused] == [("B", True), ("C", True)]
    await sink.close()


async def test_whole_numbers_of_numpy_are_whole_numbers(server: EmbeddedServer) -> None:
    sink = await latest_sink(server, key="{symbol}")
    await step(sink, trade("A", np.int64(5), np.int64(7)), trade("A", np.int64(5), np.int64(6)))  # type: ignore[arg-type]
    assert (latest(server, "A")["ts_event"], latest(server, "A")["trade_id"]) == ("5", "7")
    await sink.close()


async def test_a_time_to_live(server: EmbeddedServer) -> None:
    sink = await latest_sink(server, ttl="1h")
    await step(sink, trade("A", 1))
    assert 3_590_000 < ask(server, "PTTL", "latest:trades:A") <= 3_600_000
    await sink.close()


async def test_what_has_no_place_goes_to_the_dead_letters(server: EmbeddedServer) -> None:
    refused: list[Any] = []
    ask(server, "SET", "latest:trades:A", "mine")
    sink = await latest_sink(server, reject=lambda item, reason: refused.append((item, reason)))
    good = {"symbol": "D", "ts_event": 5, "note": None, "tags": [1, "x"], "up": True}
    bad = [{"symbol": "A"}, {"ts_event": 1}, "text", trade("\ud800", 1), trade("A", 1)]
    await step(sink, good, *bad)
    assert sorted(repr(item) for item, _ in refused) == sorted(map(repr, bad))
    assert ask(server, "GET", "latest:trades:A") == b"mine"
    found = latest(server, "latest:items:D")
    assert (found["note"], found["tags"], found["up"]) == ("", '[1,"x"]', "1")
    await sink.close()


async def test_odd_symbols_are_keys_as_they_are(server: EmbeddedServer) -> None:
    sink = await latest_sink(server, key="{symbol}")
    odd = ["a b", "é€", "*", "{x}", "A\0B", "l\nl", "{symbol}"]
    await step(sink, *(trade(symbol, 1) for symbol in odd))
    assert {key.decode() for key in ask(server, "KEYS", "*")} == set(odd)
    await sink.close()


# --- output streams ---------------------------------------------------------------------------------------------


async def output(server: EmbeddedServer, generation: int = 1, state: Any = None, **arguments: Any) -> RedisOutput:
    sink = RedisOutput(server.url, **arguments)
    await sink.open(context(generation), state)
    return sink


def ids(server: EmbeddedServer, stream: str = "out:trades") -> list[int]:
    return [entry["trade_id"] for entry in sent(server, stream)]


async def test_entries_hold_records_as_json(server: EmbeddedServer) -> None:
    sink = await output(server)
    batch = [trade("A", 1, 5), trade("B", 2, 6)]
    await sink.write([Frame(batch), Frame(columns_from_rows(batch)[0]), Frame([[batch[0]], {"n": 1}])])
    await sink.prepare(False)
    assert sent(server) == []
    await sink.committed()
    found = sent(server)
    assert [(entry["kind"], entry["symbol"], entry["ts_event"]) for entry in found] == [
        ("trade", "A", 1), ("trade", "B", 2), ("trade", "A", 1), ("trade", "B", 2), ("trade", "A", 1),
    ]  # fmt: skip
    assert sent(server, "out:items") == [{"n": 1}]
    await sink.close()


async def test_entries_hold_msgpack_and_streams_may_be_per_symbol(server: EmbeddedServer) -> None:
    sink = await output(server, stream="{table}/{symbol}", format="msgpack")
    await step(sink, trade("A", 1), trade("B", 2), trade("A", 3))
    found = [msgpack.unpackb(fields[1]) for _, fields in ask_raw(server, "trades/A")]
    assert [entry["ts_event"] for entry in found] == [1, 3]
    await sink.close()


def ask_raw(server: EmbeddedServer, stream: str) -> list[Any]:
    with connect_blocking(server.url) as client:
        return [
            (key, [word for pair in fields.items() for word in pair])
            for key, fields in cast("Any", client.xrange(stream))
        ]


CRASHES = ["before prepare", "between prepare and commit", "between commit and sending", "after a part", "after"]


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("crash", CRASHES)
async def test_a_crash_at_any_point_loses_nothing_and_doubles_nothing(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, crash: str, staged: bool
) -> None:
    monkeypatch.setattr(redis_sinks, "_PART_ENTRIES", 2)
    if staged:
        monkeypatch.setattr(redis_sinks, "STATE_BYTES", 1)
    first = await output(server)
    state = await step(first, *(trade("A", n, n) for n in range(3)))
    done = 3
    await first.write([Frame([trade("A", n, n) for n in range(3, 8)])])
    if crash != CRASHES[0]:
        prepared = unpack(pack(await first.prepare(False)))
        if crash in CRASHES[2:]:
            state, done = prepared, 8
        if crash == "after a part":
            parts = prepared["parts"] or [ask(server, "GET", prepared["staged"][0])]
            await first._send({"id": prepared["id"], "parts": parts[:1], "staged": []})
            assert ids(server) == list(range(5))
        if crash == "after":
            await first.committed()
    second = await output(server, 2, state)
    await step(second, *(trade("A", n, n) for n in range(done, 12)))
    third = await output(server, 3, None)
    assert ids(server) == list(range(12))
    for sink in (first, second, third):
        await sink.close()


async def test_a_zombie_that_wakes_up_after_its_commit_sends_nothing_again(server: EmbeddedServer) -> None:
    zombie = await output(server)
    await zombie.write([Frame([trade("A", 1, 1)])])
    state = unpack(pack(await zombie.prepare(False)))
    owner = await output(server, 2, state)
    await step(owner, trade("A", 2, 2))
    await zombie.committed()
    assert ids(server) == [1, 2]
    await zombie.close()
    await owner.close()


async def test_the_script_itself_sends_nothing_twice(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else may send between a look at the marker and the script."""

    async def nothing_seen(*of: Any) -> int:
        return 0

    monkeypatch.setattr(RedisOutput, "_next", nothing_seen)
    zombie = await output(server)
    await zombie.write([Frame([trade("A", 1, 1)])])
    state = unpack(pack(await zombie.prepare(False)))
    owner = await output(server, 2, state)
    await zombie.committed()
    await owner._send(state)
    await step(owner, trade("A", 2, 2))
    await zombie.committed()
    assert ids(server) == [1, 2]
    await zombie.close()
    await owner.close()


async def test_a_server_that_was_rolled_back_loses_nothing(server: EmbeddedServer) -> None:
    first = await output(server)
    state = await step(first, trade("A", 1, 1))
    await step(first, trade("A", 2, 2))
    again = await output(server, 2, state)
    await step(again, trade("A", 2, 2), trade("A", 3, 3))
    assert set(ids(server)) == {1, 2, 3}
    await first.close()
    await again.close()


async def test_a_large_step_is_staged_at_the_server_and_moved(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_sinks, "_PART_ENTRIES", 2)
    sink = await output(server)
    big = [{"symbol": "A", "n": n, "text": "x" * 300_000} for n in range(20)]
    await sink.write([Frame(big)])
    state = unpack(pack(await sink.prepare(False)))
    assert len(pack(state)) < 4096
    assert 0 < ask(server, "TTL", state["staged"][0]) <= 7 * 86_400
    await sink.committed()
    assert [entry["n"] for entry in sent(server, "out:items")] == list(range(20))
    assert ask(server, "KEYS", "mdp:staged:*") == []
    await (await output(server, 2, state)).close()
    assert len(sent(server, "out:items")) == 20
    await sink.close()


async def test_a_zombie_does_not_take_away_what_its_successor_has_yet_to_send(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_sinks, "_PART_ENTRIES", 1)
    monkeypatch.setattr(redis_sinks, "STATE_BYTES", 1)
    zombie = await output(server, stream="out:{symbol}")
    await zombie.write([Frame([trade("A", 1, 1), trade("B", 2, 2)])])
    state = unpack(pack(await zombie.prepare(False)))
    ask(server, "SET", "out:B", "in the way")
    with pytest.raises(SinkError, match="no stream"):  # it dies behind the first part
        await output(server, 2, state, stream="out:{symbol}")
    await zombie.committed()
    ask(server, "DEL", "out:B")
    owner = await output(server, 3, state, stream="out:{symbol}")
    assert [ids(server, "out:A"), ids(server, "out:B")] == [[1], [2]]
    assert ask(server, "KEYS", "mdp:staged:*") == []
    await zombie.close()
    await owner.close()


async def test_staged_parts_that_somebody_sends_and_takes_away_meanwhile_are_not_missed(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_sinks, "STATE_BYTES", 1)
    slow = await output(server)
    await slow.write([Frame([trade("A", 1, 1)])])
    state = unpack(pack(await slow.prepare(False)))
    look, looks = RedisOutput._next, []

    async def late(sink: RedisOutput, of: dict[str, Any]) -> int:
        found = await look(sink, of)
        looks.append(found)
        if len(looks) == 1:
            await slow.committed()
        return found

    monkeypatch.setattr(RedisOutput, "_next", late)
    owner = await output(server, 2, state)
    assert ids(server) == [1]
    await slow.close()
    await owner.close()


async def test_a_step_that_a_full_server_refuses_leaves_no_part_there(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_sinks, "STATE_BYTES", 1)
    sink = await output(server)
    used = int(ask(server, "INFO", "memory")["used_memory"])
    ask(server, "CONFIG", "SET", "maxmemory", used + 3_000_000)
    try:
        await sink.write([Frame([{"symbol": "A", "n": n, "text": "x" * 300_000} for n in range(40)])])
        with pytest.raises(SinkError, match="memory"):
            await sink.prepare(False)
    finally:
        ask(server, "CONFIG", "SET", "maxmemory", 0)
    assert ask(server, "KEYS", "mdp:staged:*") == []
    await sink.close()


async def test_a_clock_that_went_back_loses_nothing(server: EmbeddedServer) -> None:
    first = await output(server, 10)
    state = await step(first, trade("A", 1, 1))
    await first.close()
    with pytest.raises(SinkError, match="did the clock of the job's server go back"):
        await output(server, 9, state)
    again = await output(server, 11, state)
    await step(again, trade("A", 2, 2))
    assert ids(server) == [1, 2]
    await again.close()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_may_evict_what_makes_output_exact_is_told(
    server: EmbeddedServer, caplog: pytest.LogCaptureFixture, policy: str
) -> None:
    ask(server, "CONFIG", "SET", "maxmemory-policy", policy)
    try:
        RedisOutput(server.url).check()
    finally:
        ask(server, "CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert f"maxmemory-policy is {policy}" in caplog.text


async def test_a_staged_step_that_the_server_lost_is_corrupt(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_sinks, "STATE_BYTES", 1)
    sink = await output(server)
    await sink.write([Frame([trade("A", 1, 1)])])
    state = await sink.prepare(False)
    ask(server, "FLUSHALL")
    with pytest.raises(CorruptState, match="was committed, and is gone"):
        await output(server, 2, state)
    await sink.close()


async def test_what_was_sent_leaves_the_commit(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = await output(server)
    assert not sink.due()
    await step(sink, trade("A", 1, 1))
    monkeypatch.setattr(redis_sinks, "_CLEAR_AFTER", 0.0)
    assert sink.due()
    assert await sink.prepare(False) is None
    await sink.committed()
    assert not sink.due()
    assert ids(server) == [1]
    await sink.close()


async def test_the_oldest_entries_go(server: EmbeddedServer) -> None:
    sink = await output(server, maxlen=100)
    await step(sink, *(trade("A", n, n) for n in range(2000)))
    found = ids(server)
    assert found[-1] == 1999
    assert 100 <= len(found) < 400
    await sink.close()


async def test_a_key_of_another_kind_is_an_error_before_anything_is_sent(server: EmbeddedServer) -> None:
    ask(server, "SET", "out:b", "x")
    sink = await output(server, stream="out:{symbol}")
    await sink.write([Frame([trade("a", 1), trade("b", 2)])])
    await sink.prepare(False)
    with pytest.raises(SinkError, match="key 'out:b' holds something that is no stream"):
        await sink.committed()
    assert ask(server, "EXISTS", "out:a") == 0
    await sink.close()


async def test_items_without_what_the_stream_names_go_to_the_dead_letters(server: EmbeddedServer) -> None:
    refused: list[Any] = []
    sink = RedisOutput(server.url, "out:{symbol}")
    await sink.open(context(1, reject=lambda item, reason: refused.append(item)), None)
    await step(sink, {"n": 1}, trade("A", 1, 1), {"symbol": "A", "n": {1, object()}})
    assert len(refused) == 2
    assert len(sent(server, "out:A")) == 1
    await sink.close()


# --- the server -------------------------------------------------------------------------------------------------


async def test_a_server_that_is_away_is_a_sink_error() -> None:
    url = "redis://:geheim@127.0.0.1:1/0"
    for sink in (RedisLatest(url), RedisOutput(url)):
        with pytest.raises(SinkError, match="cannot be reached") as caught:
            sink.check()
        assert "geheim" not in str(caught.value)
        await sink.open(context(1), None)
        await sink.write([Frame([trade("A", 1)])])
        with pytest.raises(SinkError, match="cannot be reached"):
            await sink.prepare(False)
        await sink.close()


def test_a_cluster_is_refused() -> None:
    with EmbeddedServer(None, None, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as cluster:
        for sink in (RedisLatest(cluster.url), RedisOutput(cluster.url)):
            with pytest.raises(SinkError, match="is a cluster; a step touches several slots"):
                sink.check()
    with pytest.raises(ConfigError, match="url: names a cluster"):
        RedisOutput("redis+cluster://h")


async def test_a_user_without_rights_sends_nothing(server: EmbeddedServer) -> None:
    ask(server, "ACL", "SETUSER", "weak", "on", ">pw", "~*", "+@all", "-xadd")
    sink = RedisOutput(server.url.replace("redis://", "redis://weak:pw@"))
    await sink.open(context(1), None)
    await sink.write([Frame([trade("A", 1)])])
    await sink.prepare(False)
    with pytest.raises(SinkError, match="XADD"):
        await sink.committed()
    await sink.close()
    assert ask(server, "KEYS", "*") == []


async def test_the_rights_that_the_documentation_names_are_enough(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join((ROOT / "docs" / "connectors.md").read_text().split())
    (for_output,) = re.findall(r"`mdp:staged:\*`, and `(EVALSHA [^`]*)`", text)
    (for_latest,) = re.findall(r"`RedisLatest`: `(EVALSHA [^`]*)`", text)
    output_rules = ["~out:*", "~mdp:sent:*", "~mdp:staged:*", *(f"+{word}" for word in for_output.split())]
    latest_rules = ["~latest:*", *(f"+{word}" for word in for_latest.split())]
    for user, rules in (("output", output_rules), ("latest", latest_rules)):
        ask(server, "ACL", "SETUSER", user, "reset", "on", ">pw", *rules)
    monkeypatch.setattr(redis_sinks, "STATE_BYTES", 1)
    for sink in (
        RedisOutput(server.url.replace("//", "//output:pw@")),
        RedisLatest(server.url.replace("//", "//latest:pw@"), ttl="1h"),
    ):
        sink.check()
        ask(server, "SCRIPT", "FLUSH")
        await sink.open(context(1), None)
        await step(sink, trade("A", 1, 1))
        ask(server, "SCRIPT", "FLUSH")
        await step(sink, trade("A", 2, 2))
        await sink.close()
    assert ids(server) == [1, 2]
    assert latest(server, "latest:trades:A")["trade_id"] == "2"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RedisLatest("http://x"), "url: does not begin with a known scheme"),
        (lambda: RedisLatest("redis://h", "latest:{price}"), "key: .* has the place {price}; allowed: {table}"),
        (lambda: RedisLatest("redis://h", ""), "key: must not be empty"),
        (lambda: RedisLatest("redis://h", ttl="0s"), "ttl"),
        (lambda: RedisOutput("redis://h", format="xml"), "format: 'xml' is not allowed"),  # type: ignore[arg-type]
        (lambda: RedisOutput("redis://h", maxlen=0), "maxlen: 0 must be at least 1"),
    ],
)
def test_arguments_are_checked(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_passwords_show_nowhere() -> None:
    for sink in (RedisLatest(SecretStr("redis://u:geheim@h/0")), RedisOutput("redis://u:geheim@h/0")):
        assert "geheim" not in f"{sink.config()} {sink.destination()} {sink!r} {sink.__dict__}"
        assert "u:***@h" in sink.config()["url"]
        assert sink.fresh().config() == sink.config()


async def test_a_whole_pipeline(server: EmbeddedServer) -> None:
    pipeline = Pipeline("all").source(Synthetic(symbols=7, items=5000)).sink(RedisOutput(server.url), "out")
    await DagRuntime(pipeline).start()
    assert len(set(ids(server))) == len(ids(server)) == 5000
