"""A file of settings: YAML, JSON or TOML as plain values, and on which line each of them stands."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from market_data_pipeline.errors import ConfigError

LARGEST = 1 << 20
"""Bytes of a file, at most."""
_SUFFIXES = (".yaml", ".yml", ".json", ".toml")
_STANDARD = "tag:yaml.org,2002:"
_TAGS = [
    _STANDARD + kind for kind in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "value", "merge")
]
_QUOTED = re.compile(r"'(?!<)[^'\s]{2,}'")
"""What YAML's reader repeats of the file: a password that begins with * is an alias to it."""
_TOML_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_TOML_TABLE = re.compile(r"\s*\[([^\[\]]+)\]")


@dataclass(frozen=True)
class SettingsFile:
    """What a file says. Values are text, as those of the environment are, or None; ``lines`` holds where each key stands."""

    name: str
    values: Mapping[str, Any] = field(repr=False)
    lines: Mapping[tuple[str, ...], int] = field(repr=False)

    def where(self, path: tuple[str, ...]) -> str | None:
        """``file:line`` of what stands at ``path``; None where nothing does."""
        line = self.lines.get(path)
        return None if line is None else f"{self.name}:{line}"


def read_settings_file(name: str, origin: str) -> SettingsFile:
    """The file ``name``, of which ``origin`` (a flag or a variable) spoke. Raises ``ConfigError``, which repeats no value of
    the file: some are secrets."""
    path = Path(name)
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"{origin}: {name}: a file of settings ends in {', '.join(_SUFFIXES)}")
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"{origin}: {name}: {(error.strerror or str(error)).lower()}") from None
    if len(data) > LARGEST:
        raise ConfigError(f"{origin}: {name}: is larger than {LARGEST:,} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}:{data[: error.start].count(10) + 1}: is not UTF-8") from None
    suffix = path.suffix.lower()
    if suffix == ".toml":
        return _toml(name, text)
    # in JSON tabs stand between values only, and YAML does not take them there
    return _yaml(name, text.replace("\t", " ") if suffix == ".json" else text)


def _yaml(name: str, text: str) -> SettingsFile:
    try:
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{name}{line}: {_QUOTED.sub('...', problem)}") from None
    except YAMLError as error:
        raise ConfigError(f"{name}: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ConfigError(f"{name}: is nested too deeply") from None
    reading = _Reading(name)
    if node is None or _is_null(node):
        return SettingsFile(name, {}, {})
    if not isinstance(node, MappingNode):
        raise ConfigError(f"{name}:{node.start_mark.line + 1}: settings are a mapping, name: value")
    try:
        return SettingsFile(name, reading.mapping(node, ()), reading.lines)
    except RecursionError:
        raise ConfigError(f"{name}: is nested too deeply") from None


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.tag == f"{_STANDARD}null"


class _Reading:
    """YAML's nodes as plain values."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[tuple[str, ...], int] = {}

    def mapping(self, node: MappingNode, above: tuple[str, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                raise ConfigError(f"{self.name}:{line}: a name must be text")
            path = (*above, key.value)
            if key.value in values:
                raise ConfigError(
                    f"{self.name}:{line}: {'.'.join(path)}: is given twice; first in line {self.lines[path]}"
                )
            self.lines[path] = line
            values[key.value] = self._value(value, path)
        return values

    def _value(self, node: Node, path: tuple[str, ...]) -> Any:
        where = f"{self.name}:{node.start_mark.line + 1}: {'.'.join(path)}"
        if node.anchor is not None or node.tag not in _TAGS:
            raise ConfigError(
                f"{where}: anchors (&name), aliases (*name) and tags (!name) are not taken; write the value"
            )
        if isinstance(node, MappingNode):
            return self.mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self._value(each, path) for each in node.value]
        return None if _is_null(node) else node.value


def _toml(name: str, text: str) -> SettingsFile:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error))
        line = found[2] if found and found[2] else str(text.count("\n") + 1)
        raise ConfigError(f"{name}:{line}: {found[1] if found else error}") from None
    except RecursionError:
        raise ConfigError(f"{name}: is nested too deeply") from None
    return SettingsFile(name, {key: _as_text(value) for key, value in values.items()}, _toml_lines(text, values))


def _as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_text(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_as_text(each) for each in value]
    return str(value)


def _toml_lines(text: str, values: Mapping[str, Any]) -> dict[tuple[str, ...], int]:
    """The lines on which keys stand, by looking for them: Python's reader of TOML tells none. What stands in a table within
    one line has that line."""
    table: tuple[str, ...] = ()
    lines: dict[tuple[str, ...], int] = {}
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
    values: Mapping[str, Any], above: tuple[str, ...], line: int, found: Mapping[tuple[str, ...], int]
) -> dict[tuple[str, ...], int]:
    """A line for each of ``values``: its own, or that of what it stands in."""
    lines: dict[tuple[str, ...], int] = {}
    for key, value in values.items():
        path = (*above, key)
        lines[path] = found.get(path, line)
        if isinstance(value, dict):
            lines |= _completed(value, path, lines[path], found)
    return lines
