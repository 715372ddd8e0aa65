"""What the coordinator serves as ``/api/scale`` and as metrics, of the status that it reads."""

from __future__ import annotations

import math

import pytest
from mdp_coordinator.scaling import Scaling
from prometheus_client import generate_latest
from tools.fake_clock import FakeClock
from tools.memory_job import CommittedRows, ListSource

from market_data_pipeline import Dag, Node
from market_data_pipeline.dag.plan import TaskId
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.http import NotAnswered
from market_data_pipeline.metrics import CoordinatorMetrics
from market_data_pipeline.runtime.flow import TaskFlow
from market_data_pipeline.store.status import ChannelStatus, JobStatus


def plan_of(name: str) -> Dag:
    dag = Dag("job")
    dag.add_node(Node("source", ListSource([])))
    dag.add_node(Node(name, CommittedRows()))
    dag.add_edge("source", name, key="symbol")
    return dag


class Bench:
    """A :class:`Scaling` of a job with two partitions, fed by hand."""

    def __init__(self) -> None:
        self.clock, self.metrics = FakeClock(), CoordinatorMetrics()
        self.scaling = Scaling(compile_dag(plan_of("sink"), 2), 16, self.metrics, self.clock)

    def observe(self, lengths: dict[int, int], items: int, used: int, state: str = "running") -> None:
        flow = TaskFlow({}, {"source.sink": used}, busy=used / 1000)
        self.scaling.observe(
            JobStatus(
                "job", "u", state, "", "f", 2, 3, 0, [{"name": "w"}], {}, [ChannelStatus("source.sink", lengths, 64, items)],
                {}, {}, {}, 0, flows={TaskId("sink", 0): flow},
            )
        )  # fmt: skip

    def gauges(self) -> dict[str, float]:
        lines = generate_latest(self.metrics.registry).decode().splitlines()
        found = (line.rsplit(" ", 1) for line in lines if line.startswith("mdp_scale_"))
        return {name.removeprefix("mdp_scale_"): float(value) for name, value in found}


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.observe({0: 30, 1: 10}, 4000, 0)
    made.clock.advance(2.0)
    made.observe({0: 30, 1: 10}, 4000, 2000)
    return made


async def test_the_document(bench: Bench) -> None:
    whole = {
        "backlog_frames": 40, "backlog_items": 4000, "items_per_second": 1000.0, "drain_seconds": 4.0, "workers": 1,
        "partitions": 2, "desired_replicas": 2, "sink_bound": False, "hot_partition": 0, "hot_partition_share": 0.75,
        "scale_frames": 40,
    }  # fmt: skip
    assert await bench.scaling.document({}) == {"stage": None, **whole}
    assert await bench.scaling.document({"stage": "sink", "target": "40"}) == {
        "stage": "sink", **whole, "desired_replicas": 1,
    }  # fmt: skip


def test_the_metrics(bench: Bench) -> None:
    assert bench.gauges() == {
        'backlog_frames{stage="sink"}': 40, 'backlog_items{stage="sink"}': 4000, 'drain_seconds{stage="sink"}': 4,
        'hot_partition_share{stage="sink"}': 0.75, "desired_replicas": 2, "sink_bound": 0,
    }  # fmt: skip
    bench.clock.advance(20.0)
    bench.observe({0: 30, 1: 10}, 4000, 2000)
    assert math.isnan(bench.gauges()['drain_seconds{stage="sink"}'])
    assert bench.gauges()["sink_bound"] == 1, "it has not moved for long"
    bench.observe({0: 30, 1: 10}, 4000, 2000, "failed")
    assert (bench.gauges()["sink_bound"], bench.gauges()["desired_replicas"]) == (0, 1)


@pytest.mark.parametrize(
    ("query", "status", "sentence"),
    [
        ({"stages": "sink"}, 400, "unknown parameter 'stages'; there are: stage, target"),
        ({"target": "0"}, 400, "target='0' is not a number of frames from 1 to 9999999"),
        ({"target": "1.5"}, 400, "target='1.5' is not a number"),
        ({"target": "²"}, 400, "target='²' is not a number"),
        ({"target": "-3"}, 400, "target='-3' is not a number"),
        ({"target": "20000000"}, 400, "target='20000000' is not a number"),
        ({"target": ""}, 400, "target='' is not a number"),
        ({"stage": "source"}, 404, "no stage 'source'; there are: sink"),
        ({"stage": "x" * 500}, 404, "no stage '" + "x" * 60 + "'; there are: sink"),
    ],
)
async def test_what_is_asked_wrongly_is_told(bench: Bench, query: dict[str, str], status: int, sentence: str) -> None:
    with pytest.raises(NotAnswered) as refused:
        await bench.scaling.document(query)
    assert refused.value.status == status
    assert refused.value.sentence.startswith(sentence)


async def test_without_a_fresh_observation_there_is_no_answer(bench: Bench) -> None:
    with pytest.raises(NotAnswered, match=r"^nothing was observed yet; ask again in a second$") as refused:
        await Bench().scaling.document({})
    assert refused.value.status == 503
    bench.clock.advance(10.0)
    await bench.scaling.document({})
    bench.clock.advance(1.0)
    with pytest.raises(NotAnswered, match=r"^the last observation is 11 s old: the server is away$") as refused:
        await bench.scaling.document({})
    assert refused.value.status == 503
