"""A file of settings: YAML, JSON or TOML as plain values, and on which line each of them stands."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, time
from pathlib import Path
from typing import Any

from market_data_pipeline.catalog.text import MOST_BYTES, parse_text
from market_data_pipeline.errors import ConfigError

_SUFFIXES = (".yaml", ".yml", ".json", ".toml")
_REPEATED = re.compile(r"(?<!key )'(?!<)[^'\s]{2,}'|[&*]\S+")
"""What an error of YAML repeats of the file, but for names: a password that begins with * is an alias to it."""
_TOML_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_TOML_TABLE = re.compile(r"\s*\[([^\[\]]+)\]")


@dataclass(frozen=True)
class SettingsFile:
    """What a file says; ``lines`` holds where each key stands."""

    name: str
    values: Mapping[str, Any] = field(repr=False)
    lines: Mapping[tuple[str | int, ...], int] = field(repr=False)

    def where(self, path: tuple[str, ...]) -> str | None:
        """``file:line`` of what stands at ``path``; None where nothing does."""
        line = self.lines.get(path)
        return None if line is None else f"{self.name}:{line}"

    def at(self, path: tuple[str, ...]) -> Any:
        """The value at ``path``; None where there is none."""
        value: Any = self.values
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value


def read_settings_file(name: str, origin: str) -> SettingsFile:
    """The file ``name``, of which ``origin`` (a flag or a variable) spoke. Raises ``ConfigError``, which repeats no value of
    the file: some are secrets."""
    path = Path(name)
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"{origin}: {name}: a file of settings ends in {', '.join(_SUFFIXES)}")
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{origin}: {name}: {(error.strerror or str(error)).lower()}") from None
    return _toml(name, data) if path.suffix.lower() == ".toml" else _yaml(name, data)


def _yaml(name: str, data: bytes) -> SettingsFile:
    try:
        text = parse_text(data, name)
    except ConfigError as error:
        told, left_out = _REPEATED.subn("...", str(error).removeprefix(name))
        hint = "; text that begins with & * ! stands in quotes" if left_out and "quotes" not in told else ""
        raise ConfigError(name + told + hint) from None
    if text.data is None:
        return SettingsFile(name, {}, {})
    if not isinstance(text.data, dict):
        raise ConfigError(f"{text.where(())}: settings are a mapping, name: value")
    return SettingsFile(name, text.data, {place: at.line for place, at in text.keys.items()})


def _toml(name: str, data: bytes) -> SettingsFile:
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{name}: the file is larger than {MOST_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}:{data[: error.start].count(10) + 1}: is not UTF-8") from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error))
        line = found[2] if found and found[2] else str(text.count("\n") + 1)
        raise ConfigError(f"{name}:{line}: {found[1] if found else error}") from None
    except RecursionError:
        raise ConfigError(f"{name}: is nested too deeply") from None
    return SettingsFile(name, _plain(values), _toml_lines(text, values))


def _plain(value: Any) -> Any:
    """TOML's times as text."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return str(value) if isinstance(value, date | time) else value


def _toml_lines(text: str, values: Mapping[str, Any]) -> dict[tuple[str | int, ...], int]:
    """The lines on which keys stand, by looking for them: Python's reader of TOML tells none. What stands in a table within
    one line has that line."""
    table: tuple[str, ...] = ()
    lines: dict[tuple[str | int, ...], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        head, key = _TOML_TABLE.match(line), _TOML_KEY.match(line)
        if head:
            table = _parts(head[1])
        path = table if head else (*table, *_parts(key[1])) if key else ()
        for depth in range(1, len(path) + 1):
            lines.setdefault(path[:depth], number)
    return _completed(values, (), 1, lines)


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in key.split("."))


def _completed(
    values: Mapping[str, Any], above: tuple[str, ...], line: int, found: Mapping[tuple[str | int, ...], int]
) -> dict[tuple[str | int, ...], int]:
    """A line for each of ``values``: its own, or that of what it stands in."""
    lines: dict[tuple[str | int, ...], int] = {}
    for key, value in values.items():
        path = (*above, key)
        lines[path] = found.get(path, line)
        if isinstance(value, dict):
            lines |= _completed(value, path, lines[path], found)
    return lines
