"""What is said of an optional package that is not there, or is there and cannot be imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.extras import extra


@pytest.mark.parametrize(
    ("number", "text", "why"),
    [
        (0, "import a_package_of_nobody", "a_package_of_nobody is missing"),
        (1, "from math import no_such_name", "importing it raised ImportError: cannot import name 'no_such_name' from 'math'"),
        (2, "raise ImportError('no pq wrapper available.\\nTried: c')", "ImportError: no pq wrapper available. Tried: c)"),
        (3, "raise ModuleNotFoundError('install the SDK')", "importing it raised ModuleNotFoundError: install the SDK)"),
        (4, "raise AttributeError('_ARRAY_API not found')", "importing it raised AttributeError: _ARRAY_API not found)"),
    ],
)  # fmt: skip
def test_an_extra_that_cannot_be_imported_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, text: str, why: str
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"vendors_sdk_{number}.py").write_text(text)
    with pytest.raises(ConfigError) as refused:
        extra(f"vendors_sdk_{number}", "vendor", "VendorSink")
    said = str(refused.value)
    assert said.startswith("VendorSink needs the extra vendor (")
    assert said.endswith("): pip install 'market-data-pipeline[vendor]'")
    assert why in said
    assert "\n" not in said
    assert ("is missing" in said) == (number == 0)  # what is there is never said to be missing


def test_an_extra_that_is_not_there_is_missing() -> None:
    with pytest.raises(ConfigError) as refused:
        extra("a_package_of_nobody.part", "vendor", "VendorSink")
    assert str(refused.value) == (
        "VendorSink needs the extra vendor (a_package_of_nobody is missing): pip install 'market-data-pipeline[vendor]'"
    )
