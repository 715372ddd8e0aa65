"""Which files a path names, and the format of each."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from market_data_pipeline.errors import ConfigError, SourceError
from market_data_pipeline.sources.formats.arrow import ArrowFormat
from market_data_pipeline.sources.formats.base import Format
from market_data_pipeline.sources.formats.dbn import DbnFormat
from market_data_pipeline.sources.formats.parquet import ParquetFormat
from market_data_pipeline.sources.formats.streams import zstandard
from market_data_pipeline.sources.formats.text import TextFormat

ALLOWED = ".csv, .jsonl, .ndjson, each also .gz or .zst; .parquet, .arrow, .feather, .dbn, .dbn.zst"
_COMPRESSED = {"csv": ("", ".gz", ".zst"), "jsonl": ("", ".gz", ".zst"), "dbn": ("", ".zst")}
_SUFFIXES = {
    ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".dbn": "dbn",
    ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow",
}  # fmt: skip
_GLOB = re.compile(r"[*?\[]")


def format_name(path: Path) -> str:
    """The name of the format of ``path``, ``""`` where it is unknown."""
    suffixes = path.suffixes
    last = suffixes[-1] if suffixes and suffixes[-1] in (".gz", ".zst") else ""
    name = _SUFFIXES.get("".join((suffixes[:-1] if last else suffixes)[-1:]), "")
    return name if last in _COMPRESSED.get(name, ("",)) else ""


def unknown(path: Path) -> str:
    return f"replay: {path.name}: unknown format; allowed: {ALLOWED}"


class Formats:
    """The formats of one source: each made, with its extra, when a file first needs it."""

    def __init__(self) -> None:
        self._made: dict[str, Format] = {}

    def of(self, path: Path) -> Format:
        """Raises ``ConfigError`` where the format is unknown or its extra is missing."""
        name = format_name(path)
        if not name:
            raise ConfigError(unknown(path))
        if path.suffix == ".zst":
            zstandard(path)
        if name not in self._made:
            self._made[name] = _make(name)
        return self._made[name]


def _make(name: str) -> Format:
    if name == "parquet":
        return ParquetFormat()
    if name == "arrow":
        return ArrowFormat()
    if name == "dbn":
        return DbnFormat()
    return TextFormat(is_csv=name == "csv")


def is_one_file(path: Path) -> bool:
    """Whether ``path`` names a file, which is to be there, and neither a folder nor a pattern."""
    if path.is_file():
        return True
    if _GLOB.search(str(path)):
        return False
    return bool(format_name(path)) and not (path.is_dir() and path.suffix == ".parquet")


def check_name(path: Path, text: str) -> None:
    """Raises ``ConfigError`` unless ``path``, written as ``text``, can be a file of a known format, a folder or a pattern."""
    if is_one_file(path):
        if not format_name(path):
            raise ConfigError(unknown(path))
    elif not (_GLOB.search(text) or path.is_dir() or text.endswith("/")):
        raise ConfigError(
            f"{unknown(path)}; or a folder that is there (end the name of another one with /), or a pattern"
        )


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files that ``paths`` name, each once, by name. Of folders those of known formats, at any depth, but what begins
    with ``.`` or ``_``. Raises ``SourceError`` where a folder or pattern names none."""
    found: set[Path] = set()
    for path in paths:
        if is_one_file(path):
            found.add(path)
        elif path.is_dir():
            found.update(_of_folder(path))
        else:
            found.update(_of_pattern(path))
    return sorted(found, key=str)


def _of_folder(folder: Path) -> list[Path]:
    files = [
        path
        for path in folder.rglob("*")
        if format_name(path) and not any(part[0] in "._" for part in path.relative_to(folder).parts) and path.is_file()
    ]
    if not files:
        raise SourceError(f"{folder}: no file of a known format in this folder; known: {ALLOWED}")
    return files


def _of_pattern(pattern: Path) -> list[Path]:
    names = glob.glob(str(pattern), recursive=True)  # noqa: PTH207 - a Path takes no absolute pattern
    files = [path for name in names if (path := Path(name)).is_file()]
    if not files:
        parts = pattern.parts
        fixed = next((n for n, part in enumerate(parts) if _GLOB.search(part)), len(parts) - 1)
        folder = Path(*parts[:fixed])
        there = "" if folder.is_dir() else ", which is no folder"
        raise SourceError(f"{pattern}: no file matches; looked in {folder.resolve()}{there}")
    strange = [path for path in files if not format_name(path)]
    if strange:
        raise SourceError(f"{pattern}: matches {strange[0].name}, whose format is unknown; known: {ALLOWED}")
    return files
