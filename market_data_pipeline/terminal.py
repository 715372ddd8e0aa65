"""Text of unknown origin on a terminal: what it would obey, or what turns the text around, is shown as an escape."""

from __future__ import annotations

import re

_HIDDEN = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0, DEL, C1: cursor, colours, titles, ...
    "\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"  # directions, line separators, invisible characters
    "\ud800-\udfff"  # lone surrogates cannot be written at all
    "\U000e0000-\U000e007f"  # tags
    "]"
)
_HIDDEN_BUT_LINES = re.compile(_HIDDEN.pattern.replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))


def visible(text: str, lines: bool = False) -> str:
    """``text`` with such characters as ``\\uXXXX`` (JSON's escape: a JSON document stays the same). ``lines`` keeps line
    feeds."""
    return (_HIDDEN_BUT_LINES if lines else _HIDDEN).sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
