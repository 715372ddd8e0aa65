"""The tests' own reader of append-only files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.aof import Commit, Keyspace, Unit, check_unit, commits_of, last_increment, units

from market_data_pipeline.packing import seal

TASK, STATE, STREAM, BYTES = b"mdp:{u:0}:task:a", b"mdp:{u:0}:state:a", b"mdp:{u:0}:q:a.b", b"mdp:{u:0}:bytes"
RECORD = [b"HSET", TASK, b"commit", b"c1", b"meta", b"", b"ended", b"0"]


def packed(*commands: list[bytes]) -> bytes:
    found = b""
    for command in commands:
        found += b"*%d\r\n" % len(command) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in command)
    return found


def test_units_are_commands_and_whole_transactions() -> None:
    data = packed([b"SELECT", b"0"], [b"MULTI"], [b"XADD", STREAM, b"1-0", b"f", b"\r\n*2"], RECORD, [b"EXEC"])
    first, second = units(data)
    assert first == Unit(0, len(packed([b"SELECT", b"0"])), [[b"SELECT", b"0"]])
    assert (second.start, second.end) == (first.end, len(data))
    assert second.commands == [[b"XADD", STREAM, b"1-0", b"f", b"\r\n*2"], RECORD]
    assert commits_of(second) == [Commit(TASK, b"c1")]


@pytest.mark.parametrize("data", [b"SET a b\r\n", b"*1\r\n$9\r\nPING\r\n" + b"x" * 20])
def test_what_is_no_command_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="byte "):
        units(data)


def test_a_transaction_without_its_end_is_refused() -> None:
    with pytest.raises(AssertionError, match="ends inside a transaction"):
        units(packed([b"MULTI"], RECORD))


def test_streams_change_only_with_a_commit() -> None:
    append = [b"XADD", STREAM, b"1-0", b"f", b"x"]
    check_unit(Unit(0, 1, [append, RECORD]))
    with pytest.raises(AssertionError, match="without its commit"):
        check_unit(Unit(0, 1, [append]))
    with pytest.raises(AssertionError, match="without its commit"):
        check_unit(Unit(0, 1, [append, RECORD, RECORD]))


def test_the_keyspace_does_what_a_server_does() -> None:
    keyspace = Keyspace()
    for n in (1, 2, 3):
        keyspace.apply(
            Unit(0, 1, [[b"XADD", STREAM, b"%d-0" % n, b"f", b"x" * n], [b"HINCRBY", BYTES, STREAM, b"%d" % n]])
        )
    keyspace.apply(Unit(0, 1, [[b"XTRIM", STREAM, b"MINID", b"=", b"2-1"], [b"HINCRBY", BYTES, STREAM, b"-3"]]))
    keyspace.apply(Unit(0, 1, [[b"HSET", STATE, b"k", b"v", b"gone", b"v"], [b"HDEL", STATE, b"gone"]]))
    assert keyspace.contents() == {STREAM: [(b"3-0", b"xxx")], BYTES: {STREAM: b"3"}, STATE: {b"k": b"v"}}
    assert (keyspace.appended[STREAM], keyspace.removed[STREAM]) == (3, 2)
    with pytest.raises(ValueError, match="not known"):
        keyspace.apply(Unit(0, 1, [[b"LREM", STREAM, b"1", b"x"]]))


def test_what_does_not_agree_is_noticed() -> None:
    keyspace = Keyspace(hashes={BYTES: {STREAM: b"4"}}, streams={STREAM: [(b"1-0", b"xxx")]}, appended={STREAM: 1})
    with pytest.raises(AssertionError, match="bytes"):
        keyspace.check()
    with pytest.raises(AssertionError, match="entries left"):
        Keyspace(streams={STREAM: [(b"1-0", b"xxx")]}, appended={STREAM: 2}).check()
    damaged = bytearray(seal(b"state"))
    damaged[-1] ^= 1
    with pytest.raises(Exception, match="checksum"):
        Keyspace(hashes={STATE: {b"k": bytes(damaged)}}).check()


def test_the_manifest_says_which_file_is_the_last(tmp_path: Path) -> None:
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    (folder / "appendonly.aof.manifest").write_text(
        "file appendonly.aof.2.base.rdb seq 2 type b\n"
        "file appendonly.aof.1.incr.aof seq 1 type h\n"
        "file appendonly.aof.2.incr.aof seq 2 type i\n"
    )
    assert last_increment(tmp_path) == folder / "appendonly.aof.2.incr.aof"
