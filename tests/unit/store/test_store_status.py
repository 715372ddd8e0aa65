"""When a job is well, as ``mdp status --check`` says."""

from __future__ import annotations

from typing import Any

import pytest

from market_data_pipeline.store.status import JobStatus


def status(**changes: Any) -> JobStatus:
    fields: dict[str, Any] = {
        "job": "bars", "uid": "u", "state": "running", "error": "", "fingerprint": "abc", "partitions": 3, "tasks": 7,
        "tasks_ended": 2, "workers": [], "owners": {0: "w1", 1: "w2", 2: "w1"}, "channels": [], "nodes": {},
        "watermarks": {}, "latency": {}, "dead_letters": 0, "has_leader": True,
    }  # fmt: skip
    return JobStatus(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({}, []),
        ({"state": "finished", "has_leader": False, "owners": {}}, []),
        ({"state": "failed", "error": "task x: boom"}, ["job 'bars' is failed: task x: boom"]),
        ({"state": "removed"}, ["job 'bars' is removed"]),
        ({"state": "gone"}, ["job 'bars' is gone"]),
        ({"has_leader": False}, ["job 'bars': no coordinator leads"]),
        ({"owners": {0: "w1", 1: ""}}, [f"job 'bars': partition {p} has no living owner" for p in (1, 2)]),
        (
            {"owners": {0: "w1", 1: "w1"}, "has_leader": False},
            ["job 'bars': no coordinator leads", "job 'bars': partition 2 has no living owner"],
        ),
    ],
)
def test_problems(changes: dict[str, Any], problems: list[str]) -> None:
    assert status(**changes).problems() == problems
