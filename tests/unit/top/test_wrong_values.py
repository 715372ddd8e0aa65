"""What pydantic finds wrong, in words for people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from market_data_pipeline.wrong_values import why


def even(value: int) -> int:
    if value % 2:
        raise ValueError("must be even")
    return value


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (Annotated[int, Field(ge=1)], 0, "must be at least 1"),
        (Annotated[int, Field(le=1)], 2, "must be at most 1"),
        (Annotated[float, Field(gt=0.5)], 0.5, "must be above 0.5"),
        (Annotated[float, Field(lt=0.5)], 0.5, "must be below 0.5"),
        (int, "many", "must be a whole number"),
        (int, 1.5, "must be a whole number"),
        (float, "fast", "must be a number"),
        (bool, "maybe", "must be true or false"),
        (str, 5, "must be text"),
        (Path, 5, "must be a path"),
        (Literal["a", "b"], "c", "must be one of 'a' or 'b'"),
        (Annotated[str, Field(pattern="a+")], "b", "must be of the form a+"),
        (Annotated[int, AfterValidator(even)], 3, "must be even"),
    ],
)
def test_as_people_say_it(kind: Any, value: Any, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value)
    assert [why(error) for error in caught.value.errors()] == [said]
