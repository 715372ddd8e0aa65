"""Workers are replaced one by one under load: no partition stands still for long, and the output is equal."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.rolling import upgrade

from market_data_pipeline.store.embedded import EmbeddedServer

LEASE_SECONDS = 30.0


@pytest.mark.parametrize("kind", ["surge", "pinned"])
def test_workers_are_replaced_one_by_one(
    server: EmbeddedServer, tmp_path: Path, kind: str, record_property: pytest.RecordProperty
) -> None:
    """How long is measured by scripts/bench/upgrade. The bound here only tells an upgrade from a stop: polite leavers never
    make anybody wait for a lease to run out, and one is much longer than a busy machine takes for all the rest."""
    done = upgrade(server.url, tmp_path, kind, {"MDP_LEASE_TTL_MS": str(int(LEASE_SECONDS * 1000))})
    record_property("longest_stop_seconds", round(done.longest, 3))
    print(f"{kind}: longest stop of a partition {done.longest:.3f} s, of the median one {done.typical:.3f} s")
    assert done.longest < LEASE_SECONDS
