"""What the schema takes the loader takes, and the other way round: each argument of each component, each key of a node."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from market_data_pipeline.catalog.document import Step
from market_data_pipeline.catalog.parameters import accepted_by, checked
from market_data_pipeline.catalog.registry import Entry, registry
from market_data_pipeline.catalog.schema import document_schema

SCHEMA = document_schema()
VALUES: list[Any] = [
    None, True, 1, -1, 1.5, "", "5", "1s", "-1.5h", " 5 ms ", "1 S", "2024-01-01", "builtins:bool", "drop", "trade",
    [], ["a"], [1], [["a", "b"]], [[1, "a"]], [["a", 1]], [{}], {}, {"a": 1}, {"a": "b"}, {"high": 2, "low": 1},
    {"value": "count"}, {"value": "count", "with": None}, {"value": "vwap", "with": {}}, {"value": "tumble"},
    {"value": "tumble", "with": {"size": "1s"}}, {"value": "count", "of": 1}, {"provider": "interactive_brokers"},
    [{"provider": "interactive_brokers"}], {"sink": "discard"}, {"sink": "csv"}, {"sink": "discard", "with": []},
]  # fmt: skip
"""A whole number written ``1.0`` is left out: for JSON schema it is whole, and in a document it is not."""
ENTRIES = [entry for entry in registry().entries() if entry.origin == "market-data-pipeline"]


def problem(entry: Entry, argument: str, value: Any) -> str | None:
    """Why the loader does not take ``value`` for ``argument``, whatever else is missing; None where it does."""
    try:
        accepted_by(registry().get(entry.kind, entry.name)).taken({argument: value})
    except ValidationError as error:
        return next((one["msg"] for one in error.errors() if one["loc"][0] == argument), None)
    except PydanticCustomError as error:
        return error.message()
    return None


@pytest.mark.parametrize("entry", ENTRIES, ids=[f"{entry.kind}-{entry.name}" for entry in ENTRIES])
def test_arguments(entry: Entry) -> None:
    part = SCHEMA["$defs"][f"with.{entry.kind}.{entry.name}"]
    for argument, schema in part["properties"].items():
        validator = Draft202012Validator({**schema, "$defs": SCHEMA["$defs"]})
        for value in VALUES:
            why = problem(entry, argument, value)
            assert validator.is_valid(value) == (why is None), (argument, value, why)


KEYS = [field.alias or name for name, field in Step.model_fields.items()]
FITTING: dict[str, list[Any]] = {
    "from": ["s", ["s"], {"node": "s", "key": "symbol"}, [{"node": "s"}], {"nod": "s"}, {"node": "s", "key": 1}],
    "channel": [{"capacity": "5"}, {"capacity": None}, {"levels": {"high": 0.5}}, {"levels": []}],
    "retries": [{"attempts": "5"}, {"first": "1x"}],
    "on_error": ["fail", "skip", "Fail"],
    "name": ["a", "a b", "-a", "a" * 41],
}
"""Values of single keys, besides those above."""


def fits(node: dict[str, Any]) -> bool:
    try:
        checked(Step, node, "key")
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("key", [key for key in KEYS if key not in ("source", "operator", "sink", "coroutine", "with")])
def test_keys_of_a_node(key: str) -> None:
    validator = Draft202012Validator(SCHEMA)
    for value in [*VALUES, *FITTING.get(key, [])]:
        node = {"operator": "filter", "with": {"predicate": "builtins:bool"}, key: value}
        document = {"name": "x", "nodes": [{"source": "synthetic", "name": "s"}, node, {"sink": "discard"}]}
        assert validator.is_valid(document) == fits(node), value
