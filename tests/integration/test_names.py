"""Symbols that look like paths, separators, commands of a terminal, or nothing: they come out as they went in, no file leaves
the output folder, and no terminal is told what to do."""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tools.jobs import APPS, every_command, job, run_mdp

from market_data_pipeline.store.embedded import EmbeddedServer

APP = APPS / "names_job.py"
SYMBOLS = [
    "../x", "../../../evil", "/etc/evil", "..", ".", "C:\\x", "BRK/B", "x" * 300, "*", "{x}", "~", "$HOME", "`id`",
    "\0", "a\0b", "\x1e", "\x1f", "a\x1fb", "dedupe\x1fx", "\x1eoutbox:0", "new\nline", "cr\rlf\r\n", "tab\t", " a", "a ",
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b31m", "\x07", "\x7f", "\x85", "\u202egnp.exe", "\u200f", "\u2066x\u2069",
    "\u2028", "\ufeff", "\U000e0041", "q\"uote", "com,ma", "'", "=1+1", "\u00e9", "e\u0301", "\U0001f600", "NaN", "None",
]  # fmt: skip
ROUNDS = 3
SECOND = 1_000_000_000


def write_trades(path: Path) -> None:
    """Three trades of every symbol in one second, the last again; then one that raises."""
    with path.open("w") as file:
        for number, symbol in enumerate(["EMPTY", *SYMBOLS]):
            for i in [*range(ROUNDS), ROUNDS - 1]:
                row = {"symbol": symbol, "ts_event": i, "price": 10.0 + i, "size": 1.0, "trade_id": f"{number}-{i}"}
                file.write(json.dumps(row) + "\n")
            file.write(json.dumps(row | {"price": 13.0, "trade_id": "bad"}) + "\n")
        for bad in ("", "\ud800"):
            file.write(json.dumps({"symbol": bad, "ts_event": 0, "price": 1.0, "size": 1.0, "trade_id": "x"}) + "\n")


def harmless(text: str, where: str) -> None:
    """Nothing but line feeds that a terminal would obey, or that turns text around."""
    found = {char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n"}
    assert not found, f"{where}: {sorted(map(ascii, found))}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three levels down, so that ``..`` would lead somewhere that is looked at."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    write_trades(folder / "trades.jsonl")
    return folder


def arguments(folder: Path) -> list[str]:
    return ["--set", f"trades={folder / 'trades.jsonl'}", "--set", f"output={folder / 'out'}"]


def read_back(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    lines = [
        json.loads(line)
        for path in (folder / "out" / "lines").glob("*.jsonl")
        for line in path.read_text().split("\n")[:-1]
    ]
    rows: list[dict[str, str]] = []
    for path in (folder / "out" / "table").glob("*.csv"):
        with path.open(newline="") as file:
            rows += csv.DictReader(file)
    return lines, rows


def test_symbols_come_out_as_they_went_in(server: EmbeddedServer, tmp_path: Path, folder: Path, logs: Path) -> None:
    with job(server.url, APP, logs, *arguments(folder)) as running:
        for name in ("coordinator", "w0", "w1"):
            running.start(name)
        running.wait()
        for name in running.processes:
            running.wait_for_exit(name)
            harmless(running.log(name), f"the log of {name}")
    expected = sorted(["", *SYMBOLS])
    lines, rows = read_back(folder)
    assert sorted(bar["symbol"] for bar in lines) == expected
    assert sorted(row["symbol"] for row in rows) == expected
    for bar in [*lines, *rows]:  # an empty symbol is no key, so nothing is a duplicate of it
        assert int(bar["trade_count"]) == (ROUNDS if bar["symbol"] else ROUNDS + 1), bar
    files = [path for path in tmp_path.rglob("*") if path.is_file() and logs not in path.parents]
    outputs = [path for path in files if path != folder / "trades.jsonl"]
    assert {path.parent for path in outputs} == {folder / "out" / "lines", folder / "out" / "table"}
    for path in outputs:
        assert re.fullmatch(r"(lines|table)-[0-9a-f]{8}-p\d{4}-\d{6}\.(jsonl|csv)", path.name)

    letters = run_mdp("dlq", "--limit", "1000", "--redis-url", server.url)
    harmless(letters.stdout, "mdp dlq")
    found = [json.loads(line) for line in letters.stdout.splitlines()]
    raised = [letter for letter in found if letter["node"] == "check"]
    assert sorted(letter["item"]["symbol"] for letter in raised) == expected
    assert all(letter["reason"].endswith(f"unlucky: {letter['item']['symbol']}") for letter in raised)
    refused = [letter for letter in found if letter["node"] == "source"]
    assert [letter["where"].rpartition(":")[0] for letter in refused] == ["trades.jsonl"] * 2
    for command in (["status"], ["status", "--json"]):
        shown = run_mdp(*command, "--redis-url", server.url)
        assert shown.returncode == 0, shown.stderr
        harmless(shown.stdout + shown.stderr, "mdp status")


def test_an_error_that_quotes_a_symbol(tmp_path: Path) -> None:
    symbol = "\x1b]0;title\x07 two\nlines \u202egnp"
    trades = tmp_path / "trades.jsonl"
    trades.write_text(json.dumps({"symbol": symbol, "ts_event": 0, "price": 13.0, "size": 1.0, "trade_id": 1}) + "\n")
    failed = run_mdp("run", str(APP), "--workers", "1", *arguments(tmp_path), "--set", "fail=true", "--debug")
    assert failed.returncode == 1
    assert "unlucky" in failed.stderr
    harmless(failed.stderr + failed.stdout, "mdp run")


@pytest.mark.parametrize("name", ["../x", "{x}*", "a\nb\u202e"])
def test_names_are_refused_wherever_they_enter(name: str) -> None:
    small = APPS / "small_job.py"
    url = {"MDP_REDIS_URL": "redis://127.0.0.1:1"}
    by_flag = every_command(small, "--job", name, env=url, names=["run", "worker", "coordinator"])
    by_variable = every_command(small, env={**url, "MDP_JOB": name}, names=["worker"])
    of_worker = every_command(small, "--name", name, env=url, names=["worker"])
    for done in [*by_flag.values(), *by_variable.values(), *of_worker.values()]:
        assert done.returncode == 2, done.stderr
        assert "is not allowed; it must match [a-z0-9-]{1,40}" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        harmless(done.stderr, str(done.args))
