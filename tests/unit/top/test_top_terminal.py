"""What reaches a terminal: data cannot command it, and JSON stays the same document."""

from __future__ import annotations

import io
import json
import logging
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_pipeline.frame import Frame
from market_data_pipeline.options import set_up_logging
from market_data_pipeline.sinks.stdout import Stdout
from market_data_pipeline.terminal import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \u00e9 \U0001f600 \\n", "plain \u00e9 \U0001f600 \\n"),
        ("\x1b[31m", "\\u001b[31m"),
        ("\x9b\x7f\x85", "\\u009b\\u007f\\u0085"),
        ("\u202eabc", "\\u202eabc"),
        ("a\nb\tc", "a\\u000ab\\u0009c"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\udb40\\udc41"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


def test_line_feeds_are_kept_where_they_are_ours() -> None:
    assert visible("a\n\tb\r\n", lines=True) == "a\n\\u0009b\\u000d\n"


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_is_left_and_json_is_the_same(text: str) -> None:
    left = {char for char in visible(text) if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")}
    assert not left
    assert json.loads(visible(json.dumps(text, ensure_ascii=False))) == text


def test_a_log_message_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        set_up_logging("INFO")
        try:
            raise ValueError("two\nlines \x1b[2J")
        except ValueError:
            logging.getLogger("x").error("symbol %s", "a\n2026-01-01 forged \x1b[2J", exc_info=True)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    first, *trace = out.getvalue().splitlines()
    assert first.endswith("x: symbol a\\u000a2026-01-01 forged \\u001b[2J")
    assert trace[0].startswith("Traceback")
    assert "\x1b" not in out.getvalue()


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("screen", [True, False])
async def test_the_printing_sink(monkeypatch: pytest.MonkeyPatch, screen: bool) -> None:
    out = _Screen() if screen else io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    sink = Stdout()
    await sink.write([Frame(["\x9b2J"])])
    await sink.prepare(True)
    assert out.getvalue() == ('"\\u009b2J"\n' if screen else '"\x9b2J"\n')
