"""Finite decimal numbers as text, as venues send them: ``"0.10"``, ``"-37.63"``, ``"1e-8"``."""

from __future__ import annotations

import math
import re

_DECIMAL = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def decimal_float(text: str) -> float:
    """The float nearest to ``text``. Raises ``ValueError`` for what is no finite decimal number, or too large for a float:
    no spaces, underscores, ``nan``, ``inf``, digits of other scripts."""
    if _DECIMAL.fullmatch(text) is None:
        raise ValueError(f"{text!r:.100} is no decimal number")
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text!r:.100} is too large for a float")
    return number


def decimal_text(text: str) -> str:
    """``text`` as it is. Raises as :func:`decimal_float`."""
    decimal_float(text)
    return text
