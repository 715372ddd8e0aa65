"""What pydantic finds wrong with a value, as people say it."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic_core import ErrorDetails

_WANTED: Mapping[str, str] = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "string": "text", "path": "a path",
}  # fmt: skip
_BOUNDS: Mapping[str, tuple[str, str]] = {
    "greater_than_equal": ("at least", "ge"),
    "less_than_equal": ("at most", "le"),
    "greater_than": ("above", "gt"),
    "less_than": ("below", "lt"),
    "literal_error": ("one of", "expected"),
    "string_pattern_mismatch": ("of the form", "pattern"),
}


def why(error: ErrorDetails) -> str:
    """The end of a sentence that begins with the value: ``must be at least 1``. Of a validator of one's own its own words."""
    kind = error["type"]
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"must be {words} {error['ctx'][bound]}"
    wanted = _WANTED.get(kind.partition("_")[0])
    if wanted is not None and kind.partition("_")[2] in ("type", "parsing", "from_float"):
        return f"must be {wanted}"
    return error["msg"].removeprefix("Value error, ")
