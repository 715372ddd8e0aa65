"""KEDA and an HPA, simulated by their documented rules with what the chart renders, start and stop real workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.scaled_job import BURST, CALM, quick, scaled_job

from market_data_pipeline.store.embedded import EmbeddedServer

MOST, TARGET = 4, 15


@pytest.mark.parametrize("signal", ["streams", "coordinator"])
def test_a_burst_scales_up_and_down_again(server: EmbeddedServer, tmp_path: Path, signal: str) -> None:
    """1 -> 4 -> 1. The phases end when it has happened, not after a time, so a slow machine only takes longer."""
    with scaled_job(server, tmp_path, quick(MOST, TARGET, signal)) as running:
        running.paced.pace(CALM)
        running.run(
            lambda seen: running.paced.counted("source", "out") > 2 * CALM and seen.replicas == 1, "one to be enough"
        )
        running.paced.pace(BURST)
        running.run(lambda seen: seen.replicas == MOST, "four workers")
        running.run(lambda _: set(running.workers.running) <= set(running.paced.owners().values()), "shares for all")
        running.paced.pace(CALM)
        running.run(lambda seen: seen.replicas == 1, "one worker again")
        assert max(sample.backlog for sample in running.samples) > TARGET * (MOST - 1) * 0.9
        running.finish()
