"""A plan for people: tree, JSON, Mermaid, Graphviz."""

from __future__ import annotations

import json
from collections.abc import Callable

from market_data_pipeline.dag.plan import Plan, PlanEdge, Subgraph


def render(plan: Plan, form: str) -> str:
    """``plan`` as ``tree``, ``json``, ``mermaid`` or ``dot``."""
    writers: dict[str, Callable[[Plan], str]] = {"tree": _tree, "json": _json, "mermaid": _mermaid, "dot": _dot}
    return writers[form](plan)


def _json(plan: Plan) -> str:
    return json.dumps({"fingerprint": plan.fingerprint, **plan.to_dict()}, indent=2, sort_keys=True)


def _placement(plan: Plan, subgraph: Subgraph) -> str:
    if subgraph.home is not None:
        return f"once, on partition {subgraph.home}"
    return f"partitions 0-{plan.partitions - 1}" if plan.partitions > 1 else "partition 0"


def _label(edge: PlanEdge) -> str:
    how = f"{edge.kind} by {edge.key}" if edge.key else edge.kind
    return f"{how}, {edge.channel}" if edge.channel is not None else how


def _tree(plan: Plan) -> str:
    lines = [f"{plan.name}  P={plan.partitions}  plan {plan.fingerprint}"]
    for s, subgraph in enumerate(plan.subgraphs):
        last = s == len(plan.subgraphs) - 1
        lines.append(f"{'└─' if last else '├─'} subgraph {subgraph.name} ({_placement(plan, subgraph)})")
        bar = "   " if last else "│  "
        rows = [f"{edge.src} ~> {edge.dst}  [{_label(edge)}]" for edge in plan.inputs(subgraph)]
        for name in subgraph.nodes:
            node = plan.node[name]
            inside = [edge.dst for edge in plan.edges if edge.src == name and edge.kind == "forward"]
            arrow = f" -> {', '.join(inside)}" if inside else ""
            rows.append(f"{name}: {node.kind} {node.type.rpartition('.')[2]}{arrow}")
        rows += [f"{edge.src} ~> {edge.dst}  [{_label(edge)}]" for edge in plan.outputs(subgraph)]
        lines += [f"{bar}{'└─' if row is rows[-1] else '├─'} {row}" for row in rows]
    return "\n".join(lines)


def _mermaid(plan: Plan) -> str:
    ids = {node.name: f"n{number}" for number, node in enumerate(plan.nodes)}
    lines = ["flowchart LR"]
    for number, subgraph in enumerate(plan.subgraphs):
        lines.append(f'  subgraph s{number}["{subgraph.name} ({_placement(plan, subgraph)})"]')
        lines += [f'    {ids[name]}["{name}"]' for name in subgraph.nodes]
        lines.append("  end")
    for edge in plan.edges:
        arrow = "-->" if edge.kind == "forward" else f"-. {_label(edge)} .->"
        lines.append(f"  {ids[edge.src]} {arrow} {ids[edge.dst]}")
    return "\n".join(lines)


def _dot(plan: Plan) -> str:
    title = plan.name.replace('"', "'")
    lines = [f'digraph "{title}" {{', "  rankdir=LR; node [shape=box];"]
    for s, subgraph in enumerate(plan.subgraphs):
        lines.append(f'  subgraph cluster_{s} {{ label="{subgraph.name} ({_placement(plan, subgraph)})";')
        lines += [f'    "{name}";' for name in subgraph.nodes]
        lines.append("  }")
    for edge in plan.edges:
        style = "" if edge.kind == "forward" else f' [style=dashed, label="{_label(edge)}"]'
        lines.append(f'  "{edge.src}" -> "{edge.dst}"{style};')
    return "\n".join([*lines, "}"])
