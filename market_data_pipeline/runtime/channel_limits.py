"""What holds for the streams of one channel: the sizes that the settings give to all, or those of its edge. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from market_data_pipeline.channels.base import Watermark
from market_data_pipeline.dag.options import ChannelOptions
from market_data_pipeline.dag.plan import Plan, PlanEdge
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.runtime.contract import Limits


class ChannelLimits(NamedTuple):
    """Of each stream of one channel: capacity in frames and in bytes, and its levels in frames."""

    capacity: int
    bytes: int
    levels: Watermark


def channel_limits(edge: PlanEdge, limits: Limits) -> ChannelLimits:
    """Those of ``edge``: what it says itself, else ``limits``. Levels that are not given are the settings' shares of the edge's
    own capacity. Raises ``ConfigError`` naming the edge for a capacity that two commits do not fit in (a commit could wait for
    ever), and for levels above it."""
    own = edge.channel
    if own is None:
        return ChannelLimits(limits.channel_capacity, limits.channel_bytes, Watermark(limits.high, limits.low))
    where = f"edge {edge.src} -> {edge.dst}"
    capacity = limits.channel_capacity if own.capacity is None else own.capacity
    size = limits.channel_bytes if own.bytes is None else own.bytes
    if capacity < 2 * limits.commit_frames:
        raise ConfigError(
            f"{where}: capacity={capacity} must be at least twice commit_frames={limits.commit_frames}, or a commit could wait"
            " for ever"
        )
    if size < 2 * limits.commit_bytes:
        raise ConfigError(
            f"{where}: bytes={size} must be at least twice commit_frames x frame_bytes = {2 * limits.commit_bytes}"
        )
    if own.levels is not None and own.levels.high > capacity:
        raise ConfigError(f"{where}: levels: high={own.levels.high} is above the capacity of {capacity}")
    return ChannelLimits(capacity, size, own.levels or _shares(own, capacity, limits))


def _shares(own: ChannelOptions, capacity: int, limits: Limits) -> Watermark:
    if own.capacity is None:
        return Watermark(limits.high, limits.low)
    return Watermark.of(capacity, limits.high_watermark_pct, limits.low_watermark_pct)


def check_channels(plan: Plan, limits: Limits) -> None:
    """Where a plan and the settings meet, before anything starts: raises the ``ConfigError`` of the first edge whose options do
    not go with them."""
    for edge in plan.channels:
        channel_limits(edge, limits)


def levels_of(plan: Plan, limits: Limits) -> Mapping[str, Watermark]:
    """The levels of every channel's streams, by the channel's name."""
    return {edge.name: channel_limits(edge, limits).levels for edge in plan.channels}
