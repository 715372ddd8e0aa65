"""Keys of state come back from it as they were."""

from typing import Any

import pytest

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.operators.keys import check_field, check_key
from market_data_pipeline.packing import pack, unpack


@pytest.mark.parametrize("key", [True, 2**64 - 1, -(2**63), 1.5, "", "日本", b"x"])
def test_a_plain_value_is_a_key(key: Any) -> None:
    assert check_key(key) is key
    assert unpack(pack(key)) == key


@pytest.mark.parametrize("key", [None, (1,), [1], 2**64, -(2**63) - 1, "\ud800"])
def test_what_cannot_be_stored_is_none(key: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        check_key(key)


@pytest.mark.parametrize("name", [None, "", 5, ["symbol"]])
def test_a_field_has_a_name(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"by: .* is not the name of a field"):
        check_field(name, "by")
