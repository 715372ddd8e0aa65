"""What whoever deploys a job must know before it runs: its streams, which parts of it read them, and whether it may be left
without workers. Made of the plan and the names of keys alone, so it is what the workers use."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.dag.plan import Plan
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.sources.base import Source
from market_data_pipeline.store.keys import Keys

Format = Literal["text", "json", "helm"]


@dataclass(frozen=True)
class ChartValues:
    """``streams``: one per edge that crosses a stream and partition of its reader. ``stages``: the subgraphs that read
    streams. ``needs_workers``: why the job would stand still without any worker, one sentence each; empty when what is in the
    streams is all there is to do."""

    job: str
    partitions: int
    streams: tuple[str, ...]
    stages: tuple[str, ...]
    needs_workers: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As the chart's values have it."""
        return {
            "job": {
                "name": self.job,
                "partitions": self.partitions,
                "streams": list(self.streams),
                "stages": list(self.stages),
                "needsWorkers": list(self.needs_workers),
            }
        }


def chart_values(dag: Dag, plan: Plan, job: str) -> ChartValues:
    """``plan`` is what ``dag`` compiles to. Raises ``ConfigError`` for a name that is none."""
    keys = Keys(job)
    return ChartValues(
        job,
        plan.partitions,
        tuple(keys.stream(edge, partition) for edge in plan.channels for partition in plan.readers(edge)),
        tuple(subgraph.name for subgraph in plan.subgraphs if plan.inputs(subgraph)),
        tuple(_needs_workers(dag, plan)),
    )


def _needs_workers(dag: Dag, plan: Plan) -> list[str]:
    fed = {edge.dst for edge in plan.edges}
    reasons = []
    for node in plan.nodes:
        fn = dag.nodes[node.name].fn
        if isinstance(fn, Source):
            reasons.append(f"{'live ' if fn.live else ''}source {node.name!r} is read by a worker")
        elif node.kind == "coroutine" and node.name not in fed:
            reasons.append(f"node {node.name!r} makes items in a worker")
        elif isinstance(fn, Operator) and fn.keeps:
            reasons.append(f"node {node.name!r} keeps {fn.keeps}")
    return reasons


def render(values: ChartValues, form: Format) -> str:
    """``text``: a stream a line. ``json``, and ``helm`` (YAML): the values of the chart, for ``helm install -f``."""
    if form == "text":
        return "\n".join(values.streams)
    tree = values.to_dict()
    return json.dumps(tree, indent=2) if form == "json" else _yaml(tree)


def _yaml(values: dict[str, Any]) -> str:
    """Two levels and lists of strings, which is all there is; a JSON string is a YAML string, whatever stands in it."""
    lines = []
    for group, members in values.items():
        lines.append(f"{group}:")
        for name, value in members.items():
            if value and isinstance(value, list):
                lines += [f"  {name}:", *(f"    - {json.dumps(item)}" for item in value)]
            else:
                lines.append(f"  {name}: {json.dumps(value)}")
    return "\n".join(lines)
