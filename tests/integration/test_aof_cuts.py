"""The server's append-only file, cut at random bytes: what is loaded is one point of the history, and the job goes on from it.

``scripts/aof_cuts`` does the same with as many cuts as one likes.
"""

from __future__ import annotations

import pytest
from tools.aof_cuts import CutFile


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> CutFile:
    run = CutFile(tmp_path_factory.mktemp("aof"), items=60_000)
    run.record()
    return run


def test_every_cut_is_a_point_of_the_history(recorded: CutFile) -> None:
    before = recorded.figures.inside
    recorded.check(recorded.random_cuts(20, seed=2))
    assert recorded.figures.inside > before, "no cut fell into a transaction: nothing was tested"


def test_cuts_at_the_edges_of_a_commit(recorded: CutFile) -> None:
    """Its last byte, and the one before; its first bytes; inside the word EXEC."""
    last = recorded.units[-1]
    recorded.check([last.start, last.start + 1, last.start + 16, last.end - 10, last.end - 1, last.end])


def test_a_job_goes_on_from_any_cut(recorded: CutFile) -> None:
    for cut in recorded.random_cuts(5, seed=3, tail=len(recorded.aof) // 2):
        recorded.resume(cut)


def test_the_check_notices_a_transaction_that_is_missing(recorded: CutFile) -> None:
    end, units = recorded.units[-1].end, recorded.units
    commit = max(i for i, unit in enumerate(units) if len(unit.commands) > 2)
    recorded.units = units[:commit] + units[commit + 1 :]
    try:
        with pytest.raises(AssertionError, match=r"cut at byte|entries left|bytes"):
            recorded.check([end])
    finally:
        recorded.units = units
