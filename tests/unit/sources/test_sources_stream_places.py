"""Whether entries of a stream went before they were read: judged from what a real server says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from market_data_pipeline.sources.stream_places import (
    NO_STREAM,
    Loss,
    Place,
    StreamState,
    beginning,
    behind,
    known,
    loss,
    parsed_id,
    stream_state,
)
from market_data_pipeline.store.client import connect_blocking
from market_data_pipeline.store.embedded import EmbeddedServer


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


def state_after(server: EmbeddedServer, *steps: tuple[str, ...]) -> StreamState:
    """Of a stream with entries 1-0 to 10-0, to which ``steps`` were done."""
    with connect_blocking(server.url) as client:
        client.flushall()
        for i in range(1, 11):
            client.execute_command("XADD", "s", f"{i}-0", "a", i)
        for step in steps:
            client.execute_command(*step)
        return stream_state(client.xinfo_stream("s"))


def test_nothing_is_lost_of_a_whole_stream(server: EmbeddedServer) -> None:
    state = state_after(server)
    assert state == StreamState(10, 10, "1-0", "10-0")
    assert beginning(state, "earliest") == Place("0-0", 0)
    assert beginning(state, "latest") == Place("10-0", 10)
    assert loss(Place("0-0", 0), state) is None
    assert loss(Place("5-0", 5), state) is None


@pytest.mark.parametrize(("read", "missing"), [(0, 7), (5, 2), (6, 1), (7, 0), (10, 0)])
def test_what_was_trimmed_before_it_was_read(server: EmbeddedServer, read: int, missing: int) -> None:
    state = state_after(server, ("XTRIM", "s", "MAXLEN", "3"))
    found = loss(Place(f"{read}-0", read), state)
    assert found == (Loss(read + 1, 7, missing, False) if missing else None)
    if found is not None:
        assert behind(found, state) == Place(f"7-{2**64 - 1}", 7), "8-0 is the next that comes"


def test_all_was_trimmed(server: EmbeddedServer) -> None:
    state = state_after(server, ("XTRIM", "s", "MAXLEN", "0"))
    found = loss(Place("4-0", 4), state)
    assert found == Loss(5, 10, 6, False)
    assert behind(found, state) == Place("10-0", 10)
    assert loss(Place("10-0", 10), state) is None


def test_a_stream_that_is_another_one(server: EmbeddedServer) -> None:
    state = state_after(server, ("DEL", "s"), ("XADD", "s", "3-0", "a", "1"))
    for place in (Place("5-0", 5), Place("2-0", 2)):
        assert loss(place, state) == Loss(0, 0, 0, True)
    assert loss(Place("5-0", 5), NO_STREAM) == Loss(0, 0, 0, True)
    assert behind(Loss(0, 0, 0, True), state) == Place("0-0", 0)


def test_an_entry_deleted_by_hand_is_forgotten_at_the_end(server: EmbeddedServer) -> None:
    state = state_after(server, ("XDEL", "s", "4-0"))
    assert loss(Place("3-0", 3), state) is None
    assert known(Place("10-0", 9), state) == Place("10-0", 10)
    later = state_after(server, ("XDEL", "s", "4-0"), ("XADD", "s", "11-0", "a", "1"), ("XTRIM", "s", "MAXLEN", "1"))
    assert loss(Place("10-0", 10), later) is None


def test_where_a_start_at_an_id_is(server: EmbeddedServer) -> None:
    state = state_after(server)
    assert beginning(state, "4-0") == Place("4-0", None)
    assert beginning(state, "10-0") == Place("10-0", 10)
    assert loss(Place("4-0", None), state_after(server, ("XTRIM", "s", "MAXLEN", "1"))) is None, "nobody knows"
    assert beginning(NO_STREAM, "earliest") == Place("0-0", 0)


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1-a", "1 -2"])
def test_ids_that_are_none(text: str) -> None:
    if text == "1-":
        assert parsed_id(text) == (1, 0)
        return
    with pytest.raises(ValueError, match="is not an entry's id"):
        parsed_id(text)
