"""A document -> a Dag. All mistakes come out together, each as ``file:line:column: path: what is wrong; what is allowed``.

A mistake is only told where it is one by itself: what follows from a parameter without a value, or from a component that
could not be made, is not. A component's own refusal stands at the argument that it names, or at the component.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from market_data_pipeline.catalog.document import EDGE_KEYS, STEPS, Document, From, Step
from market_data_pipeline.catalog.filling import MISSING, Filled, Filling, hidden
from market_data_pipeline.catalog.first_look import other_modules, without_sink
from market_data_pipeline.catalog.neighbours import first_on_path
from market_data_pipeline.catalog.parameters import checked, factory_of, made, named, takes
from market_data_pipeline.catalog.shapes import UNKNOWN, details, shown
from market_data_pipeline.catalog.text import Place, Position, Text, read_text
from market_data_pipeline.dag.graph import Dag, Edge, Node
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ConfigError, DocumentError, MdpError
from market_data_pipeline.hints import nearest
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.sources.base import Source
from market_data_pipeline.terminal import visible

SUFFIXES = (".yaml", ".yml", ".json")
"""How the names of documents end."""
_PLAIN = re.compile(r"\w+", re.ASCII)
_MOST_NODES = 1000
_MOST_MISTAKES = 100
_LONGEST_MESSAGE = 600
_Model = TypeVar("_Model", bound=BaseModel)


def load_file(path: Path | str, values: Mapping[str, Any] | None = None) -> Dag:
    """The validated Dag that the YAML or JSON file at ``path`` declares. ``values`` fill its parameters: text as after
    ``--set``, anything else as it is. Its folder is put on ``sys.path``, as that of a program, so that it can name functions
    of modules beside it. Raises ``ConfigError``; ``DocumentError``, which lists all mistakes, where it could be read."""
    file = Path(path)
    text = read_text(file)
    folder = file.resolve().parent
    first_on_path(folder)
    loading = _Loading(text, values or {}, os.environ)
    loading.look(folder)
    return loading.dag()


def dag_of(
    document: Mapping[str, Any], values: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> Dag:
    """The validated Dag of a document that is plain data already. ``environment``: what ``${env:NAME}`` means, by default this
    process's. Raises ``DocumentError``."""
    return _Loading(Text("", document), values or {}, os.environ if environment is None else environment).dag()


@dataclass
class _Part:
    """A node on the way from a document to the Dag. ``sure``: its name is the one it will have."""

    place: Place
    kind: str
    name: str
    step: Step | None
    fn: Any = None
    sure: bool = True


@dataclass
class _Loading:
    """One document, and what was found wrong in it. ``_unfilled``: the places of what could not be filled in."""

    text: Text
    values: Mapping[str, Any]
    environment: Mapping[str, str]
    _mistakes: list[tuple[Position, str]] = field(default_factory=list)
    _unfilled: set[Place] = field(default_factory=set)
    _secrets: set[str] = field(default_factory=set)

    def dag(self) -> Dag:
        data = self.text.data
        if not isinstance(data, Mapping):
            what = "it is empty" if data is None else f"it is {shown(data)}"
            self._tell((), f"a document is a mapping with name and nodes; {what}")
            raise self._error()
        parameters = self._parameters(data.get("parameters"))
        filling = Filling(parameters, self.environment, self._leave)
        filled = {key: filling.filled(value, (key,)) for key, value in data.items() if key != "parameters"}
        self._secrets |= filling.secrets
        document = self._checked(Document, {**data, **filled}, (), "key")
        nodes = filled.get("nodes")
        parts = list(self._parts(nodes)) if isinstance(nodes, list) else []
        edges = self._edges(parts)
        if document is None or self._mistakes or self._unfilled:
            raise self._error()
        return self._built(document.name, parts, edges)

    def look(self, folder: Path) -> None:
        """Tell what can be seen of a file in ``folder`` before anything of it is made."""
        for place, why in chain(other_modules(self.text, folder), without_sink(self.text)):
            self._add(place, why)

    def _parameters(self, declared: Any) -> dict[str, Any]:
        declared = declared if isinstance(declared, Mapping) else {}
        there = f"there are: {', '.join(declared)}" if declared else "there are none"
        for name in self.values:
            if name not in declared:
                near = nearest(name, list(declared))
                self._add(("parameters",), f"{name}: there is no such parameter; {there}{near}")
        defaults = Filling({}, self.environment, self._leave)
        parameters: dict[str, Any] = {}
        for name, default in declared.items():
            if name in self.values:
                value = self.values[name]
                parameters[name] = Filled(value, given=True) if isinstance(value, str) else value
            elif default is None:
                self._tell(("parameters", name), f"it needs a value: --set {name}=..., or values={{{name!r}: ...}}")
                parameters[name] = MISSING
            else:
                parameters[name] = defaults.filled(default, ("parameters", name))
        self._secrets |= defaults.secrets
        return parameters

    def _parts(self, nodes: list[Any]) -> Iterator[_Part]:
        names: dict[str, Place] = {}
        if not 1 <= len(nodes) <= _MOST_NODES:
            self._add(("nodes",), f"{len(nodes)} nodes are not allowed; from 1 to {_MOST_NODES}")
        for number, entry in enumerate(nodes[:_MOST_NODES]):
            if len(self._mistakes) > _MOST_MISTAKES:
                return
            place: Place = ("nodes", number)
            if not isinstance(entry, Mapping):
                self._tell(place, f"a node is a mapping; this is {shown(entry)}")
                continue
            part = self._part(entry, place, names)
            if part.name in names and part.step is not None and part.step.name is not None:
                line = self.text.where(names[part.name])
                self._tell((*place, "name"), f"another node has the name {part.name!r} already{line and f': {line}'}")
            names.setdefault(part.name, place)
            yield part

    def _part(self, entry: Mapping[str, Any], place: Place, names: Mapping[str, Place]) -> _Part:
        entry = self._moved(entry, place)
        step = self._checked(Step, entry, place, "key")
        kinds = [kind for kind in STEPS if kind in entry]
        name = entry.get("name")
        name = str(name) if isinstance(name, str) else None
        if len(kinds) != 1:
            if kinds or not entry.keys() - _KEYS:  # a key that is not there is the mistake
                self._add(
                    place, f"a node has one of the keys {', '.join(STEPS)}; {', '.join(kinds) or 'none'} is there"
                )
            return _Part(place, "", name or "?", step, sure=name is not None)
        kind = kinds[0]
        called, fn = self._component(kind, entry, place)
        base = "source" if kind == "source" else (called or "?").lower()
        free = next(n for n in chain([base], (f"{base}-{i}" for i in count(2))) if n not in names)
        return _Part(place, kind, name or free, step, fn, sure=bool(name or called or kind == "source"))

    def _moved(self, entry: Mapping[str, Any], place: Place) -> Mapping[str, Any]:
        """``entry`` with the component's arguments that stand beside it in ``with``, where they belong; each is told."""
        kind = next((kind for kind in STEPS[:3] if isinstance(entry.get(kind), str)), None)
        inside = entry.get("with") or {}
        beside = entry.keys() - _KEYS
        if kind is None or not beside or not isinstance(inside, Mapping):
            return entry
        wrong = {key: entry[key] for key in beside & takes(kind, entry[kind])}
        for key in wrong:
            self._tell((*place, key), f"it is an argument of {entry[kind]}: write it under 'with'", key=True)
        rest = {key: value for key, value in entry.items() if key not in wrong}
        return {**rest, "with": {**wrong, **inside}} if wrong else entry

    def _component(self, kind: str, entry: Mapping[str, Any], place: Place) -> tuple[str | None, Any]:
        """The name of its class, and the component; None for each that cannot be had."""
        target, arguments = entry[kind], entry.get("with")
        if not isinstance(target, str):
            return None, None
        if kind == "coroutine":
            return self._coroutine(str(target), arguments, place)
        try:
            factory = factory_of(kind, str(target))  # type: ignore[arg-type]
        except PydanticCustomError as error:
            self._refuse(error, (*place, kind))
            return None, None
        called = factory.__name__ if isinstance(factory, type) else None
        if arguments is not None and not isinstance(arguments, Mapping):
            return called, None
        try:
            component = made(factory, arguments or {})
        except (PydanticCustomError, ValidationError) as error:
            self._refuse(error, (*place, "with"))
            return called, None
        if Node("x", component).kind != kind:
            self._tell((*place, kind), f"{target!r} makes a {type(component).__name__}, which is no {kind}")
        return type(component).__name__, component

    def _coroutine(self, target: str, arguments: Any, place: Place) -> tuple[str | None, Any]:
        if arguments is not None:
            self._tell((*place, "with"), "a coroutine node takes no arguments")
        try:
            fn = named(target)
        except ConfigError as error:
            self._tell((*place, "coroutine"), str(error))
            return None, None
        return getattr(fn, "__name__", type(fn).__name__), fn

    def _edges(self, parts: list[_Part]) -> list[Edge]:
        by_name: dict[str, _Part] = {}
        for part in parts:
            by_name.setdefault(part.name, part)
        sure = all(part.sure for part in parts)
        before: _Part | None = None
        edges: dict[tuple[str, str], Edge] = {}
        for part in parts:
            for place, origin in self._origins(part, before):
                source = by_name.get(origin.node)
                if source is None:
                    if sure:
                        near = _of_that_kind(origin.node, parts) or nearest(origin.node, list(by_name))
                        self._tell(place, f"there is no node {origin.node!r}; there are: {', '.join(by_name)}{near}")
                    continue
                edge = Edge(
                    source.name, part.name, origin.key, origin.broadcast, origin.boundary, origin.output, origin.input,
                    origin.channel,
                )  # fmt: skip
                self._check_edge(edge, source, part, place)
                if (edge.src, edge.dst) in edges:
                    self._tell(place, f"there is an edge from {edge.src!r} to {edge.dst!r} already")
                edges[edge.src, edge.dst] = edge
            before = before if part.kind == "sink" else part
        return list(edges.values())

    def _origins(self, part: _Part, before: _Part | None) -> Iterator[tuple[Place, From]]:
        """What leads to ``part``, each with the place that says so."""
        step, place = part.step, (*part.place, "from")
        if step is None or not part.kind:
            return
        told = {type(step).model_fields[name].alias or name for name in step.model_fields_set}
        own = {key: getattr(step, key) for key in EDGE_KEYS if key in told}
        if part.kind == "source":
            for key in sorted({"from", *own} & told):
                self._tell((*part.place, key), f"nothing leads to a source; {key!r} belongs to the node behind it")
            return
        origins = step.origins
        if origins is None and before is None and part.kind != "coroutine":
            self._add(part.place, "nothing stands before it: begin with a source, or name with 'from' what leads to it")
        elif origins is None and before is not None:
            yield part.place, From(before.name, **own)
        elif isinstance(origins, str):
            yield place, From(origins, **own)
        else:
            for key in own:
                self._tell((*part.place, key), "say this of each edge, inside 'from'")
            many = origins if isinstance(origins, list) else [origins] if origins is not None else []
            for number, origin in enumerate(many):
                at = (*place, number) if isinstance(origins, list) else place
                yield (at, From(origin)) if isinstance(origin, str) else ((*at, "node"), origin)

    def _check_edge(self, edge: Edge, source: _Part, part: _Part, place: Place) -> None:
        if source.kind == "sink":
            self._tell(place, f"{edge.src!r} is a sink, and nothing comes out of it")
        if (edge.key is not None) + edge.broadcast + edge.boundary > 1:
            self._tell(place, "choose one of key, boundary, broadcast")
        ports = {
            "output": ("", *source.fn.outputs) if isinstance(source.fn, Source | Operator) else ("",),
            "input": (part.fn.inputs or ("",)) if isinstance(part.fn, Operator) else ("",),
        }
        for what, there in ports.items():
            name = getattr(edge, what)
            node = source if what == "output" else part
            if name not in there and node.fn is not None and source.kind != "sink":
                at = (*part.place, what) if place == part.place or place[-1] == "from" else (*place[:-1], what)
                self._tell(
                    at,
                    f"{node.name!r} has no {what} {name!r}; it has: {', '.join(map(repr, there))}{nearest(name, there)}",
                )

    def _built(self, name: str, parts: list[_Part], edges: list[Edge]) -> Dag:
        dag = Dag(name)
        for part in parts:
            step = part.step
            assert step is not None
            dag.add_node(Node(part.name, part.fn, step.singleton, step.on_error, step.retries, step.feedback))
        for edge in edges:
            dag.add_edge(
                edge.src, edge.dst, edge.key, edge.boundary, edge.broadcast, edge.output, edge.input, edge.channel
            )
        try:
            dag.validate()
            compile_dag(dag, 1)  # what cannot be placed cannot be placed over any number of partitions
        except MdpError as error:
            self._add(_meant(str(error), parts), str(error))
            raise self._error() from error
        except Exception as error:  # of a component from elsewhere
            self._add((), f"compiling it raised {type(error).__name__}: {error}")
            raise self._error() from error
        return dag

    def _checked(self, model: type[_Model], value: Any, place: Place, what: str) -> _Model | None:
        try:
            return checked(model, value, what)  # type: ignore[return-value]
        except ValidationError as error:
            self._refuse(error, place)
            return None

    def _refuse(self, error: PydanticCustomError | ValidationError, place: Place) -> None:
        for one in details(error, place):
            kind = one["type"]
            assert isinstance(kind, PydanticCustomError)
            self._tell(tuple(one.get("loc", ())), kind.message(), kind.type == UNKNOWN)

    def _leave(self, place: Place, why: str) -> None:
        self._unfilled.add(place)
        if why:
            self._add(place, why)
        if len(self._mistakes) > _MOST_MISTAKES:  # to look for the nearest name of each would take long
            raise self._error()

    def _tell(self, place: Place, why: str, key: bool = False) -> None:
        """A mistake at ``place``, unless it follows from something that was not filled in."""
        if any(place[: len(one)] == one or one[: len(place)] == place for one in self._unfilled):
            return
        raw = self.text.at(place)
        if isinstance(raw, str) and "${" in raw and not key:
            why = f"{why} (it comes from {raw})"
        self._add(place, why, key)

    def _add(self, place: Place, why: str, key: bool = False) -> None:
        where, path = self.text.where(place, key), _path(place)
        why = hidden(why, self._secrets)
        why = why if len(why) <= _LONGEST_MESSAGE else f"{why[:_LONGEST_MESSAGE]}..."
        line = ": ".join(part for part in (where, path, why) if part)
        self._mistakes.append((self.text.position(place, key) or Position(0, 0), visible(line)))

    def _error(self) -> DocumentError:
        lines = [line for _, line in sorted(self._mistakes, key=lambda one: one[0])]
        if len(lines) > _MOST_MISTAKES:
            lines[_MOST_MISTAKES:] = [f"{self.text.name or 'document'}: more mistakes than these {_MOST_MISTAKES}"]
        return DocumentError(*lines)


_KEYS = {field.alias or name for name, field in Step.model_fields.items()}


def _of_that_kind(target: str, parts: list[_Part]) -> str:
    """``; the node of bars is called 'tumblingbars'; ...`` for the end of a message, or nothing where none is made of it."""
    called = [part.name for part in parts if part.kind and getattr(part.step, part.kind, None) == target]
    if not called:
        return ""
    return f"; the node of {target} is called {' or '.join(map(repr, called))}: write that, or give it a name"


def _meant(message: str, parts: list[_Part]) -> Place:
    """The node that an error of the whole Dag is about: the end of the edge, or the first that it names."""
    edge = re.match(r"edge \S+ -> ([\w-]+)", message) or re.search(r"cycle: ([\w-]+)", message)
    called = [edge[1]] if edge else re.findall(r"'([^']*)'", message)
    places = {part.name: part.place for part in parts}
    return next((places[name] for name in called if name in places), ("nodes",))


def _path(place: Place) -> str:
    """``nodes[1].with.fields[0]``."""
    path = ""
    for part in place:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _PLAIN.fullmatch(part):
            path += f".{part}" if path else part
        else:
            path += f"[{part!r:.60}]"
    return path
