"""Component: a template, its fresh copies, and its configuration as plain data."""

import functools
from collections.abc import Callable
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any

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
