"""The cases of all sinks, by name. Each module ``tests/tools/cases_*.py`` holds some."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.tools.sink_case import SinkCase

Make = Callable[[Path], SinkCase]
"""Makes a case; may use the empty folder. Calls ``pytest.skip`` where the machine lacks what it needs."""

CASES: dict[str, Make] = {}
