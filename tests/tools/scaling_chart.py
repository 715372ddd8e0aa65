"""The course of a scaled job as lines of text while it runs, and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from tools.scaled_job import Sample

WIDTH = 36
_EIGHTHS = " ▏▎▍▌▋▊▉"
HEADER = f"{'time':>6}  {'frames waiting':<{WIDTH + 6}}  {'workers':<10}  {'items/s':>8}  {'offered':>8}"


def bar(value: float, largest: float, width: int = WIDTH) -> str:
    """``width`` characters, filled in eighths up to ``value / largest``. What is above the largest fills it."""
    eighths = math.floor(min(max(value / largest, 0.0), 1.0) * width * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(width)


def line(sample: Sample, largest: float, most: int) -> str:
    """One sample. ``largest``: backlog of a full bar; ``most``: replicas at most."""
    workers = "■" * sample.replicas + "·" * (most - sample.replicas)
    return (
        f"{sample.at:5.1f}s  {sample.backlog:5d} {bar(sample.backlog, largest)}  {sample.replicas} {workers:<8}"
        f"  {sample.rate:8,.0f}  {sample.pace:8,.0f}"
    )


def draw(samples: Sequence[Sample], target: int, most: int, path: Path) -> None:
    """The picture, as PNG: items per second, backlog, workers, one below the other. Needs matplotlib."""
    import matplotlib as mpl  # noqa: PLC0415 - only for a picture
    from matplotlib.figure import Figure  # noqa: PLC0415

    at = [sample.at for sample in samples]
    blue, orange, grey = "#1f5fa8", "#d9730d", "#8a8f98"
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold"}
    with mpl.rc_context(style):
        figure = Figure(figsize=(8, 6.2), layout="constrained")
        rates, backlog, workers = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 2])
        rates.step(at, [s.pace for s in samples], color=grey, linestyle="--", where="pre", label="offered")
        rates.plot(at, [s.rate for s in samples], color=blue, label="taken from the streams")
        rates.set_title("Items per second", loc="left")
        rates.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        rates.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)
        backlog.fill_between(at, [s.backlog for s in samples], color=orange, alpha=0.25, linewidth=0)
        backlog.plot(at, [s.backlog for s in samples], color=orange)
        backlog.set_title("Frames waiting in all streams (dotted: where one worker more is wanted)", loc="left")
        for number in range(1, most):
            backlog.axhline(number * target, color=grey, linestyle=":", linewidth=0.8)
        workers.fill_between(at, [s.replicas for s in samples], step="post", color=blue, alpha=0.2, linewidth=0)
        workers.step(at, [s.replicas for s in samples], where="post", color=blue)
        workers.set_title("Workers", loc="left")
        workers.set_yticks(range(most + 1))
        workers.set_xlabel("seconds")
        for axes in (rates, backlog, workers):
            axes.set_ylim(bottom=0)
            axes.set_xlim(0, at[-1])
            axes.grid(axis="x", color="#e4e6ea", linewidth=0.6)
        figure.savefig(path, format="png", dpi=130)
