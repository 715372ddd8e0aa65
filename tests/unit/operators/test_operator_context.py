"""The operator's contract: what it may tell its runtime, and the defaults of the base class."""

from collections.abc import Iterable

import pytest

from market_data_pipeline.errors import OperatorFailed
from market_data_pipeline.frame import END, Frame
from market_data_pipeline.operators.base import ON_ERROR, DeadLetter, Operator, OperatorContext


class Passing(Operator):
    def process(self, frame: Frame) -> Iterable[Frame]:
        return (frame,)


def test_counts_add_up_and_zero_leaves_no_trace() -> None:
    ctx = OperatorContext("n", 3)
    ctx.count("late")
    ctx.count("late", 4)
    ctx.count("never", 0)
    assert ctx.counts == {"late": 5}
    assert (ctx.node, ctx.partition, ctx.on_error) == ("n", 3, "dead_letter")


def test_policies_are_three() -> None:
    assert ON_ERROR == ("fail", "skip", "dead_letter")


def test_reject_as_dead_letter() -> None:
    ctx = OperatorContext("n")
    ctx.reject({"a": 1}, "no good", "trace")
    assert ctx.dead_letters == [DeadLetter("n", "no good", {"a": 1}, "", "trace")]
    assert ctx.counts == {"dead_letter": 1}


def test_reject_as_skip() -> None:
    ctx = OperatorContext("n", on_error="skip")
    ctx.reject(1, "no good")
    assert (ctx.counts, ctx.dead_letters) == ({"skipped": 1}, [])


def test_reject_as_fail_names_node_reason_and_item_in_bounds() -> None:
    ctx = OperatorContext("n", on_error="fail")
    with pytest.raises(OperatorFailed, match="node 'n': no good; item: 'xx") as caught:
        ctx.reject("x" * 10_000, "no good")
    assert len(str(caught.value)) < 400
    assert (ctx.counts, ctx.dead_letters) == ({}, [])


def raised() -> ValueError:
    try:
        raise ValueError("deep")
    except ValueError as error:
        return error


def test_failed_keeps_the_traceback() -> None:
    ctx = OperatorContext("n")
    ctx.failed(7, raised())
    (letter,) = ctx.dead_letters
    assert (letter.item, letter.reason) == (7, "ValueError: deep")
    assert "in raised" in letter.traceback


def test_failed_as_fail_keeps_the_cause() -> None:
    error = raised()
    with pytest.raises(OperatorFailed, match="node 'n': ValueError: deep; item: 7") as caught:
        OperatorContext("n", on_error="fail").failed(7, error)
    assert caught.value.__cause__ is error


def test_failed_as_skip() -> None:
    ctx = OperatorContext("n", on_error="skip")
    ctx.failed(7, raised())
    assert (ctx.counts, ctx.dead_letters) == ({"skipped": 1}, [])


def test_the_base_operator_has_no_state_and_emits_nothing_on_time() -> None:
    operator = Passing()
    operator.open(OperatorContext("n"))
    assert (operator.accepts, operator.needs) == ("any", ())
    assert list(operator.advance(END)) == []
    assert operator.snapshot() == {}
    assert operator.config() == {}
    frame = Frame([1])
    assert list(operator.process(frame)) == [frame]
