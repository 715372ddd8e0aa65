"""A Dag as a document that another process can load: the other way round of :mod:`~market_data_pipeline.catalog.load`.

What a component was made with is read from it: what it keeps under its arguments' names, or what its method ``made_with()``
says. Functions and classes are named as another process imports them; what has no such name is refused. Secrets never stand in
a document: it names variables of the environment, which are given beside it. A document is only given out when it was loaded
again and came to the same plan.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from io import StringIO
from typing import Any, Literal

from ruamel.yaml import YAML

from market_data_pipeline.catalog.filling import hidden
from market_data_pipeline.catalog.importable import MAINS, check_runs_once, main_name, search_path
from market_data_pipeline.catalog.load import dag_of
from market_data_pipeline.catalog.writing import SECRET, Unwritable, Writing
from market_data_pipeline.dag.graph import Dag, Edge, Node
from market_data_pipeline.dag.options import ChannelOptions, Retries
from market_data_pipeline.dag.plan import first_difference
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.feedback import StoreFeedback

_PARTITIONS = 8
"""Any number does: plans are compared that were compiled for the same one."""


@dataclass(frozen=True)
class Dumped:
    """``document``: plain data, without secrets. ``environment``: what the processes that load it need in theirs: the secrets
    (``MDP_PIPELINE_SECRET_1``, ...), and a ``PYTHONPATH`` where the program's modules are not among the installed ones."""

    document: dict[str, Any]
    environment: dict[str, str] = field(repr=False)


def dump(dag: Dag, readable: bool = False) -> Dumped:
    """``dag`` as a document. ``readable``: for people, with durations as text, which is another plan where a component keeps
    them as they were given.

    Raises ``ConfigError`` naming node and argument for what cannot be written down (lambdas, functions within functions,
    objects without a name, arguments that a component does not keep), and the first difference where the document, loaded
    again, is not the same Dag.
    """
    check_runs_once()
    dag.validate()
    writing = Writing(readable)
    document = _document(dag, writing)
    dumped = Dumped(document, {**writing.secrets, **_path(writing.modules)})
    _prove(dag, dumped, writing)
    return dumped


def dump_for_people(dag: Dag, form: Literal["yaml", "json"]) -> tuple[str, list[str]]:
    """``dag`` as the text of a file, and what must be said of it, in sentences. Raises ``ConfigError`` as :func:`dump` does."""
    try:
        dumped = dump(dag, readable=True)
    except ConfigError:  # a component may keep durations as they were given: then text is something else
        dumped = dump(dag)
    notes = []
    secrets = [name for name in dumped.environment if name.startswith(SECRET)]
    if secrets:
        notes.append(f"its secrets must be in the environment when it is loaded: {', '.join(secrets)}")
    if "PYTHONPATH" in dumped.environment:
        notes.append("it names functions or classes of the program's modules: save it beside them, or set PYTHONPATH")
    if form == "json":
        return json.dumps(dumped.document, indent=2, ensure_ascii=False) + "\n", notes
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = StringIO()
    yaml.dump(dumped.document, text)
    return text.getvalue(), notes


def _document(dag: Dag, writing: Writing) -> dict[str, Any]:
    """In topological order, in which each node's edges lead to it: then the plan comes to the same order again."""
    nodes: list[dict[str, Any]] = []
    before: str | None = None
    for name in dag.validate():
        node = dag.nodes[name]
        nodes.append(_node(node, [edge for edge in dag.edges if edge.dst == name], before, writing))
        before = before if node.kind == "sink" else name
    return {"name": writing.text(dag.name), "nodes": nodes}


def _node(node: Node, edges: list[Edge], before: str | None, writing: Writing) -> dict[str, Any]:
    written: dict[str, Any] = {}
    try:
        if node.kind == "coroutine":
            written["coroutine"] = writing.function(node.fn)
        else:
            written |= writing.component(node.kind, node.fn)
        written = {node.kind: written.pop(node.kind), "name": node.name, **written}
        if node.feedback is not None:
            written["feedback"] = writing.value(node.feedback, StoreFeedback, "feedback")
    except Unwritable as error:
        raise ConfigError(f"node {node.name!r}: {error}") from error
    if node.on_error != "dead_letter":
        written["on_error"] = node.on_error
    if node.singleton is not None:
        written["singleton"] = node.singleton
    if node.retries is not None:
        written["retries"] = _given(node.retries, Retries())
    return written | _edges(node, edges, before, writing)


def _edges(node: Node, edges: list[Edge], before: str | None, writing: Writing) -> dict[str, Any]:
    """How a document says what leads to a node: by its place behind another one, else by ``from``."""
    if node.kind == "source" or (not edges and before is None):
        return {}
    if len(edges) == 1:
        (edge,) = edges
        return {**({} if edge.src == before else {"from": edge.src}), **_edge(edge, writing)}
    return {"from": [{"node": edge.src, **_edge(edge, writing)} for edge in edges]}


def _edge(edge: Edge, writing: Writing) -> dict[str, Any]:
    options: dict[str, Any] = {
        "key": None if edge.key is None else writing.text(edge.key),
        "broadcast": edge.broadcast or None,
        "boundary": edge.boundary or None,
        "output": writing.text(edge.output) or None,
        "input": writing.text(edge.input) or None,
        "channel": None if edge.channel is None else _given(edge.channel, ChannelOptions()),
    }
    return {name: value for name, value in options.items() if value is not None}


def _given(options: Retries | ChannelOptions, default: Retries | ChannelOptions) -> dict[str, Any]:
    """What of ``options`` is not as by default."""
    usual = asdict(default)
    return {name: value for name, value in asdict(options).items() if value != usual[name]}


def _path(modules: set[str]) -> dict[str, str]:
    """``PYTHONPATH`` with which other processes find ``modules``, where they need one."""
    there = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    folders = [folder for folder in search_path(modules) if os.pathsep not in folder]
    if not set(folders) - set(there):
        return {}
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys([*folders, *there]))}


def _prove(dag: Dag, dumped: Dumped, writing: Writing) -> None:
    """Raises ``ConfigError`` unless ``dumped`` loads to the plan of ``dag``, and that is written down the same again: the plan
    knows no secrets and no retries."""
    difference: str | None
    try:
        loaded = dag_of(dumped.document, {}, environment={**os.environ, **dumped.environment})
    except ConfigError as error:
        difference = f"cannot be loaded from its document: {error}".replace("\n", "; ")
    else:
        difference = _difference(dag, loaded, dumped, writing)
    if difference is not None:
        raise ConfigError(f"dag {dag.name!r} {hidden(difference, writing.secrets.values())}")


def _difference(dag: Dag, loaded: Dag, dumped: Dumped, writing: Writing) -> str | None:
    ours = _importable(compile_dag(dag, _PARTITIONS).to_dict())
    found = first_difference(ours, compile_dag(loaded, _PARTITIONS).to_dict())
    if found is None:
        again = Writing(writing.readable)
        written = _document(loaded, again)
        found = first_difference(_by_name(dumped.document), _by_name(written), "document")
        if found is None and again.secrets != writing.secrets:
            found = "document: a secret"
    return found and f"is another one when it is loaded from its document: {found}"


def _by_name(document: dict[str, Any]) -> dict[str, Any]:
    """``document`` with its nodes by name, so that a difference is one of a node."""
    return {**document, "nodes": {node["name"]: node for node in document["nodes"]}}


def _importable(plan: Any) -> Any:
    """``plan`` with the names that other processes have for what the script that runs defines."""
    if isinstance(plan, Mapping):
        return {key: _importable(value) for key, value in plan.items()}
    if isinstance(plan, list | tuple):
        return [_importable(value) for value in plan]
    if isinstance(plan, str) and plan.startswith(tuple(f"{main}." for main in MAINS)):
        return f"{main_name()}{plan[plan.index('.') :]}"
    return plan
