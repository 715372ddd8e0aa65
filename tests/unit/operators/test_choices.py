"""Arguments that are one of a few words."""

import pytest

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.operators.choices import check_choice


def test_a_choice_is_one_of_those_allowed() -> None:
    assert check_choice("over", "drop", ("drop", "delay")) is None  # type: ignore[func-returns-value]
    with pytest.raises(ConfigError) as raised:
        check_choice("over", "dorp", ("drop", "delay"))
    assert str(raised.value) == "over: 'dorp' is not allowed; one of: drop, delay"
