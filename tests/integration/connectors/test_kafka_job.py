"""Jobs that read Kafka, over real processes that die: what comes out equals the oracle."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path
from secrets import token_hex

import orjson
import pytest
from tools.broker import shared_broker
from tools.jobs import APPS, generate, job, run_mdp
from tools.oracle import check_bars, plain_bars

from market_data_pipeline import Synthetic
from market_data_pipeline.dag.partition import partition_of
from market_data_pipeline.store.embedded import EmbeddedServer

SECOND = 1_000_000_000
APP = APPS / "kafka_job.py"


def trades_in_kafka(items: int, partitions: int = 8) -> tuple[str, list[dict[str, object]]]:
    """A topic of ``items`` trades as another program would write them, and the trades."""
    rows = asyncio.run(generate(Synthetic(symbols=40, items=items, event_rate=2_000, disorder=0.1, seed=11)))
    name = f"trades-{token_hex(6)}"
    shared_broker().create(name, partitions=partitions)
    places = {str(row["symbol"]): partition_of(str(row["symbol"]), partitions) for row in rows}
    messages = ((str(row["symbol"]), orjson.dumps(row), int(row["ts_event"]) // 1_000_000) for row in rows)
    shared_broker().produce(name, messages, places)
    return name, rows


@pytest.mark.parametrize("partitioned", [False, True])
def test_workers_that_die_lose_and_double_nothing(
    server: EmbeddedServer, tmp_path: Path, logs: Path, partitioned: bool
) -> None:
    name, rows = trades_in_kafka(20_000)
    given = {"servers": shared_broker().servers, "topic": name, "output": tmp_path / "out", "partitioned": partitioned}
    arguments = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    faults = tmp_path / "faults"
    faults.mkdir()
    with job(server.url, APP, logs, *arguments, env={"MDP_FAULT_POINTS": str(faults)}) as running:
        running.start("coordinator", "--partitions", "4", "--min-workers", "2")
        for worker in ("w0", "w1"):
            running.start(worker)
        for turn, items in enumerate((1_000, 8_000)):
            running.wait_for_items("source", items)
            os.kill(running.processes[f"w{turn}"].pid, signal.SIGKILL)
            running.processes[f"w{turn}"].wait()
            running.start(f"w{turn + 2}")
        running.wait()
        assert running.client.xlen(running.keys.dead_letters) == 0
    bars, _ = plain_bars(rows, SECOND)
    check_bars(tmp_path / "out", bars, SECOND)


@pytest.mark.parametrize("transactional", [False, True])
def test_the_example(tmp_path: Path, transactional: bool) -> None:
    name, rows = trades_in_kafka(5_000, partitions=2)
    bars = f"bars-{token_hex(6)}"
    shared_broker().create(bars, partitions=3)
    given = {"servers": shared_broker().servers, "trades": name, "bars": bars, "until": "end"}
    arguments = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    done = run_mdp("run", "examples/kafka.py", *arguments, "--set", f"transactional={transactional}", "--workers", "1")
    assert done.returncode == 0, done.stderr
    found = shared_broker().read(bars)
    expected, _ = plain_bars(rows, SECOND)
    wanted = {(symbol, opened, bar["trade_count"]) for (symbol, opened), bar in expected.items()}
    values = [orjson.loads(message.value()) for message in found]
    assert Counter((v["symbol"], v["ts_open"], v["trade_count"]) for v in values) == Counter(wanted)
    assert {v["kind"] for v in values} == {"bar"}
    assert all(message.key().decode() == v["symbol"] for message, v in zip(found, values, strict=True))
