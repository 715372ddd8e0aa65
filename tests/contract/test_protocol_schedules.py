"""The commit protocol: ten thousand seeded schedules of its model against the real scripts on a real server.

A failure names the schedule and the step; ``play(range(seed, seed + 1), STEPS)`` plays it alone (schedules of a batch with
full memory need the whole batch).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from tools.schedule_player import Player
from tools.schedules import Schedule

from market_data_pipeline.store.client import connect_blocking
from market_data_pipeline.store.embedded import EmbeddedServer

STEPS = 20
BATCH = 100
CHUNK = 500
CHUNKS = 20
"""Of 500 schedules each, on Valkey; an installed redis-server plays two more."""

OUTCOMES = {
    "OK", "DUP", "OOM", "JOB", "FENCED", "LOST", "STALE", "HEAD", "FULL", "GAP",
    "Attempt OK", "Attempt FENCED", "Attempt LOST", "Attempt STALE",
    "Assign", "ReplaceJob", "DeleteRecord", "DeleteEntry", "ClearLetters", "Remember", "RollBack",
}  # fmt: skip


@pytest.fixture(scope="module")
def valkey() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


@pytest.fixture(scope="module")
def redis_server() -> Iterator[EmbeddedServer]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server on PATH")
    with EmbeddedServer(None, binary) as running:
        yield running


def play_chunk(server: EmbeddedServer, first: int) -> None:
    with connect_blocking(server.url) as client:
        player = Player(client)
        for start in range(first, first + CHUNK, BATCH):
            # in one batch of each chunk the server's memory is full for a while
            full = range(7, 11) if start == first else range(0)
            player.play(range(start, start + BATCH), STEPS, full)
    assert player.seen.keys() == OUTCOMES, "the schedules do not reach everything"


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_script_does_what_the_model_does(valkey: EmbeddedServer, chunk: int) -> None:
    play_chunk(valkey, chunk * CHUNK)


@pytest.mark.parametrize("chunk", range(CHUNKS, CHUNKS + 2))
def test_the_script_does_what_the_model_does_on_redis(redis_server: EmbeddedServer, chunk: int) -> None:
    play_chunk(redis_server, chunk * CHUNK)


def test_equal_seeds_give_equal_schedules() -> None:
    """Or a failure could not be played again."""
    one, other, another = (Schedule(seed, "u") for seed in (7, 7, 8))
    steps = [one.step() for _ in range(STEPS)]
    assert steps == [other.step() for _ in range(STEPS)]
    assert steps != [another.step() for _ in range(STEPS)]
