"""Codes of symbols, and what is kept of each."""

import numpy as np
import pytest

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import Dictionary
from market_data_pipeline.operators import bar_symbols
from market_data_pipeline.operators.bar_symbols import BarSymbols


def test_only_symbols_of_rows_get_a_code() -> None:
    symbols = BarSymbols()
    names = ("of another partition", "B", "A")
    assert symbols.intern(Dictionary(np.array([2], np.uint32), names)).tolist() == [0]
    assert symbols.intern(Dictionary(np.array([1, 2], np.uint32), names)).tolist() == [1, 0]
    assert symbols.names == ("A", "B")


def test_one_symbol_too_many_leaves_the_others_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bar_symbols, "MAX_SYMBOLS", 2)
    symbols = BarSymbols()
    with pytest.raises(ConfigError, match="more than 2 symbols"):
        symbols.intern(Dictionary.encode(["A", "B", "C"]))
    assert symbols.intern(Dictionary.encode(["B", "A"])).tolist() == [1, 0]
    assert symbols.start(np.array([0, 1])) is not None
