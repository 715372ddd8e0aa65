"""Which partitions a worker runs, and the names it understands."""

from __future__ import annotations

import os
import re
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mdp_worker.cli import default_name
from mdp_worker.state import HeldPartitions, Start, Stop

from market_data_pipeline.store.control import Owner


def mine(**epochs: int) -> dict[int, Owner]:
    return {int(p.removeprefix("p")): Owner(epoch, "me", "worker") for p, epoch in epochs.items()}


def test_new_partitions_start_and_lost_ones_stop() -> None:
    held = HeldPartitions("me")
    assert held.assigned(mine(p0=1, p2=5)) == [Start(0, 1), Start(2, 5)]
    assert held.held == {0: 1, 2: 5}
    assert held.assigned(mine(p0=1, p2=5)) == []
    assert held.assigned(mine(p2=5, p3=1)) == [Stop(0), Start(3, 1)]
    assert held.assigned({}) == [Stop(2), Stop(3)]
    assert held.held == {}


def test_a_new_epoch_restarts_the_partition() -> None:
    held = HeldPartitions("me")
    held.assigned(mine(p1=1))
    assert held.assigned(mine(p1=3)) == [Stop(1), Start(1, 3)]


def test_others_partitions_are_not_ours() -> None:
    held = HeldPartitions("me")
    assert held.assigned({0: Owner(1, "you", "worker"), 1: Owner(2, "", "")}) == []
    assert held.held == {}


def test_a_fence_stops_only_the_epoch_it_names() -> None:
    held = HeldPartitions("me")
    held.assigned(mine(p0=2))
    assert held.fenced(0, 1) == []
    assert held.fenced(7, 2) == []
    assert held.fenced(0, 2) == [Stop(0)]
    assert held.fenced(0, 2) == [], "once"
    assert held.assigned(mine(p0=3)) == [Stop(0), Start(0, 3)]
    assert held.assigned(mine(p0=3)) == []


def test_the_same_epoch_may_come_again_after_a_rollback_of_the_server() -> None:
    held = HeldPartitions("me")
    held.assigned(mine(p0=2))
    assert held.fenced(0, 2) == [Stop(0)]
    assert held.assigned(mine(p0=2)) == [Stop(0), Start(0, 2)]


@given(st.lists(st.dictionaries(st.integers(0, 5), st.tuples(st.integers(1, 3), st.sampled_from(["me", "you"])))))
@settings(derandomize=True, max_examples=200, deadline=None)
def test_commands_always_lead_to_the_assignment(steps: list[dict[int, tuple[int, str]]]) -> None:
    held = HeldPartitions("me")
    running: dict[int, int] = {}
    for step in steps:
        for command in held.assigned({p: Owner(epoch, token, token) for p, (epoch, token) in step.items()}):
            if isinstance(command, Stop):
                del running[command.partition]
            else:
                assert command.partition not in running, "stopped before it starts again"
                running[command.partition] = command.epoch
        assert running == {p: epoch for p, (epoch, token) in step.items() if token == "me"}


@pytest.mark.parametrize("host", ["Node_01.example.COM", "x" * 80, "...", "", "ünï", "a--b"])
def test_the_default_name_is_always_a_valid_name(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    name = default_name()
    assert re.fullmatch(r"[a-z0-9-]{1,40}", name)
    assert name.endswith(f"-{os.getpid()}")
    assert not name.startswith("-")
