"""The token bucket, and a task that obeys it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_runtime_memory_jobs import job_of
from tools.memory_job import CommittedRows, ListSource, committed_rows

from market_data_pipeline import Dag, Node
from market_data_pipeline.dag.plan import TaskId
from market_data_pipeline.runtime.pace import Pace


def test_no_rate_is_no_limit() -> None:
    pace = Pace()
    pace.took(10**9, 0.0)
    assert pace.wait(0.0) == 0.0


def test_a_batch_is_paid_for_behind_it() -> None:
    pace = Pace()
    pace.set(100.0, 10.0)
    assert pace.wait(10.0) == 0.0
    pace.took(50, 10.0)
    assert pace.wait(10.0) == pytest.approx(0.5)
    assert pace.wait(10.4) == pytest.approx(0.1)
    assert pace.wait(10.5) == pytest.approx(0.0)


def test_what_was_not_used_is_lost_but_for_a_moment() -> None:
    pace = Pace()
    pace.set(100.0, 0.0)
    assert pace.wait(60.0) == 0.0
    pace.took(10, 60.0)
    assert pace.wait(60.0) == pytest.approx(0.05)


def test_a_smaller_rate_does_not_lengthen_a_debt_and_a_larger_one_shortens_it() -> None:
    pace = Pace()
    pace.set(1000.0, 0.0)
    pace.took(2000, 0.0)
    pace.set(10.0, 0.0)
    assert pace.wait(0.0) == pytest.approx(2.0)
    pace.set(20.0, 0.0)
    assert pace.wait(0.0) == pytest.approx(1.0)
    pace.set(None, 0.0)
    assert pace.wait(0.0) == 0.0
    pace.set(5.0, 0.0)
    assert pace.wait(0.0) == 0.0, "what was owed before there was no limit is forgotten"


@given(
    st.floats(0.5, 1e6),
    st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 3)), min_size=1, max_size=60),
)
def test_never_more_than_the_rate_but_for_one_batch(rate: float, steps: list[tuple[int, float]]) -> None:
    pace, now, taken, last = Pace(), 0.0, 0, 0
    pace.set(rate, now)
    for items, idle in steps:
        now += idle
        now += pace.wait(now) * (1 + 1e-9) + 1e-9
        if pace.wait(now) == 0.0:
            pace.took(items, now)
            taken, last = taken + items, items
    assert taken - last <= rate * (now + 0.05) * (1 + 1e-6) + 1e-3


def limited_job(items: int) -> Dag:
    dag = Dag("limited")
    rows = [{"symbol": "A", "n": n, "ts_event": n} for n in range(items)]
    dag.add_node(Node("source", ListSource(rows, batch_items=5)))
    dag.add_node(Node("sink", CommittedRows()))
    dag.add_edge("source", "sink", key="symbol")
    return dag


@pytest.mark.parametrize(("rates", "least"), [({"source": 100.0}, 4.8), ({"other": 1.0}, 0.0), ({}, 0.0)])
async def test_a_source_obeys_its_rate_and_brings_in_everything(rates: dict[str, float], least: float) -> None:
    """500 items at 100 a second are nearly five seconds; a job without a rate sleeps only for its linger."""
    job, _ = job_of(limited_job(500), partitions=1)
    source = TaskId("source", 0)
    job.start(source)
    job.running[source][0].obey(rates)
    began = job.clock.monotonic()
    await job.run_until(lambda: job.server.contents.tasks[source].ended)
    took = job.clock.monotonic() - began
    assert least <= took <= least + 2.5
    await job.run()
    assert [row["n"] for row in committed_rows(job.server, "sink")[0]] == list(range(500))


async def test_a_source_that_waits_hears_of_a_larger_rate() -> None:
    job, _ = job_of(limited_job(20), partitions=1)
    source = TaskId("source", 0)
    job.start(source)
    task = job.running[source][0]
    task.obey({"source": 0.001})
    await job.run_until(lambda: job.clock.monotonic() > 10)
    assert not job.server.contents.tasks[source].ended
    task.obey({})
    began = job.clock.monotonic()
    await job.run()
    assert job.clock.monotonic() - began < 60
