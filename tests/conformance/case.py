"""A case as it stands in a YAML file, checked. A mistake is a :class:`CaseError` with file, case and field."""

from __future__ import annotations

import builtins
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from market_data_pipeline import operators
from market_data_pipeline.durations import parse_duration
from market_data_pipeline.frame import END, IDLE, NO_MARK
from market_data_pipeline.operators.base import ON_ERROR, Operator

from .items import KINDS_OF_ITEMS, Expected, item_of, time_of

FOLDER = Path(__file__).with_name("cases")
USUAL = "in"
"""The input of an operator with only one."""
_CASE_KEYS = {
    "name", "operator", "inputs", "broadcast", "items", "key", "order", "epoch", "sources", "on_error", "steps", "counts",
    "rejected", "state", "rows",
}  # fmt: skip
_DEEDS = ("in", "mark", "idle", "end", "now", "pressed")
_STEP_KEYS = {*_DEEDS, "out", "to", "watermark", "idle_out"}


class CaseError(Exception):
    """A case cannot be read; the message names file, case and field."""


class _Wrong(Exception):
    """Field and reason, on the way to a :class:`CaseError`."""

    def __init__(self, where: str, reason: Any) -> None:
        super().__init__(f"{where}: {reason}")


@dataclass(frozen=True)
class SourceTimes:
    """The properties of a source whose watermark follows from its items and the clock."""

    max_delay: int | None
    idle_after: int | None
    live: bool


@dataclass(frozen=True)
class Step:
    """One thing that happens, and what must come out of it. ``marks`` by input; ``IDLE`` and ``END`` are marks too."""

    at: str
    items: tuple[tuple[str, Any], ...] = ()
    marks: Mapping[str, int] = field(default_factory=dict)
    now: int | None = None
    pressed: bool | None = None
    out: Mapping[str, tuple[Expected, ...]] = field(default_factory=dict)
    watermark: int | None = None
    idle_out: bool | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """One case. ``operators`` stand in a line; ``key`` is ``None`` where the items have none: then it is never split. ``rows``:
    the first cells of the rows of docs/operators.md that it shows."""

    file: str
    name: str
    operators: tuple[Operator, ...]
    inputs: tuple[str, ...]
    broadcast: frozenset[str]
    key: str | None
    fixed: bool
    epoch: int
    sources: Mapping[str, SourceTimes]
    on_error: Any
    steps: tuple[Step, ...]
    counts: Mapping[str, int]
    rejected: tuple[Expected, ...]
    state: int | None
    rows: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}: {self.name!r}"


def operator_names() -> dict[str, Any]:
    """What the text of an operator may use: every class in ``operators``, and what Python has."""
    names: dict[str, Any] = {}
    for module in pkgutil.walk_packages(operators.__path__, f"{operators.__name__}."):
        found = vars(importlib.import_module(module.name))
        names |= {name: value for name, value in found.items() if isinstance(value, type) and name[0] != "_"}
    return names | {"__builtins__": builtins}


_NAMES = MappingProxyType(operator_names())


def read_all(folder: Path = FOLDER) -> list[Case]:
    """Every case of every file, in order."""
    return [case for path in sorted(folder.glob("*.yaml")) for case in read_file(path)]


def read_file(path: Path) -> list[Case]:
    """The cases of one file. Raises :class:`CaseError`."""
    return read_text(path.read_text(), path.name)


def read_text(text: str, file: str, names: Mapping[str, Any] = _NAMES) -> list[Case]:
    """The cases in ``text``; ``names`` is what the texts of operators may use. Raises :class:`CaseError`."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CaseError(f"{file}: {error}") from error
    if not isinstance(raw, list):
        raise CaseError(f"{file}: a list of cases is wanted, not {type(raw).__name__}")
    cases: list[Case] = []
    for number, entry in enumerate(raw):
        name = entry.get("name") if isinstance(entry, dict) else None
        where = repr(name) if isinstance(name, str) else f"case {number + 1}"
        try:
            if not isinstance(name, str):
                raise _Wrong("name", "every case is a mapping with a name")
            if name in {case.name for case in cases}:
                raise _Wrong("name", "there is another case of this name")
            cases.append(_Reader(entry, names).case(file))
        except _Wrong as error:
            raise CaseError(f"{file}: {where}: {error}") from error.__cause__
    return cases


class _Reader:
    """Reads one case."""

    def __init__(self, raw: dict[str, Any], names: Mapping[str, Any]) -> None:
        self.raw = raw
        self.names = names
        for key in raw.keys() - _CASE_KEYS:
            raise _Wrong(str(key), f"unknown; there are: {', '.join(sorted(_CASE_KEYS))}")
        self.epoch = self.attempt("epoch", time_of, raw.get("epoch", 0))
        self.inputs = self._names("inputs", [USUAL])
        self.kinds = self._kinds()
        self.results = self.kinds[self.inputs[0]]

    @staticmethod
    def attempt(where: str, read: Callable[..., Any], *arguments: Any) -> Any:
        """``read(*arguments)``; whatever it raises is a mistake at ``where``."""
        try:
            return read(*arguments)
        except _Wrong:
            raise
        except Exception as error:
            raise _Wrong(where, f"{type(error).__name__}: {error}") from error

    def case(self, file: str) -> Case:
        raw = self.raw
        order, on_error = raw.get("order", "free"), raw.get("on_error", "dead_letter")
        if order not in ("free", "fixed"):
            raise _Wrong("order", f"{order!r} is not allowed; one of: free, fixed")
        if on_error not in ON_ERROR:
            raise _Wrong("on_error", f"{on_error!r} is not allowed; one of: {', '.join(ON_ERROR)}")
        steps = tuple(self._step(f"steps[{n}]", step) for n, step in enumerate(self._list("steps", raw.get("steps"))))
        looked_at = any(step.out or step.watermark is not None or step.idle_out is not None for step in steps)
        if not (looked_at or raw.get("counts") or raw.get("rejected")):
            raise _Wrong("steps", "nothing is expected anywhere, so the case could never fail")
        return Case(
            file=file,
            name=raw["name"],
            operators=self._operators(),
            inputs=self.inputs,
            broadcast=frozenset(self._names("broadcast", [])),
            key=raw.get("key", "symbol"),
            fixed=order == "fixed",
            epoch=self.epoch,
            sources=self._sources(),
            on_error=on_error,
            steps=steps,
            counts=self._counts(),
            rejected=self._expected("rejected", raw.get("rejected", [])),
            state=raw.get("state"),
            rows=self._names("rows", []),
        )

    def _operators(self) -> tuple[Operator, ...]:
        written = self.raw.get("operator")
        texts = written if isinstance(written, list) else [written]
        made = []
        for text in texts:
            if not isinstance(text, str):
                raise _Wrong("operator", f"{text!r} is not a text like TumblingBars('1s')")
            operator = self.attempt("operator", eval, text, dict(self.names))  # our own files
            if not isinstance(operator, Operator):
                raise _Wrong("operator", f"{text} is no operator")
            made.append(operator)
        return tuple(made)

    def _names(self, where: str, default: list[str]) -> tuple[str, ...]:
        names = self._list(where, self.raw.get(where, default))
        if not all(isinstance(name, str) for name in names):
            raise _Wrong(where, "a list of names is wanted")
        return tuple(names)

    def _kinds(self) -> dict[str, str]:
        given = self.raw.get("items", "trade")
        kinds = given if isinstance(given, dict) else dict.fromkeys(self.inputs, given)
        self._known("items", kinds)
        for name in self.inputs:
            if kinds.get(name) not in KINDS_OF_ITEMS:
                raise _Wrong("items", f"{kinds.get(name)!r} is not allowed; one of: {', '.join(KINDS_OF_ITEMS)}")
        return kinds

    def _known(self, where: str, names: Any) -> None:
        for name in names:
            if name not in self.inputs:
                raise _Wrong(where, f"there is no input {name!r}; there are: {', '.join(self.inputs)}")

    @staticmethod
    def _list(where: str, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise _Wrong(where, f"a list is wanted, not {value!r}")
        return value

    def _counts(self) -> dict[str, int]:
        counts = self.raw.get("counts", {})
        if not isinstance(counts, dict) or not all(type(n) is int for n in counts.values()):
            raise _Wrong("counts", "names with whole numbers are wanted")
        return dict(counts)

    def _sources(self) -> dict[str, SourceTimes]:
        made = {}
        given = self.raw.get("sources", {})
        self._known("sources", given)
        for name, raw in given.items():
            where = f"sources.{name}"
            for key in raw.keys() - {"max_delay", "idle_after", "live"}:
                raise _Wrong(f"{where}.{key}", "unknown; there are: max_delay, idle_after, live")
            times = {
                key: None if raw.get(key) is None else self.attempt(f"{where}.{key}", parse_duration, raw[key])
                for key in ("max_delay", "idle_after")
            }
            made[name] = SourceTimes(times["max_delay"], times["idle_after"], bool(raw.get("live", False)))
        return made

    def _step(self, at: str, raw: Any) -> Step:
        if not isinstance(raw, dict):
            raise _Wrong(at, f"a mapping is wanted, not {raw!r}")
        for key in raw.keys() - _STEP_KEYS:
            raise _Wrong(f"{at}.{key}", f"unknown; there are: {', '.join(sorted(_STEP_KEYS))}")
        deeds = [deed for deed in _DEEDS if deed in raw]
        if len(deeds) != 1:
            raise _Wrong(at, f"exactly one of {', '.join(_DEEDS)} is wanted, not {len(deeds)}")
        (deed,) = deeds
        return Step(
            at,
            items=self._items(f"{at}.in", raw["in"]) if deed == "in" else (),
            marks=self._marks(at, deed, raw[deed]) if deed in ("mark", "idle", "end") else {},
            now=self.attempt(f"{at}.now", time_of, raw["now"], self.epoch) if deed == "now" else None,
            pressed=bool(raw["pressed"]) if deed == "pressed" else None,
            out=self._outputs(at, raw),
            watermark=self._mark(f"{at}.watermark", raw["watermark"]) if "watermark" in raw else None,
            idle_out=raw.get("idle_out"),
        )

    def _items(self, where: str, raw: Any) -> tuple[tuple[str, Any], ...]:
        by_input = raw if isinstance(raw, dict) else {self.inputs[0]: raw}
        self._known(where, by_input)
        return tuple(
            (name, self.attempt(f"{where}[{n}]", item_of, value, self.kinds[name], self.epoch))
            for name, values in by_input.items()
            for n, value in enumerate(self._list(where, values))
        )

    def _marks(self, at: str, deed: str, raw: Any) -> dict[str, int]:
        where = f"{at}.{deed}"
        if deed == "mark":
            by_input = raw if isinstance(raw, dict) else dict.fromkeys(self.inputs, raw)
            self._known(where, by_input)
            return {name: self._mark(where, value) for name, value in by_input.items()}
        names = raw if isinstance(raw, list) else self.inputs
        self._known(where, names)
        return dict.fromkeys(names, END if deed == "end" else IDLE)

    def _mark(self, where: str, value: Any) -> int:
        named = {"end": END, "none": NO_MARK}
        return named[value] if value in named else int(self.attempt(where, time_of, value, self.epoch))

    def _outputs(self, at: str, raw: dict[str, Any]) -> dict[str, tuple[Expected, ...]]:
        named = raw.get("to", {})
        if not isinstance(named, dict):
            raise _Wrong(f"{at}.to", "names of outputs with lists are wanted")
        outputs = {port: self._expected(f"{at}.to.{port}", values) for port, values in named.items()}
        return {"": self._expected(f"{at}.out", raw["out"]), **outputs} if "out" in raw else outputs

    def _expected(self, where: str, values: Any) -> tuple[Expected, ...]:
        return tuple(
            self.attempt(f"{where}[{n}]", Expected, value, self.results, self.epoch)
            for n, value in enumerate(self._list(where, values))
        )
