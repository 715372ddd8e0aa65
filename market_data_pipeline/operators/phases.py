"""Which trades count by their ``phase``: live ones, or also history that a feed sends when it is subscribed to.

================================= ============================== ===================================
phases                            trade with phase ``live``      trade with phase ``snapshot``
================================= ============================== ===================================
``("live",)``, the default        counts                         left out, counted (``not_live``)
``("live", "snapshot")``, None    counts                         counts
``("snapshot",)``                 left out, ``not_live``         counts
================================= ============================== ===================================

Trades without the field are live, and cost nothing.
"""

from __future__ import annotations

import numpy as np

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import Columns
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.records import PHASES

Phases = tuple[str, ...] | None
"""Names of phases; ``None`` for every one, also such as are not in ``PHASES``."""
LIVE: tuple[str, ...] = ("live",)
_FIELD = "phase"


def check_phases(phases: Phases) -> Phases:
    """``phases``. Raises ``ConfigError`` unless it is ``None`` or a tuple of some of ``PHASES``."""
    if phases is not None and (not isinstance(phases, tuple) or not phases or not set(phases) <= set(PHASES)):
        raise ConfigError(f"phases: {phases!r} is not allowed; None, or a tuple of: {', '.join(PHASES)}")
    return phases


def in_phases(items: Columns, phases: Phases, ctx: OperatorContext) -> Columns:
    """The ``items`` of ``phases``; the others are counted (``not_live``)."""
    if phases is None:
        return items
    if _FIELD in items.data:
        column = items.dictionary(_FIELD)
        wanted = np.array([name in phases for name in column.names] or [True])[column.codes]
    elif set(LIVE) <= set(phases):
        return items
    else:
        wanted = np.zeros(len(items), bool)
    left_out = len(items) - int(np.count_nonzero(wanted))
    if not left_out:
        return items
    ctx.count("not_live", left_out)
    return items.take(wanted)
