"""Text of a document -> plain data, and where in its file each part of it stands. YAML 1.2; JSON is YAML here.

Of YAML there is what data needs: mappings with text as keys, lists, text, numbers, ``true``, ``false``, ``null``; anchors and
aliases. There are no tags, no merge keys (``<<``), no dates (``2024-01-01`` is text; what it is for decides what becomes of
it), no ``yes`` and ``no``. Whole numbers may have underscores between digits. Whatever the text is, reading it ends soon, with
data or with one :class:`ConfigError` that begins with ``file:line:column``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from market_data_pipeline.errors import ConfigError

MOST_BYTES = 1024 * 1024
"""The size of a file, at most."""
MOST_VALUES = 100_000
"""How many values a document has at most, aliases counted with all that they stand for."""
DEEPEST = 64
"""How deep lists and mappings are inside each other, at most."""

Place = tuple[str | int, ...]
"""Keys and indices that lead to a part of a document."""

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUTH = {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
_WHOLE = re.compile(r"[-+]?[0-9]+(_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+")
_REAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_NAN = frozenset({".nan", ".NaN", ".NAN"})
_MOST_DIGITS = 1000


class Position(NamedTuple):
    """Line and column in a file, both from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Text:
    """A document. ``name``: of its file, empty where there is none. ``values``, ``keys``: where each value and each key of a
    mapping begins."""

    name: str
    data: Any
    values: Mapping[Place, Position] = field(default_factory=dict)
    keys: Mapping[Place, Position] = field(default_factory=dict)

    def position(self, place: Place, key: bool = False) -> Position | None:
        """Where ``place`` is, or what it would be part of; ``key``: where its key is."""
        if key and place in self.keys:
            return self.keys[place]
        while place and place not in self.values:
            place = place[:-1]
        return self.values.get(place)

    def at(self, place: Place) -> Any:
        """What stands at ``place``, before anything is filled in; ``None`` where nothing does."""
        value = self.data
        for part in place:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def where(self, place: Place, key: bool = False) -> str:
        """``file:line:column`` of :meth:`position`, or as much of that as is known."""
        found = self.position(place, key)
        return self.name if found is None else f"{self.name}:{found.line}:{found.column}"


def read_text(path: Path) -> Text:
    """The document in a file of UTF-8 text. Raises ``ConfigError``: no such file, unreadable, larger than 1 MiB, wrong."""
    if not path.is_file():
        raise ConfigError(f"{path}: {'it is no regular file' if path.exists() else 'no such file'}")
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    return parse_text(data, str(path))


def parse_text(text: str | bytes, name: str) -> Text:
    """The document in ``text``; ``name`` is what errors call it. In one whose name ends with ``.json`` tabs are spaces, as in
    JSON. Raises ``ConfigError``."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{name}: the file is larger than {MOST_BYTES} bytes; a document is at most that large")
    try:
        decoded = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = _position(data[: error.start].decode("utf-8", "replace"))
        raise ConfigError(_told(name, at, f"the byte 0x{data[error.start]:02x} is no UTF-8 text")) from None
    if name.endswith(".json"):
        decoded = decoded.replace("\t", " ")
    node = _Composer(decoded, name).document()
    values: dict[Place, Position] = {}
    keys: dict[Place, Position] = {}
    return Text(name, _plain(node, (), values, keys), values, keys)


@dataclass(frozen=True)
class _Node:
    """A value with its place in the text. ``size`` values are in it, itself counted; ``height`` levels of them."""

    value: Any
    at: Position
    keys: Mapping[str, Position] = field(default_factory=dict)
    size: int = 1
    height: int = 1


class _Composer:
    """Events of the parser -> one tree of nodes. An alias is the node itself, so nothing grows here."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name
        self._events = self._parsed()
        self._anchors: dict[str, _Node] = {}
        self._size = 0

    def document(self) -> _Node:
        root: _Node | None = None
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                if root is not None:
                    self._refuse(_at(event), "a second document begins here; a file holds one")
                if event.version not in (None, (1, 2)):
                    self._refuse(_at(event), "this is written as YAML 1.2; leave the %YAML line out")
                root = self._node(next(self._events), 1)
        return root or _Node(None, Position(1, 1))

    def _node(self, event: Any, depth: int) -> _Node:
        if isinstance(event, AliasEvent):
            return self._alias(event, depth)
        at = _at(event)
        if event.tag is not None:
            tag = str(event.tag).replace("tag:yaml.org,2002:", "!!")
            self._refuse(at, f"the tag {tag!r:.60} is not allowed; write plain data, and text in quotes")
        if depth > DEEPEST:
            self._refuse(at, f"lists and mappings may be {DEEPEST} deep at most")
        self._count(1, at)
        if isinstance(event, SequenceStartEvent):
            node = self._list(at, depth)
        elif isinstance(event, MappingStartEvent):
            node = self._mapping(at, depth)
        else:
            node = _Node(self._scalar(event), at)
        if isinstance(event, NodeEvent) and event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: AliasEvent, depth: int) -> _Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            self._refuse(_at(event), f"no anchor &{event.anchor} stands before *{event.anchor}")
        if depth + node.height - 1 > DEEPEST:
            self._refuse(_at(event), f"lists and mappings may be {DEEPEST} deep at most")
        self._count(node.size, _at(event))
        return node

    def _count(self, more: int, at: Position) -> None:
        self._size += more
        if self._size > MOST_VALUES:
            self._refuse(at, f"the document has more than {MOST_VALUES} values, those that aliases repeat counted")

    def _list(self, at: Position, depth: int) -> _Node:
        nodes: list[_Node] = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            nodes.append(self._node(event, depth + 1))
        return _Node(nodes, at, {}, *_extent(nodes))

    def _mapping(self, at: Position, depth: int) -> _Node:
        nodes: dict[str, _Node] = {}
        keys: dict[str, Position] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            place = _at(event)
            if isinstance(event, ScalarEvent) and event.style is None and event.value == "<<":
                self._refuse(
                    place, "there are no merge keys in YAML 1.2; write out what should stand here, or '<<' in quotes"
                )
            key = self._node(event, depth + 1).value
            if not isinstance(key, str):
                kind = {dict: "a mapping", list: "a list", type(None): "null", bool: "true or false"}.get(
                    type(key), "a number"
                )
                self._refuse(place, f"a key must be text, not {kind}; write it in quotes")
            if key in nodes:
                first = keys[key]
                self._refuse(place, f"the key {key!r:.60} is there twice; the first is in line {first.line}")
            keys[key] = place
            event = next(self._events)
            node = self._node(event, depth + 1)
            empty = isinstance(event, ScalarEvent) and event.style is None and not event.value and event.anchor is None
            nodes[key] = replace(node, at=place) if empty else node  # what is not there has the place of what follows
        return _Node(nodes, at, keys, *_extent(list(nodes.values())))

    def _scalar(self, event: ScalarEvent) -> Any:
        text: str = event.value
        if event.style is None:
            if text in _NULL:
                return None
            if text in _TRUTH:
                return _TRUTH[text]
            number = self._number(text, _at(event))
            if number is not None:
                return number
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            try:  # JSON writes one character as two of these
                return text.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError:
                self._refuse(_at(event), "half of a surrogate pair is no character")
        return text

    def _number(self, text: str, at: Position) -> int | float | None:
        if not text[0].isascii() or text[0] not in "+-.0123456789":
            return None
        if len(text) > _MOST_DIGITS and (_WHOLE.fullmatch(text) or _REAL.fullmatch(text)):
            self._refuse(at, f"a number has {_MOST_DIGITS} digits at most")
        if _WHOLE.fullmatch(text):
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        if _REAL.fullmatch(text):
            if math.isinf(number := float(text)):
                self._refuse(at, "this number is too large; one without end is .inf")
            return number
        if infinite := _INFINITE.fullmatch(text):
            return -math.inf if infinite[1] == "-" else math.inf
        return math.nan if text in _NAN else None

    def _parsed(self) -> Iterator[Any]:
        try:
            yield from YAML(typ="safe", pure=True).parse(self._text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            at = Position(1, 1) if mark is None else Position(mark.line + 1, mark.column + 1)
            self._refuse(at, _explained(error))
        except ReaderError as error:
            at = _position(self._text[: error.position])
            code = error.character if isinstance(error.character, int) else ord(error.character)
            self._refuse(at, f"the character U+{code:04X} is not allowed in a file")
        except Exception as error:  # what else it raises on text that is no YAML is written nowhere
            self._refuse(Position(1, 1), f"this is no YAML: {error}")

    def _refuse(self, at: Position, why: str) -> NoReturn:
        raise ConfigError(_told(self._name, at, why))


def _plain(node: _Node, place: Place, values: dict[Place, Position], keys: dict[Place, Position]) -> Any:
    values[place] = node.at
    if isinstance(node.value, list):
        return [_plain(item, (*place, number), values, keys) for number, item in enumerate(node.value)]
    if isinstance(node.value, dict):
        keys.update({(*place, key): at for key, at in node.keys.items()})
        return {key: _plain(item, (*place, key), values, keys) for key, item in node.value.items()}
    return node.value


def _extent(nodes: list[_Node]) -> tuple[int, int]:
    return 1 + sum(node.size for node in nodes), 1 + max((node.height for node in nodes), default=0)


def _explained(error: MarkedYAMLError) -> str:
    problem = str(error.problem or error.context or "this is no YAML")
    if "'\\t'" in problem:
        return "a tab cannot indent; use spaces"
    if "<block end>" in problem:
        return "this does not belong to what is above it: parts of one list or mapping begin in the same column"
    if problem.startswith("mapping values are not allowed"):
        return "no key can stand here: it is not in the column of the others, or this is text, which needs quotes for its ': '"
    context = f"{error.context}: " if error.problem and error.context else ""
    return " ".join(f"{context}{problem}".split())


def _at(event: Any) -> Position:
    return Position(event.start_mark.line + 1, event.start_mark.column + 1)


def _position(before: str) -> Position:
    """The place behind the text ``before``."""
    return Position(before.count("\n") + 1, len(before) - before.rfind("\n"))


def _told(name: str, at: Position, why: str) -> str:
    return f"{name}:{at.line}:{at.column}: {why}"
