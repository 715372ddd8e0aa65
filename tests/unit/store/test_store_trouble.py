"""What tasks wait for, from the heartbeat to the status."""

from __future__ import annotations

import json
from dataclasses import asdict

from market_data_pipeline.store.control import Heartbeat
from market_data_pipeline.store.trouble import Trouble, grouped


def test_equal_texts_stand_once_with_the_number_of_tasks() -> None:
    troubles = [Trouble("out/0", "db: refused"), Trouble("in/0", "feed a: away"), Trouble("out/3", "db: refused", 4)]
    assert grouped(troubles) == [Trouble("out/0", "db: refused", 5), Trouble("in/0", "feed a: away")]
    assert [str(trouble) for trouble in grouped(troubles)] == [
        "waits: task out/0 and 4 more: db: refused",
        "waits: task in/0: feed a: away",
    ]


def test_a_text_is_one_line_of_at_most_300_characters() -> None:
    short, long = grouped([Trouble("a/0", "one\n  two\t"), Trouble("b/0", "x" * 301)])
    assert short.text == "one two"
    assert long.text == "x" * 297 + "..."
    assert grouped([Trouble("a/0", "x" * 300)])[0].text == "x" * 300


def test_without_a_text_there_is_no_trouble() -> None:
    assert grouped([Trouble("a/0", ""), Trouble("b/0", " \n")]) == []


def test_a_well_workers_heartbeat_says_nothing_of_troubles() -> None:
    well = Heartbeat("w", "token", (1, 2))
    assert "troubles" not in json.loads(well.to_json())
    assert Heartbeat.from_json(well.to_json()) == well
    waiting = Heartbeat("w", "token", (), 7, "here", 80, (Trouble("out/3", "db: refused", 2),))
    assert Heartbeat.from_json(waiting.to_json()) == waiting


def test_a_later_versions_heartbeat_may_say_more() -> None:
    said = json.dumps({**asdict(Heartbeat("w", "token")), "mood": "good"})
    assert Heartbeat.from_json(said) == Heartbeat("w", "token")
