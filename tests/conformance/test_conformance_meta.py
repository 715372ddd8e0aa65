"""The suite can fail: wrong expectations, dropped steps and broken operators are caught, mistakes in a case are named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from market_data_pipeline.frame import NO_MARK, Frame, to_rows
from market_data_pipeline.operators.bars import TumblingBars
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.operators.window import TumblingWindow

from .case import Case, CaseError, operator_names, read_all, read_text
from .items import Expected, same, time_of
from .play import VARIANTS, Mismatch, Variant, play, variants_of

GIVEN = Variant()
BARS = """
- name: bars
  operator: TumblingBars("1s", late="side_output")
  steps:
    - in: [A 0.5s 10 x 1, B 0.2s 5 x 2, A 0.1s 9 x 1]
    - {mark: 1s, out: ["A [0s, 1s) 9 10 9 10 2 9.5 2", "B [0s, 1s) 5 5 5 5 2 5 1"], watermark: 1s}
    - {in: [A 0.9s 1 x 1], to: {late: [A 0.9s 1 x 1]}}
    - in: [A 1.5s 11 x 1]
    - {end: true, out: ["A [1s, 2s) 11 11 11 11 1 11 1"]}
  counts: {late: 1}
"""


def the_case(text: str = BARS, **names: Any) -> Case:
    (case,) = read_text(text, "test.yaml", operator_names() | names)
    return case


def failures(case: Case) -> dict[str, str]:
    """By variant, why ``case`` fails."""
    found = {}
    for variant in variants_of(case):
        try:
            play(case, variant)
        except Mismatch as mismatch:
            found[str(variant)] = str(mismatch)
    return found


def test_the_case_itself_is_right() -> None:
    assert failures(the_case()) == {}


# --- wrong expectations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "wrong", "where"),
    [
        ("9 10 9 10 2 9.5 2", "9 10 9 10 2 9.5 3", "steps[1].out"),
        ("9 10 9 10 2 9.5 2", "9 10 9 10 2 9.500001 2", "steps[1].out"),
        ("A [0s, 1s)", "C [0s, 1s)", "steps[1].out"),
        ('"A [0s, 1s) 9 10 9 10 2 9.5 2", ', "", "steps[1].out"),
        ("{late: [A 0.9s 1 x 1]}", "{late: []}", "steps[2].to.late"),
        ("to: {late: [A 0.9s 1 x 1]}", "out: [A 0.9s 1 x 1]", "steps[2]"),
        ("{late: 1}", "{late: 2}", "counts.late"),
        ("counts: {late: 1}", "counts: {}", "counts.late"),
        ("counts: {late: 1}", "counts: {late: 1, lost: 1}", "counts.lost"),
        ("counts: {late: 1}", "counts: {late: 1}\n  rejected: [A 0s 1 x 1]", "rejected"),
        ("counts: {late: 1}", "counts: {late: 1}\n  state: 0", "state"),
        ("watermark: 1s", "watermark: 2s", "steps[1].watermark"),
        ("watermark: 1s", "idle_out: true", "steps[1].idle_out"),
        ('"A [1s, 2s) 11 11 11 11 1 11 1"]', '"A [1s, 2s) 11 11 11 11 1 11 1", A 0s 1 x 1]', "steps[4].out"),
    ],
)
def test_a_wrong_expectation_fails_in_every_variant_and_names_the_place(right: str, wrong: str, where: str) -> None:
    assert right in BARS
    case = the_case(BARS.replace(right, wrong))
    found = failures(case)
    assert found.keys() == {str(variant) for variant in variants_of(case)}
    assert all("test.yaml: 'bars'" in text and where in text for text in found.values())


def test_a_bar_one_step_too_early_or_too_late_is_seen() -> None:
    step = '{mark: 1s, out: ["A [0s, 1s) 9 10 9 10 2 9.5 2", "B [0s, 1s) 5 5 5 5 2 5 1"], watermark: 1s}'
    bars = '["A [0s, 1s) 9 10 9 10 2 9.5 2", "B [0s, 1s) 5 5 5 5 2 5 1"]'
    assert step in BARS
    early = BARS.replace(step, f"{{mark: 0.9s, out: {bars}}}\n    - {{mark: 1s, out: []}}")
    late = BARS.replace(step, f"{{mark: 1s, out: []}}\n    - {{mark: 1.1s, out: {bars}}}")
    for text in (early, late):
        case = the_case(text)
        assert len(failures(case)) == len(variants_of(case))


def test_order_counts_where_the_case_says_so() -> None:
    text = """
- name: doubles
  operator: 'Map(lambda n: 2 * n)'
  items: plain
  key: null
  steps: [{in: [1, 2], out: [4, 2]}]
"""
    assert failures(the_case(text)) == {}
    assert failures(the_case(text.replace("key: null", "key: null\n  order: fixed")))


@pytest.mark.parametrize("case", read_all(), ids=str)
def test_no_case_holds_without_one_of_its_steps_that_matters(case: Case) -> None:
    """Without the items of a step, something that is expected does not come (or one of the counters is wrong)."""
    steps = [step for step in case.steps if step.items]
    for step in steps:
        dropped = replace(case, steps=tuple(replace(s, items=()) if s is step else s for s in case.steps))
        with pytest.raises(Mismatch):
            play(dropped, GIVEN)
    for step in case.steps:
        if step.marks and any(step.out.values()):
            dropped = replace(case, steps=tuple(replace(s, marks={}) if s is step else s for s in case.steps))
            with pytest.raises(Mismatch):
                play(dropped, GIVEN)
    assert case.steps


def _rows_of_the_page() -> list[str]:
    """The first cell of each row of each table in docs/operators.md."""
    lines = Path(__file__).parents[2].joinpath("docs/operators.md").read_text().splitlines()
    ruled = {n for n, line in enumerate(lines) if line.startswith("|---")}
    rows = [line for n, line in enumerate(lines) if line.startswith("|") and not {n, n + 1} & ruled]
    return [row.split("|")[1].strip() for row in rows]


def test_every_row_of_the_page_of_operators_is_a_case() -> None:
    rows = _rows_of_the_page()
    assert len(rows) == len(set(rows)) > 60
    assert {row for case in read_all() for row in case.rows} == set(rows)


# --- broken operators -------------------------------------------------------------------------------------------


class Forgetful(TumblingBars):
    """Loses its state at a restart."""

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        super().restore({}, watermark)


class Unmarked(TumblingBars):
    """Loses the watermark at a restart: late items pass as on time."""

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        super().restore(state)


class Hasty(TumblingBars):
    """Fires a nanosecond too early."""

    def advance(self, watermark: int) -> Iterable[Frame]:
        return super().advance(min(watermark + 500_000_000, 2**63 - 1))


class PerFrame(Operator):
    """Says how many items came in each frame."""

    def process(self, frame: Frame) -> Iterable[Frame]:
        return (Frame([len(frame.items)]),)


class First(Operator):
    """Only the first item that ever came passes: depends on order, and on what other keys there are."""

    def __init__(self) -> None:
        self._seen = False

    def process(self, frame: Frame) -> Iterable[Frame]:
        rows = [] if self._seen else to_rows(frame.items)[:1]
        self._seen = True
        return (Frame(rows),)

    def snapshot(self) -> dict[str, bytes | None]:
        return {"seen": b"1"} if self._seen else {}

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        self._seen = "seen" in state


class OnlyRows(TumblingWindow):
    """Loses what comes in columns."""

    accepts = "any"  # type: ignore[assignment]

    def process(self, frame: Frame) -> Iterable[Frame]:
        return super().process(frame) if isinstance(frame.items, list) else ()


def caught(case: Case, wanted: Callable[[Variant], bool]) -> None:
    """Fails unless ``case`` fails in just those of its variants that are ``wanted``."""
    assert failures(case).keys() == {str(variant) for variant in variants_of(case) if wanted(variant)}


def test_lost_state_is_seen_by_every_variant_with_restarts() -> None:
    def apart(variant: Variant) -> bool:
        """A frame that brings its mark leaves no state behind it, where all items come in it."""
        return variant.restart and variant.frames != "joined"

    caught(the_case(BARS.replace("TumblingBars", "Forgetful"), Forgetful=Forgetful), apart)


def test_a_lost_watermark_is_seen_by_every_variant_with_restarts() -> None:
    caught(the_case(BARS.replace("TumblingBars", "Unmarked"), Unmarked=Unmarked), lambda v: v.restart)


def test_a_window_that_fires_too_early_is_seen_by_every_variant() -> None:
    text = BARS.replace("TumblingBars", "Hasty").replace("{mark: 1s,", "{mark: 0.6s, out: []}\n    - {mark: 1s,")
    caught(the_case(text, Hasty=Hasty), lambda _: True)


def test_dependence_on_frames_is_seen() -> None:
    text = """
- name: frames
  operator: PerFrame()
  items: plain
  key: null
  steps: [{in: [1, 2], out: [2]}, {in: [3], out: [1]}, {mark: 1s}]
"""
    caught(the_case(text, PerFrame=PerFrame), lambda v: v.frames != "given")


def test_dependence_on_order_and_on_other_keys_is_seen() -> None:
    items = ", ".join(f"{symbol} 0s n={n}" for n, symbol in enumerate("ABCDEFGH"))
    text = f"""
- name: first
  operator: First()
  items: event
  steps: [{{in: [{items}], out: [A 0s n=0]}}, {{mark: 1s}}]
"""
    found = failures(the_case(text, First=First)).keys()
    shuffled = {str(variant) for variant in VARIANTS if variant.shuffle is not None}
    split = {str(variant) for variant in VARIANTS if variant.partitions > 1}
    assert split <= found <= split | shuffled
    assert len(found & shuffled - split) >= 2, "a permutation may leave the first item where it was"


def test_a_lost_column_is_seen() -> None:
    text = """
- name: columns
  operator: OnlyRows("1s", key="symbol")
  steps:
    - in: [A 0s 1 x 1]
    - {mark: 1s, out: [{key: A, ts_open: 0s, ts_close: 1s, items: [A 0s 1 x 1]}]}
"""
    caught(the_case(text, OnlyRows=OnlyRows), lambda v: v.columns)


# --- mistakes in a case -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("operator: TumblingBars", "operator: TumblingBar", r"'bars': operator: NameError: .*'TumblingBar'"),
        ('("1s", late="side_output")', '("1y")', r"'bars': operator: ConfigError: interval: '1y'"),
        ('TumblingBars("1s", late="side_output")', "Lateness()", r"'bars': operator: .* is no operator"),
        ("operator:", "operater:", r"'bars': operater: unknown; there are: .*operator"),
        (
            "A 0.5s 10 x 1",
            "A 0.5s ten x 1",
            r"'bars': steps\[0\]\.in\[0\]: ValueError: .* write it like: A 0.1s 10 x 1",
        ),
        ("B 0.2s 5 x 2", "B 0.2parsec 5 x 2", r"'bars': steps\[0\]\.in\[1\]: ConfigError: time: '0.2parsec'"),
        ("{mark: 1s, out", "{mark: soon, out", r"'bars': steps\[1\]\.mark: ConfigError: time: 'soon'"),
        (
            "{mark: 1s, out",
            "{mark: {left: 1s}, out",
            r"'bars': steps\[1\]\.mark: there is no input 'left'; there are: in",
        ),
        ("{end: true, out", "{end: true, mark: 2s, out", r"'bars': steps\[4\]: exactly one of in, .*, not 2"),
        ("{end: true, out", "{ende: true, out", r"'bars': steps\[4\]\.ende: unknown"),
        ("9 10 9 10 2 9.5 2", "9 10 9", r"'bars': steps\[1\]\.out\[0\]: ValueError"),
        ("counts: {late: 1}", "counts: [late]", r"'bars': counts: names with whole numbers"),
        ("counts: {late: 1}", "order: random", r"'bars': order: 'random' is not allowed"),
        ("counts: {late: 1}", "items: tick", r"'bars': items: 'tick' is not allowed; one of: trade, quote"),
        ("counts: {late: 1}", "on_error: panic", r"'bars': on_error: 'panic'"),
        ("counts: {late: 1}", "sources: {in: {delay: 1s}}", r"'bars': sources.in.delay: unknown"),
        ("counts: {late: 1}", "sources: {in: {max_delay: x}}", r"'bars': sources.in.max_delay: ConfigError"),
        ("counts: {late: 1}", "epoch: yesterday", r"'bars': epoch: ConfigError"),
        ("- name: bars\n ", "-", r"test.yaml: case 1: name: every case"),
        ("- name: bars", "- name: [", r"test.yaml: while parsing"),
    ],
)
def test_a_mistake_is_named_with_file_case_and_field(right: str, wrong: str, message: str) -> None:
    assert right in BARS
    with pytest.raises(CaseError, match=message) as caught_error:
        the_case(BARS.replace(right, wrong, 1))
    assert str(caught_error.value).startswith("test.yaml: ")


def test_a_case_that_expects_nothing_and_a_name_that_is_there_twice_are_mistakes() -> None:
    with pytest.raises(CaseError, match="'x': steps: nothing is expected"):
        read_text("[{name: x, operator: Batcher(1), steps: [{in: []}]}]", "test.yaml")
    with pytest.raises(CaseError, match="'bars': name: there is another case"):
        read_text(BARS + BARS, "test.yaml")
    with pytest.raises(CaseError, match=r"test.yaml: a list of cases is wanted, not dict"):
        read_text("name: x", "test.yaml")


@pytest.mark.parametrize(
    ("value", "nanos"),
    [
        ("0.5s", 500_000_000), ("-3m", -180_000_000_000), (7, 7), ("2026-03-08T14:30:00Z", 1_772_980_200_000_000_000),
        ("2026-03-08T14:30:00+01:00", 1_772_976_600_000_000_000),
    ],
)  # fmt: skip
def test_times(value: Any, nanos: int) -> None:
    assert time_of(value) == nanos


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (1, 1.0, True), (1, True, False), (1.0, 1.0 + 1e-12, True), (1.0, 1.0 + 1e-6, False), (None, 0, False),
        (float("nan"), float("nan"), True), ([1, 2], [2, 1], False), ({"a": 1}, {"a": 1, "b": 2}, False), ("1", 1, False),
        (2**60, 2**60 + 1, False),
    ],
)  # fmt: skip
def test_equality(a: Any, b: Any, equal: bool) -> None:
    assert same(a, b) == same(b, a) == equal


def test_a_mapping_names_all_fields_of_a_dict_and_some_of_a_record() -> None:
    wanted = Expected({"symbol": "A"}, "event", 0)
    assert not wanted.matches({"symbol": "A", "n": 1}, ordered=True)
    assert wanted.matches({"symbol": "A"}, ordered=True)
    (case,) = (c for c in read_all() if c.name == "symbols have their own bars")
    bar = next(iter(case.steps[2].out[""]))
    assert not bar.matches({"symbol": "A"}, ordered=True)
