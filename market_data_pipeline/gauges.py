"""The names of what a source or a sink may measure of something it has several of: its feeds, its circuits."""

from typing import Literal

GaugeName = Literal["circuit_state", "route_symbols"]
"""``circuit_state``: 0 closed, 1 half-open, 2 open. ``route_symbols``: how many symbols a provider brings now."""
