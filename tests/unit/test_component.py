"""Component: a template, its fresh copies, and its configuration as plain data."""

import functools
import math
import operator
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from market_data_pipeline.component import Component, describe, describe_function, type_name


class Scale(Component):
    def __init__(self, factor: float, names: tuple[str, ...] = (), *, hidden: int = 0) -> None:
        self.factor = factor
        self.names = names
        self._hidden = hidden
        self.seen: list[int] = []


class Nested(Component):
    def __init__(self, inner: Component) -> None:
        self.inner = inner


def double(x: int, y: int = 0) -> int:
    return x * 2


def test_fresh_is_a_deep_copy() -> None:
    template = Scale(2.0)
    copy = template.fresh()
    copy.seen.append(1)
    assert copy is not template
    assert type(copy) is Scale
    assert copy.factor == 2.0
    assert template.seen == []


def test_config_is_the_init_parameters_kept_under_their_own_name() -> None:
    assert Scale(2.5, ("a", "b"), hidden=3).config() == {"factor": 2.5, "names": ["a", "b"]}


def test_plain_values_describe_themselves() -> None:
    for value in (None, True, 3, 2.5, "x"):
        assert describe(value) is value


def test_containers_become_plain_lists_and_dicts() -> None:
    assert describe((1, (2, [3]))) == [1, [2, [3]]]
    assert describe({1: ("a",), "b": {"c": None}}) == {"1": ["a"], "b": {"c": None}}


def test_sets_are_described_in_an_order_that_does_not_depend_on_hashing() -> None:
    assert describe({"b", "a", "c"}) == ["a", "b", "c"]
    assert describe(frozenset({10, 9})) == describe({9, 10})


def test_paths_and_timedeltas() -> None:
    assert describe(PurePosixPath("/a/b")) == "/a/b"
    assert describe(timedelta(milliseconds=1500)) == 1.5


def test_components_describe_their_type_and_config() -> None:
    described = describe(Nested(Scale(1.0)))
    assert described["type"] == type_name(Nested(Scale(1.0)))
    assert described["inner"] == {"type": f"{__name__}.Scale", "factor": 1.0, "names": []}


def test_partials_show_function_and_arguments() -> None:
    described = describe(functools.partial(double, 3, y=4))
    assert described == {"partial": describe_function(double), "args": [3], "kwargs": {"y": 4}}


def test_other_objects_are_described_by_their_type_only() -> None:
    assert describe(object()) == "builtins.object"


def test_functions_without_bytecode_are_described_by_name() -> None:
    assert describe(len) == "builtins.len"
    assert describe(str) == "builtins.str"


def test_a_function_is_described_equally_each_time() -> None:
    first, second = describe_function(double), describe_function(double)
    assert first == second
    assert first.startswith(f"{__name__}.double#")
    assert len(first.rpartition("#")[2]) == 8


def crc(fn: Callable[..., Any]) -> str:
    return describe_function(fn).rpartition("#")[2]


def make(factor: Any) -> Callable[[int], Any]:
    return lambda x: x * factor


def test_an_edited_lambda_shows() -> None:
    variants = [
        lambda x: x * 2,
        lambda x: x * 3,
        lambda x: x + 2,
        lambda x: x.price,
        lambda x: x.size,
        lambda x: x == "a",
        lambda x: x == "b",
    ]
    assert len({crc(fn) for fn in variants}) == len(variants)


def test_an_unchanged_lambda_has_the_same_code_wherever_it_stands() -> None:
    one, other = (lambda x: x * 2), (lambda x: x * 2)
    assert crc(one) == crc(other)


def test_what_a_closure_holds_shows() -> None:
    assert crc(make(2)) == crc(make(2))
    assert crc(make(2)) != crc(make(3))
    assert crc(make("a")) != crc(make("b"))
    assert crc(make(make(1))) != crc(make(make(2)))


class Above:
    """Can be called, and holds what it compares with."""

    def __init__(self, limit: float, *names: str) -> None:
        self._limit, self.names = limit, set(names)
        self.lock = threading.Lock()

    def __call__(self, x: float) -> bool:
        return x > self._limit


class Slotted:
    __slots__ = ("field", "unset")

    def __init__(self, field: str) -> None:
        self.field = field

    def __call__(self, x: Any) -> Any:
        return getattr(x, self.field)


class Bare:
    def __call__(self, x: int) -> int:
        return x


@pytest.mark.parametrize(
    ("made", "other"),
    [
        (lambda: operator.itemgetter("a", 1), lambda: operator.itemgetter("a", 2)),
        (lambda: operator.attrgetter("a.b"), lambda: operator.attrgetter("a.c")),
        (lambda: operator.methodcaller("get", 1, default=2), lambda: operator.methodcaller("get", 1, default=3)),
        (lambda: Above(1.0, "a", "b"), lambda: Above(1.5, "a", "b")),
        (lambda: Above(1.0, "a", "b"), lambda: Above(1.0, "a", "c")),
        (lambda: Slotted("a"), lambda: Slotted("b")),
        (lambda: make(Above(1.0)), lambda: make(Above(2.0))),
    ],
)
def test_what_an_object_that_is_called_holds_shows(made: Callable[[], Any], other: Callable[[], Any]) -> None:
    assert describe(made()) == describe(made())
    assert describe(made()) != describe(other())


class Scaled:
    """Its method is a function that depends on what it holds, and it holds that method, too."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.again = self.times

    def times(self, x: float) -> float:
        return x * self.factor

    @classmethod
    def name(cls, x: float) -> str:
        return f"{cls.__name__} {x}"


class Doubled(Scaled):
    pass


class Stepping(Component):
    def __init__(self, size: int) -> None:
        self.size = size
        self.step = self._step

    def _step(self, x: int) -> int:
        return x + self.size


@pytest.mark.parametrize(
    ("made", "other"),
    [
        (lambda: Scaled(2).times, lambda: Scaled(3).times),
        (lambda: Scaled(2).times, lambda: Doubled(2).times),
        (lambda: Scaled.name, lambda: Doubled.name),
        (lambda: Slotted("a").__call__, lambda: Slotted("b").__call__),
        (lambda: {"A": 1.0}.get, lambda: {"A": 2.0}.get),
        (lambda: "a".join, lambda: "b".join),
        (lambda: functools.partial(Scaled(2).times, 1), lambda: functools.partial(Scaled(3).times, 1)),
        (lambda: make(Scaled(2).times), lambda: make(Scaled(3).times)),
        (lambda: Stepping(1).step, lambda: Scaled(1).times),
    ],
)
def test_what_the_object_holds_whose_method_is_called_shows(made: Callable[[], Any], other: Callable[[], Any]) -> None:
    assert describe(made()) == describe(made())
    assert describe(made()) != describe(other())


@dataclass
class Rule:
    limit: int
    check: Any = None

    def holds(self, x: int) -> bool:
        return x < self.limit


def test_a_dataclass_may_hold_its_own_method() -> None:
    one, other, third = Rule(1), Rule(1), Rule(2)
    for rule in (one, other, third):
        rule.check = rule.holds
    assert describe(one) == describe(other) != describe(third)
    assert describe(one.holds) == describe(other.holds) != describe(third.holds)


def test_a_component_may_hold_its_own_method() -> None:
    class Kept(Component):
        def __init__(self, fn: Any = None) -> None:
            self.fn = self.own

        def own(self, x: int) -> int:
            return x

    assert describe(Kept()) == describe(Kept())


def test_a_method_of_the_class_that_its_name_says_is_the_name() -> None:
    assert describe(int.from_bytes).endswith("int.from_bytes")
    assert describe(math.sqrt) == "math.sqrt"


def test_an_object_that_is_called_and_holds_nothing_is_described_by_its_type() -> None:
    assert describe(Bare()) == f"{__name__}.{type_name(Bare())}"
    assert describe(Above) == f"{__name__}.Above"


def test_an_object_that_holds_itself_ends() -> None:
    first, second = Above(1.0), Above(1.0)
    for one in (first, second):
        one.names = {"a"}
        one.again = one  # type: ignore[attr-defined]
    assert describe(first) == describe(second)


def test_what_only_this_process_could_say_of_a_getter_does_not_show() -> None:
    assert describe(operator.itemgetter(object())) == describe(operator.itemgetter(object()))
    assert describe(operator.methodcaller("f", {"a", "b"})) == "operator.operator.methodcaller"


def test_objects_that_are_called_are_described_alike_in_two_processes() -> None:
    text = (
        "import operator; from market_data_pipeline.component import describe; from test_component import *;"
        "print([describe(one) for one in (operator.itemgetter('a'), Above(1.5, *'abcdefgh'), Slotted('a'), Scaled(2).times)])"
    )
    folder = str(Path(__file__).parent)
    said = {
        subprocess.run(
            [sys.executable, "-c", text],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([folder, *sys.path])},
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(said) == 1
    assert said.pop().count("#") == 4
