"""Items as the bytes of frames, for tests that look at the bytes alone."""

from __future__ import annotations

from typing import Any

from market_data_pipeline.codec import decode, encode_items
from market_data_pipeline.packing import Rejected


def encoded(*args: Any, **options: Any) -> tuple[list[bytes], list[Rejected]]:
    """What ``encode_items`` gives, after a look at its counts."""
    frames, rejected = encode_items(*args, **options)
    assert [items for _, items in frames] == [len(decode(blob, 2**30).frame.items) for blob, _ in frames]
    return [blob for blob, _ in frames], rejected
