"""The course of a scaled job, as text and as a picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.scaled_job import Sample
from tools.scaling_chart import HEADER, bar, draw, line


@pytest.mark.parametrize(
    ("value", "text"), [(0, "    "), (1, "▍   "), (5, "██  "), (9.9, "███▉"), (10, "████"), (99, "████"), (-1, "    ")]
)
def test_bars_are_filled_in_eighths(value: float, text: str) -> None:
    assert bar(value, 10, 4) == text


def test_lines_are_as_wide_as_the_header() -> None:
    shown = line(Sample(12.34, 96, 3, 15_000.4, 30_000), 384, 4)
    assert len(shown) == len(HEADER)
    assert shown.split() == ["12.3s", "96", "█████████", "3", "■■■·", "15,000", "30,000"]


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    samples = [Sample(n / 2, 10 * n, 1 + n % 4, 1000.0 * n, 2000) for n in range(10)]
    draw(samples, 15, 4, tmp_path / "course.png")
    assert (tmp_path / "course.png").read_bytes().startswith(b"\x89PNG\r\n")
