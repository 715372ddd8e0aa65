"""Which partitions ``--partition`` asks for once it is known how many there are, and pods' names as workers' names."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mdp_worker.pins import legal_name, parse_pins

from market_data_pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((), ()),
        (("3",), (3,)),
        (("0-3",), (0, 1, 2, 3)),
        (("5", "0-2", "1"), (0, 1, 2, 5)),
        (("4-4",), (4,)),
        (("9", "8"), (8, 9)),
        (("0/1",), tuple(range(10))),
        (("0/4",), (0, 1)),
        (("1/4",), (2, 3, 4)),
        (("2/4",), (5, 6)),
        (("3/4",), (7, 8, 9)),
        (("9/10", "0/10", "5-6"), (0, 5, 6, 9)),
    ],
)
def test_numbers_ranges_and_slices_of_ten_partitions(values: tuple[str, ...], expected: tuple[int, ...]) -> None:
    assert parse_pins(values).of(10) == expected


@given(st.integers(1, 300), st.data())
def test_slices_are_equal_consecutive_and_everything(partitions: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, partitions))
    slices = [parse_pins([f"{i}/{n}"]).of(partitions) for i in range(n)]
    assert [partition for part in slices for partition in part] == list(range(partitions))
    assert {len(part) for part in slices} <= {partitions // n, -(-partitions // n)}
    assert parse_pins([f"{i}/{n}" for i in range(n)]).of(partitions) == tuple(range(partitions))


@pytest.mark.parametrize(
    "value", ["", "x", "-1", "1-", "1-2-3", "1,2", " 1", "1.5", "1/", "/2", "1/2/3", "-1/2", "\u0661"]
)
def test_what_is_none_of_them_is_refused_by_name(value: str) -> None:
    with pytest.raises(ConfigError, match=f"^--partition {re.escape(repr(value))}: write a number, .*0-3, .*0/4$"):
        parse_pins(("0", value))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("3-1", "a range goes from the smaller number to the larger"),
        ("4/4", "of N slices the first is 0/N and the last N-1/N"),
        ("0/0", "of N slices the first is 0/N and the last N-1/N"),
    ],
)
def test_a_slice_or_range_that_there_cannot_be_is_refused_at_once(value: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^--partition '{value}': {reason}$"):
        parse_pins((value,))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("8", "--partition 8: the job has partitions 0 to 7"),
        ("6-9", "--partition 9: the job has partitions 0 to 7"),
        ("0/9", "--partition 0/9: the job has 8 partitions, too few for 9 slices"),
    ],
)
def test_partitions_that_a_job_has_not_are_refused(value: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^{reason}$"):
        parse_pins((value,)).of(8)


@pytest.mark.parametrize("name", ["a", "w-1", "-", "0", "x" * 40])
def test_a_legal_name_stays(name: str) -> None:
    assert legal_name("--name", name) == name


@given(st.from_regex(r"[a-z0-9.-]{1,253}", fullmatch=True))
def test_every_name_of_a_pod_becomes_a_legal_name(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]{1,40}", legal_name("--name", name))


def test_names_stay_readable_and_different() -> None:
    pod = "market-data-pipeline-workers-7d9c8b6f5d-x2x4z"
    short = legal_name("--name", pod)
    assert re.fullmatch(r"market-data-pi-[0-9a-f]{8}-7d9c8b6f5d-x2x4z", short)
    assert len(short) == 40
    assert legal_name("--name", pod.replace("7d9c", "7d9d")) != short
    assert legal_name("--name", "a.b") != legal_name("--name", "a-b") == "a-b"
    assert re.fullmatch(r"a-b-[0-9a-f]{8}", legal_name("--name", "a.b"))


@pytest.mark.parametrize("name", ["", "A", "a_b", "a:b", "{a}", "a*", "a\n", "a" * 254, "../x", "\u0131"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^MDP_WORKER_NAME: .* is not allowed; it must match \[a-z0-9-\]\{1,40\}$"):
        legal_name("MDP_WORKER_NAME", name)
