"""What a pair becomes: a flat dict of the left item's fields and the named ones of the right item, or what a function makes."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, Literal, get_args

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.choices import check_choice
from market_data_pipeline.operators.stateless import apply, check_function
from market_data_pipeline.records import field

Combine = Callable[[Any, Any], Any]
"""``combine(left, right)``; ``right`` is ``None`` where nothing matches."""
How = Literal["left", "inner"]


def check_pairs(fields: Sequence[str], how: How, combine: Combine | None) -> tuple[str, ...]:
    """``fields`` as a tuple. Raises ``ConfigError`` for what cannot be meant."""
    check_choice("how", how, get_args(How))
    if isinstance(fields, str) or not isinstance(fields, Iterable) or not all(isinstance(name, str) for name in fields):
        raise ConfigError(f"fields: {fields!r} is not a list of names")
    if combine is not None:
        check_function(combine, "combine")
    elif not fields:
        raise ConfigError("fields: name at least one field of the right item, or give combine")
    return tuple(fields)


def names_of(fields: Iterable[str], taken: Container[str], prefix: str) -> list[str]:
    """What the right ``fields`` are called beside a left item's: their own name, with ``prefix`` where it is taken."""
    names: list[str] = []
    for name in fields:
        while name in taken or name in names:
            name = prefix + name  # noqa: PLW2901 - until it is free
        names.append(name)
    return names


def as_dict(item: Any) -> dict[str, Any]:
    """The fields of a record or dict. Raises ``TypeError`` for anything else."""
    if isinstance(item, dict):
        return dict(item)
    if not hasattr(item, "_asdict"):
        raise TypeError(f"{type(item).__name__} is neither a record nor a dict, and there is no combine")
    fields: dict[str, Any] = item._asdict()
    return fields


def value_of(item: Any, name: str) -> Any:
    """A field of the right item, ``None`` where it has none."""
    try:
        return field(item, name)
    except (KeyError, AttributeError):
        return None


def flat(left: Any, fields: Sequence[str], values: Iterable[Any], prefix: str) -> dict[str, Any]:
    """The left item's fields and the right ``values`` under their names."""
    joined = as_dict(left)
    joined.update(zip(names_of(fields, joined, prefix), values, strict=True))
    return joined


def combined(pairs: list[tuple[Any, Any]], combine: Combine, ctx: OperatorContext) -> list[Any]:
    """What ``combine`` makes of each pair; where it raises, the left item goes the way of the error policy."""
    done = apply(lambda pair: combine(*pair), pairs, lambda pair, error: ctx.failed(pair[0], error))
    return [result for _, result in done]
