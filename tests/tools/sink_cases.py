"""The cases of all sinks, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tools.cases_files import CsvFilesCase, JsonLinesCase, SqliteTableCase
from tools.sink_case import SinkCase

Make = Callable[[Path], SinkCase]
"""Makes a case; may use the empty folder. Calls ``pytest.skip`` where the machine lacks what it needs."""

CASES: dict[str, Make] = {
    "json-lines": JsonLinesCase,
    "csv": CsvFilesCase,
    "sqlite-table": SqliteTableCase,
}
