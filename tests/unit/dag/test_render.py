"""A plan for people: every form names every node, subgraph and crossing."""

import json

import pytest

from market_data_pipeline.dag.pipeline import Pipeline
from market_data_pipeline.dag.plan import Plan, plan_from_dict
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.dag.render import render
from market_data_pipeline.sinks.collect import Collect
from market_data_pipeline.sources.synthetic import Synthetic


def plan() -> Plan:
    pipeline = Pipeline("job").source(Synthetic(items=10)).key_by("symbol").dedupe().boundary().bars("1s", "my-bars")
    return compile_dag(pipeline.sink(Collect()).build(), 4)


def test_tree() -> None:
    made = plan()
    assert render(made, "tree") == "\n".join(
        [
            f"job  P=4  plan {made.fingerprint}",
            "├─ subgraph source (once, on partition 0)",
            "│  ├─ source: source Synthetic",
            "│  └─ source ~> dedupe  [keyed by symbol]",
            "├─ subgraph dedupe (partitions 0-3)",
            "│  ├─ source ~> dedupe  [keyed by symbol]",
            "│  ├─ dedupe: operator Dedupe",
            "│  └─ dedupe ~> my-bars  [boundary]",
            "└─ subgraph my-bars (partitions 0-3)",
            "   ├─ dedupe ~> my-bars  [boundary]",
            "   ├─ my-bars: operator TumblingBars -> collect",
            "   └─ collect: sink Collect",
        ]
    )


def test_json_is_the_plan() -> None:
    made = plan()
    data = json.loads(render(made, "json"))
    assert data.pop("fingerprint") == made.fingerprint
    assert plan_from_dict(data).fingerprint == made.fingerprint


def test_mermaid() -> None:
    assert render(plan(), "mermaid").splitlines() == [
        "flowchart LR",
        '  subgraph s0["source (once, on partition 0)"]',
        '    n0["source"]',
        "  end",
        '  subgraph s1["dedupe (partitions 0-3)"]',
        '    n1["dedupe"]',
        "  end",
        '  subgraph s2["my-bars (partitions 0-3)"]',
        '    n2["my-bars"]',
        '    n3["collect"]',
        "  end",
        "  n0 -. keyed by symbol .-> n1",
        "  n1 -. boundary .-> n2",
        "  n2 --> n3",
    ]


def test_dot() -> None:
    lines = render(plan(), "dot").splitlines()
    assert lines[0] == 'digraph "job" {'
    assert lines[-1] == "}"
    assert '  "source" -> "dedupe" [style=dashed, label="keyed by symbol"];' in lines
    assert '  "dedupe" -> "my-bars" [style=dashed, label="boundary"];' in lines
    assert '  "my-bars" -> "collect";' in lines
    assert sum(line.count("{") - line.count("}") for line in lines) == 0


def test_forms_are_known() -> None:
    with pytest.raises(KeyError):
        render(plan(), "svg")
