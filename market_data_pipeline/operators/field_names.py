"""What several operators say of the fields of their items, see :meth:`Operator.fields_given`. What a class says does not hold
for those derived from it, so each class that holds to one of these takes it over by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from market_data_pipeline.operators.base import Operator
from market_data_pipeline.records import FieldNames, fields_of


class _Join(Protocol):
    key: str
    fields: Sequence[str]
    combine: Callable[[Any, Any], Any] | None


def kept(self: Operator, taken: FieldNames, output: str = "") -> FieldNames:
    return taken


def of_bars(self: Operator, taken: FieldNames, output: str = "") -> FieldNames:
    return taken if output else fields_of("bar")


def read_by_join(self: _Join, input: str = "") -> tuple[str, ...]:  # noqa: A002 - what it is
    return (self.key, *(self.fields if input and self.combine is None else ()))
