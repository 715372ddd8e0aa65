"""What ``mdp run`` shows, and how it watches its children."""

from __future__ import annotations

import io
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from market_data_pipeline.errors import JobFailed
from market_data_pipeline.feedback import StoreReading
from market_data_pipeline.frame import END
from market_data_pipeline.launcher.children import Child, service
from market_data_pipeline.launcher.display import Lines, choose_display, nothing_stored, summary, watermark_lag
from market_data_pipeline.launcher.live_table import LiveTable, render
from market_data_pipeline.launcher.services import Services
from market_data_pipeline.store.status import ChannelStatus, JobStatus
from market_data_pipeline.store.trouble import Trouble


def status(**changes: Any) -> JobStatus:
    fields: dict[str, Any] = {
        "job": "bars", "uid": "u", "state": "running", "error": "", "fingerprint": "abc", "partitions": 6,
        "tasks": 7, "tasks_ended": 2, "workers": [{"name": "w-1", "partitions": [0, 1, 2, 5]}],
        "owners": dict.fromkeys((0, 1, 2, 5), "w-1"), "channels": [ChannelStatus("source.dedupe", {0: 3, 1: 32}, 64, 123456)],
        "nodes": {
            "source": {"out": 12345}, "dedupe": {"in": 12000, "out": 11000, "duplicate": 1000}, "out": {"in": 77},
        },
        "watermarks": {"source": 5_000_000_000, "dedupe": 3_500_000_000},
        "latency": {"p50": 0.0123, "p99": None}, "dead_letters": 0, "sources": ["source"], "sinks": ["out"],
    }  # fmt: skip
    return JobStatus(**{**fields, **changes})


def drawn(of: JobStatus, rate: float | None = 1000.0) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(render(of, rate))
    return out.getvalue()


def test_the_table_shows_what_is_going_on() -> None:
    text = drawn(status())
    assert "bars plan abc  running" in text
    assert "1,000 items/s   in 12,345   out 77   watermark lag 1.500s   dead letters 0   tasks ended 2/7" in text
    assert "source.dedupe" in text
    assert re.search(r"35/128 +123,456 ", text)
    assert "█" * 12 + "·" * 12 + " 32/64" in text
    assert "duplicate 1,000" in text
    assert "0-2 5" in text
    assert "nobody" in text
    assert "3-4" in text


def test_the_table_of_an_empty_job_can_be_drawn() -> None:
    text = drawn(status(workers=[], owners={}, channels=[ChannelStatus("a.b", {}, 64)], nodes={}, watermarks={}), None)
    assert "items/s" not in text
    assert "0-5" in text


def test_everything_owned_means_nobody_is_not_shown() -> None:
    assert "nobody" not in drawn(status(owners=dict.fromkeys(range(6), "w-1")))


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ({}, "0s"),
        ({"a": None, "b": 5}, "-"),
        ({"a": 1_000_000_000, "b": 3_250_000_000}, "2.250s"),
        ({"a": END, "b": END}, "0s"),
    ],
)
def test_watermark_lag(marks: dict[str, int | None], expected: str) -> None:
    assert watermark_lag(status(watermarks=marks)) == expected


def test_the_summary_has_a_line_per_fact() -> None:
    nodes = {
        "s": {"out": 10},
        "d": {"duplicate": 2, "late": 3, "unkeyed": 4, "skipped": 5},
        "o": {"in": 6, "dead_letter": 1},
    }
    text = summary(status(nodes=nodes, sources=["s"], sinks=["o"], state="finished"), 2.5, ["/tmp/out"], 4000.0)
    facts = {line.strip().split("  ")[0]: line.split()[-1] for line in text.splitlines()[1:]}
    assert text.startswith("job bars: finished after 2.5 s\n")
    assert facts["items in"] == "10"
    assert facts["items out"] == "6"
    assert facts["duplicates dropped"] == "2"
    assert facts["late, dropped"] == "3"
    assert "dead letters        1" in text
    assert "without a key       4" in text
    assert facts["skipped"] == "5"
    assert "latency             p50 12.3 ms / p99 -" in text
    assert "latency p50 12.3 ms / p99 -" in drawn(status())
    unmeasured = status(latency={"p50": None, "p99": None})
    assert "latency" not in summary(unmeasured, 1.0, [], 1.0) + drawn(unmeasured), "too short a run to say anything"
    assert facts["written to"] == "/tmp/out"


def test_the_summary_says_that_nothing_was_stored() -> None:
    nodes = {"s": {"in": 9, "out": 1000}, "o": {"in": 1000, "dead_letter": 1000}}
    of = status(nodes=nodes, sources=["s"], sinks=["o"], state="finished", first_dead_letter="o: no such column")
    said = summary(of, 1.0, [], 0.0).splitlines()[-1]
    assert said.startswith(
        "nothing was stored by 'o': all 1,000 items are dead letters; the first: o: no such column; on a server"
    )
    assert nothing_stored(of, lists=True) == [], "a list may have been stored but for an item"


def test_whoever_made_dead_letters_of_everything_is_named() -> None:
    names = {"sources": ["s"], "sinks": ["o"]}
    assert nothing_stored(status(nodes={"s": {"out": 2}, "m": {"in": 2, "out": 1, "dead_letter": 1}}, **names)) == []
    assert nothing_stored(status(nodes={"s": {"out": 1, "dead_letter": 2}, "o": {"in": 0}}, **names)) == []
    assert nothing_stored(status(nodes={"s": {"dead_letter": 2}}, **names))[0].startswith(
        "nothing was brought in by 's': all 2"
    )
    refused = status(nodes={"s": {"out": 1}, "m": {"in": 1, "dead_letter": 1}}, **names)
    assert nothing_stored(refused)[0].startswith("nothing was taken by 'm': the one item is a dead letter")


def test_the_summary_of_an_interrupted_run_says_what_a_new_one_does() -> None:
    assert summary(status(), 1.0, [], 0.0, gone=True).splitlines()[-1].endswith("with --data-dir DIR it resumes")
    assert "--data-dir" not in summary(status(), 1.0, [], 0.0)
    assert "--data-dir" not in summary(status(state="finished"), 1.0, [], 0.0, gone=True)
    assert summary(status(), 1.0, [], 0.0).splitlines()[-1] == "the same command goes on from here"
    assert "goes on" not in summary(status(state="finished"), 1.0, [], 0.0)


def test_the_head_of_the_table_breaks_between_phrases() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(render(status(rates={"source": 10.0}), 1000.0))
    head = out.getvalue().split("channel", 1)[0].splitlines()
    assert [line.rstrip() for line in head] == [
        "bars plan abc  running   1,000 items/s   in 12,345   out 77",
        "watermark lag 1.500s   dead letters 0   tasks ended 2/7",
        "slowed down: source 10/s, see 'Backpressure' in operations.md",
        "latency p50 12.3 ms / p99 -",
    ]


def test_the_summary_of_a_failure_says_so() -> None:
    said = summary(status(state="failed", error="boom"), 1.0, [], 0.0)
    assert said.startswith("job bars: failed after")
    assert said.endswith("\nonce its cause is gone, the same command goes on from here")
    assert "goes on" not in summary(status(state="failed", error="boom"), 1.0, [], 0.0, gone=True)


def test_lines_are_shown_every_two_seconds_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines._shown_at = -1e9
    with lines as display:
        display.show(status(), 1000.0)
        display.show(status(), 1000.0)
        display.say("a [fact]")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "in=12,345 out=77 rate=1,000/s backlog[source.dedupe=35/128] lag=1.500s dead=0 workers=1 ended=2/7"
    assert second == "a [fact]"


def test_what_tasks_wait_for_is_said_once_as_it_comes_and_goes(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    store, feed = Trouble("out/0", "db: refused", 8), Trouble("in/0", "feed \x1b[1m: away")
    for troubles in ([store], [store, feed], [store, feed], [], []):
        lines._shown_at = -1e9
        lines.show(status(troubles=troubles), 0.0)
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("in=")]
    assert said == [
        "waits: task out/0 and 7 more: db: refused",
        "waits: task in/0: feed \\u001b[1m: away",
        "waits: no task any more",
    ]


def test_the_table_and_the_document_say_what_tasks_wait_for() -> None:
    waiting = status(troubles=[Trouble("out/3", "[red]db: refused")])
    assert "waits: task out/3: [red]db: refused\n" in re.sub(" +\n", "\n", drawn(waiting))
    assert waiting.to_dict()["troubles"] == [{"task": "out/3", "text": "[red]db: refused", "tasks": 1}]
    assert "\n  waits: task out/3: [red]db: refused\n" in summary(waiting, 1.0, [], 0.0)
    assert "waits" not in drawn(status())


def test_a_source_brought_in_what_came_and_not_what_it_says_of_itself() -> None:
    nodes = {"feed": {"in": 0, "out": 3}, "function": {"out": 5}, "replay": {"in": 7, "out": 8}}
    assert status(nodes=nodes, sources=[*nodes, "new"]).brought == {"feed": 0, "function": 5, "replay": 7, "new": 0}


def test_without_a_terminal_there_are_lines() -> None:
    assert isinstance(choose_display(plain=False), Lines)
    assert isinstance(choose_display(plain=True), Lines)


def test_a_terminal_gets_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(choose_display(plain=False), LiveTable)
    assert isinstance(choose_display(plain=True), Lines)


# --- children ---------------------------------------------------------------------------------------------------


def child(tmp_path: Path, code: str = "pass") -> Child:
    return Child("c", [sys.executable, "-S", "-c", code], {"MARK": "set"}, tmp_path / "c.log")


def test_a_service_is_run_by_this_interpreter(tmp_path: Path) -> None:
    made = service("worker-1", "mdp_worker.cli", ["app.py", "--name", "x"], {"A": "b"}, tmp_path)
    assert made.command == [sys.executable, "-m", "mdp_worker.cli", "app.py", "--name", "x"]
    assert made.log == tmp_path / "worker-1.log"
    assert made.process is None


def test_last_words_are_the_end_of_the_log(tmp_path: Path) -> None:
    made = child(tmp_path)
    assert made.last_words() == ""
    made.log.write_bytes(b"\xff\n" + b"".join(b"line %d\n" % n for n in range(9)))
    assert made.last_words() == "\n".join(f"    line {n}" for n in range(4, 9))


def test_a_child_may_be_restarted_ten_times_a_minute_each_time_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    made = child(tmp_path)
    delays: list[float] = []
    while made.may_restart():
        assert made.start_at is not None
        delays.append(made.start_at - now)
    assert len(delays) == 10
    assert delays == sorted(delays)
    assert 0 < delays[0] < delays[3] <= delays[-1] <= 10
    now += 60.5
    assert made.may_restart()
    assert len(made.died) == 1
    assert made.start_at == pytest.approx(now + delays[0]), "an old death counts no more"


def test_a_child_runs_with_its_environment_and_its_log(tmp_path: Path) -> None:
    made = child(tmp_path, "import os, sys; print('out', os.environ['MARK']); sys.exit(3)")
    made.start()
    assert made.process is not None
    made.process.wait(20)
    assert made.exit_code() == 3
    assert made.last_words() == "    out set"
    made.terminate()  # it is gone: nothing happens


def test_a_child_that_does_not_go_is_killed(tmp_path: Path) -> None:
    made = child(tmp_path, "import time; time.sleep(600)")
    made.start()
    assert made.exit_code() is None
    made.kill()
    assert made.exit_code() == -9


def test_sources_that_are_slowed_down_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    slowed = status(rates={"source": 4321.7, "other": 10.0})
    assert "slowed down: other 10/s, source 4,322/s" in drawn(slowed)
    assert "slowed down" not in drawn(status())
    Lines().show(slowed, 1.0)
    Lines().show(status(), 1.0)
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("limited[other 10/s, source 4,322/s]")
    assert "limited" not in second
    assert slowed.to_dict()["rates"] == {"source": 4321.7, "other": 10.0}


def test_stores_that_say_how_they_are_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    pressed = status(
        rates={"source": 4321.7, "other": 10.0},
        presses={"source": ["db", "log"]},
        stores={"db": StoreReading(91_234.5, 80_000, 20_000, 0.1234), "log": StoreReading(5, 4, 1)},
    )
    seen = drawn(pressed)
    assert "slowed down: other 10/s, source 4,322/s (store of db, log), see" in seen
    assert "store of db: 91,234 wait, high 80,000, low 20,000, a write 0.123 s" in seen
    assert "store of log: 5 wait, high 4, low 1\n" in seen
    Lines().show(pressed, 1.0)
    assert "limited[other 10/s, source 4,322/s (store of db, log)]" in capsys.readouterr().err


def test_a_coroutine_that_nobody_awaited_in_a_child_is_known_once_and_only_of_this_run(tmp_path: Path) -> None:
    """``out_ch["next"].put(item)`` without ``await`` puts nothing, and the job ends well."""
    log = tmp_path / "w1.log"
    log.write_text("old.py:1: RuntimeWarning: coroutine 'old' was never awaited\n")
    code = "async def put(): pass\nfor _ in range(2):\n    put()"
    child = Child("w1", [sys.executable, "-W", "always", "-c", code], {}, log)
    assert child.never_awaited() == []
    child.start()
    assert child.process is not None
    assert child.process.wait(60) == 0
    assert child.never_awaited() == ["<string>:3: RuntimeWarning: coroutine 'put' was never awaited"]


def test_a_childs_log_stays_short_and_its_last_words_are_known_all_the_same(tmp_path: Path) -> None:
    code = """
import sys
async def put(): pass
put()
for number in range(1000):
    print("line", number, file=sys.stderr)
with open("gate") as gate:
    gate.read()
for number in range(3):
    print("last", number, file=sys.stderr)
sys.exit(2)
"""
    gate, log = tmp_path / "gate", tmp_path / "w1.log"
    os.mkfifo(gate)
    command = [sys.executable, "-W", "always", "-c", code.replace('"gate"', repr(str(gate)))]
    child, services = Child("w1", command, {}, log, log_bytes=5000), Services(lambda text: None)
    services.start([child])
    assert child.process is not None
    try:
        with gate.open("w"):  # it has come there
            services.look_after()
            assert log.stat().st_size == 0
        assert child.process.wait(60) == 2
    finally:
        child.kill()
    assert log.read_text() == "last 0\nlast 1\nlast 2\n"
    assert len((tmp_path / "w1.log.1").read_text().splitlines()) > 1000
    assert re.findall("(?:line|last) .*", child.last_words()) == ["line 998", "line 999", "last 0", "last 1", "last 2"]
    assert child.never_awaited() == ["<string>:4: RuntimeWarning: coroutine 'put' was never awaited"]
    with pytest.raises(JobFailed, match="last 2"):
        services.look_after()
