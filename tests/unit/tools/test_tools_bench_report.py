"""A bench's table in a page: what is replaced, what stays, what is refused."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).resolve().parents[3] / "scripts" / "bench" / "report.py"
PAGE = "# Title\n\n<!-- bench:a -->\nold\n<!-- /bench:a -->\n\nbetween\n<!-- bench:b -->\n<!-- /bench:b -->\nend"


@pytest.fixture(scope="module")
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_report", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_only_what_is_between_the_markers_changes(report: ModuleType) -> None:
    page = report.rewritten(PAGE, "a", "new\nlines\n")
    assert page == PAGE.replace("old", "new\nlines")
    page = report.rewritten(page, "b", "table")
    assert page == PAGE.replace("old", "new\nlines").replace("<!-- bench:b -->\n", "<!-- bench:b -->\ntable\n")
    assert report.places(page) == ["a", "b"]


def test_writing_again_gives_the_same(report: ModuleType) -> None:
    once = report.rewritten(PAGE, "a", "\nline\n\n| x |\n| --- |\n| 1 |\n")
    assert report.rewritten(once, "a", "\nline\n\n| x |\n| --- |\n| 1 |\n") == once


def test_text_that_looks_like_a_pattern_is_taken_as_it_is(report: ModuleType) -> None:
    assert r"\1 \g<0>" in report.rewritten(PAGE, "a", r"\1 \g<0>")


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("", "'<!-- bench:a -->' is there 0 times"),
        ("<!-- bench:a -->\n", "'<!-- /bench:a -->' is there 0 times"),
        ("<!-- /bench:a -->\n", "'<!-- bench:a -->' is there 0 times"),
        (PAGE + "\n" + PAGE, "is there 2 times"),
        ("<!-- /bench:a -->\n<!-- bench:a -->", "stands before"),
        ("see <!-- bench:a -->\n<!-- /bench:a -->", "is there 0 times"),
    ],
)
def test_a_page_without_one_place_is_refused(report: ModuleType, page: str, message: str) -> None:
    with pytest.raises(report.NoPlace, match=message):
        report.rewritten(page, "a", "new")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("| a | b |\n| --- | --- |\n| 1 | 2 |\n", True),
        ("| a |\n| --- |\n| 1 |\n\n| b |\n| --- |\n| 1 |", True),
        ("| a |  |\n| --- | --- |\n| 1 |  |", True),
        ("", False),
        ("| a | b |\n| --- | --- |", False),
        ("| a | b |\n| --- | --- |\n| 1 |", False),
        ("| a | b |\n| 1 | 2 |\n| 1 | 2 |", False),
        ("progress\n| a |\n| --- |\n| 1 |", False),
        ("| a |\n| --- |\n| 1 |\n\ndone", False),
    ],
)
def test_tables_are_told_from_other_text(report: ModuleType, text: str, expected: bool) -> None:
    assert report.is_tables(text) is expected
