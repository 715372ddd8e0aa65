"""What a newcomer gets wrong: one clear line each, the right exit code, nothing started, no traceback."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.jobs import APPS, run_mdp

from market_data_pipeline.store.embedded import EmbeddedServer, free_port

BARS = "examples/bars.py"


def refused(code: int, *arguments: str, env: dict[str, str] | None = None) -> str:
    """The one line that the command prints when it refuses with ``code``."""
    done = run_mdp(*arguments, env=env)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.py"], "app 'nowhere.py': no such file"),
        (["no_such_module"], "app 'no_such_module': no such module"),
        (["examples/bars.py:nope"], "has no 'nope'"),
        (["examples/bars.py:pipelin"], "did you mean 'pipeline'?"),
        ([BARS], "needs a value for 'output': --set output=..."),
        ([BARS, "--set", "output=x", "--set", "outptu=y"], "did you mean 'output'? it takes: input, output, interval"),
        ([BARS, "--set", "output=x", "--set", "items=many"], "items=many: must be a whole number"),
        ([BARS, "--set", "output"], "write name=value"),
        ([BARS, "--set", "output=x", "--set", "interval=1 fortnight"], "interval: '1 fortnight' is not a duration"),
        ([BARS, "--set", "output=x", "--partitions", "0"], "--partitions: 0: must be at least 1"),
        ([BARS, "--set", "output=x", "--job", "A*"], "--job: 'A*' is not allowed"),
        ([BARS, "--set", "output=x", "--server", "no-such-server"], "server 'no-such-server': not found"),
    ],
)  # fmt: skip
def test_mistakes_on_the_command_line(arguments: list[str], says: str) -> None:
    assert says in refused(2, "run", *arguments)


def test_an_unreachable_server() -> None:
    url = f"redis://:canary@127.0.0.1:{free_port()}/0"
    line = refused(3, "run", BARS, "--set", "output=x", "--redis-url", url)
    assert "cannot be reached" in line
    assert "canary" not in line


def test_a_url_that_is_none() -> None:
    line = refused(2, "run", BARS, "--set", "output=x", "--redis-url", "http://canary")
    assert "MDP_REDIS_URL (--redis-url): does not begin with a known scheme; write redis://" in line
    assert "canary" not in line


@pytest.fixture
def guarded() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(None, None, "--requirepass", "right") as running:
        yield running


def test_a_wrong_password(guarded: EmbeddedServer, tmp_path: Path) -> None:
    url = f"redis://:wrong-canary@127.0.0.1:{guarded.port}/0"
    line = refused(3, "run", BARS, "--set", f"output={tmp_path}", "--redis-url", url)
    assert "it refuses the user or password" in line
    assert "wrong-canary" not in line


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("maxmemory-policy", "allkeys-lru", "maxmemory-policy is 'allkeys-lru', it would evict data"),
        ("appendonly", "no", "appendonly is off, a restart would lose commits"),
        ("stream-node-max-entries", "0", "stream-node-max-entries is 0"),
    ],
)
def test_a_server_that_could_lose_data(tmp_path: Path, setting: str, value: str, says: str) -> None:
    with EmbeddedServer(tmp_path / "data", None, f"--{setting}", value) as running:
        line = refused(3, "run", BARS, "--set", f"output={tmp_path}", "--redis-url", running.url)
    assert says in line


def test_a_second_job_with_the_same_name_and_another_plan(server: EmbeddedServer, tmp_path: Path) -> None:
    given = [
        "--redis-url",
        server.url,
        "--allow-volatile",
        "--set",
        f"output={tmp_path / 'out'}",
        "--set",
        "items=1000",
    ]
    assert run_mdp("run", BARS, *given).returncode == 0
    line = refused(2, "run", BARS, *given, "--set", "interval=5s")
    assert "first difference: plan.nodes.tumblingbars.config.interval: ours 5000000000, theirs 1000000000" in line
    assert "It has finished: begin anew with --fresh" in line
    assert run_mdp("run", BARS, *given, "--set", "interval=5s", "--fresh").returncode == 0
    assert run_mdp("remove", "bars", "--redis-url", server.url).stdout == "job bars: removed\n"
    assert "no job 'bars' on this server" in refused(2, "status", "--redis-url", server.url, "--job", "bars")


def truncated(path: Path) -> Path:
    whole = gzip.compress(b"symbol,ts_event,price,size\n" + b"A,1,2,3\n" * 10_000)
    path.write_bytes(whole[: len(whole) // 2])
    return path


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.csv", None, "no such file"),
        ("columns.csv", b"symbol,ts,price,size\nA,1,2,3\n", "no column 'ts_event'; it has: symbol, ts, price, size"),
        ("empty.csv", b"", "empty, not even a header line"),
        ("trades.xls", b"x", "unknown format; allowed: .csv, .jsonl"),
        ("plain.csv.gz", b"symbol,ts_event,price,size\n", "not a complete gzip file"),
        ("keys.jsonl", b'{"symbol": "A", "price": 1}\n', "no column 'ts_event'"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    code = 2 if name == "trades.xls" else 1
    line = refused(code, "run", BARS, "--set", f"output={tmp_path}", "--set", f"input={path}")
    assert says in line
    assert name in line


def test_a_truncated_gzip(tmp_path: Path) -> None:
    path = truncated(tmp_path / "half.csv.gz")
    line = refused(1, "run", BARS, "--set", f"output={tmp_path}", "--set", f"input={path}")
    assert "half.csv.gz: not a complete gzip file" in line


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    assert "Not a directory" in refused(1, "run", BARS, "--set", f"output={blocker / 'out'}")


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in run_mdp("run", "nowhere.py", "--debug").stderr


def test_a_worker_with_another_plan_is_refused(server: EmbeddedServer, tmp_path: Path) -> None:
    from tools.jobs import job  # noqa: PLC0415

    given = ["--set", f"output={tmp_path / 'out'}"]
    with job(server.url, APPS / "bars_job.py", tmp_path, *given) as running:
        running.start("coordinator", "--set", "items=1000")
        running.info()
        running.start("w0", "--set", "items=2000")
        assert running.wait_for_exit("w0") == 2
        assert "first difference: plan.nodes.source.config.items: ours 2000, theirs 1000" in running.log("w0")
        running.start("w1", "--set", "items=1000", "--partition", "3-9")
        assert running.wait_for_exit("w1") == 2
        assert "--partition 9: the job has partitions 0 to 7" in running.log("w1")
