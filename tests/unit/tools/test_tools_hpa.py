"""The HPA's rules, by cases that were computed by hand. Times in seconds."""

from __future__ import annotations

import pytest
from tools.hpa import DOWN, UP, Autoscaler, Metric, NotSimulated, Policy, Rules, rules_of, wanted

FREE = Rules(0, (Policy("Percent", 1000, 15),))
FREE_DOWN = Rules(0, (Policy("Percent", 100, 15),))


def frames(value: float | None, target: float = 10, kind: str = "AverageValue") -> Metric:
    return Metric("frames", value, target, kind)


def autoscaler(minimum: int = 1, maximum: int = 10, up: Rules = FREE, down: Rules = FREE_DOWN) -> Autoscaler:
    return Autoscaler(minimum, maximum, up, down)


@pytest.mark.parametrize(
    ("value", "current", "expected"),
    [
        (35, 1, 4),  # 3.5 pods' worth
        (40, 1, 4),
        (40.001, 1, 5),
        (0, 3, 0),
        (44, 4, 4),  # 1.1 times what 4 should have: within the tolerance
        (44.1, 4, 5),
        (36, 4, 4),  # 0.9 times: within
        (35.9, 4, 4),  # outside, but ceil(3.59) is 4 again
        (26, 4, 3),
    ],
)
def test_average_value(value: float, current: int, expected: int) -> None:
    assert wanted(frames(value), current) == expected


@pytest.mark.parametrize(("value", "current", "expected"), [(20, 3, 12), (5, 3, 3), (5.4, 3, 3), (6, 3, 4), (2, 3, 2)])
def test_value_is_multiplied_by_the_pods_there_are(value: float, current: int, expected: int) -> None:
    """KEDA's example: 20 where 5 is the target makes 12 of 3."""
    assert wanted(frames(value, 5, "Value"), current) == expected


def test_the_example_of_the_documents() -> None:
    """ "If the current metric value is 200m, and the desired value is 100m, the number of replicas will be doubled"."""
    assert wanted(frames(0.2, 0.1, "Value"), 4) == 8
    assert wanted(frames(0.05, 0.1, "Value"), 4) == 2


def test_of_several_metrics_the_largest_counts() -> None:
    """So P streams of length 10 with target 10 get one pod, where their sum asks for P."""
    assert autoscaler().decide(0, 1, [frames(10)] * 8) == 1
    assert autoscaler().decide(0, 1, [frames(80)]) == 8


def test_what_cannot_be_read_forbids_scaling_down() -> None:
    assert autoscaler().decide(0, 4, [frames(10), frames(None)]) == 4
    assert autoscaler().decide(0, 4, [frames(60), frames(None)]) == 6
    assert autoscaler().decide(0, 4, [frames(None)]) == 4


def test_bounds() -> None:
    assert autoscaler(maximum=5).decide(0, 1, [frames(1000)]) == 5
    assert autoscaler(minimum=2).decide(0, 4, [frames(0)]) == 2
    assert autoscaler(minimum=2).decide(0, 1, [frames(None)]) == 2
    assert autoscaler(maximum=5).decide(0, 9, [frames(90)]) == 5
    assert autoscaler().decide(0, 0, [frames(1000)]) == 0, "from nothing only KEDA scales"


def test_down_goes_to_the_largest_wish_of_the_window() -> None:
    hpa = autoscaler(down=Rules(60, FREE_DOWN.policies))
    assert hpa.decide(0, 4, [frames(40)]) == 4
    assert hpa.decide(10, 4, [frames(30)]) == 4
    assert hpa.decide(20, 4, [frames(10)]) == 4
    assert hpa.decide(59, 4, [frames(10)]) == 4
    assert hpa.decide(60, 4, [frames(10)]) == 3, "the wish for 4 is gone, that for 3 is not"
    assert hpa.decide(70, 3, [frames(10)]) == 1


def test_up_goes_to_the_smallest_wish_of_the_window() -> None:
    hpa = autoscaler(up=Rules(30, FREE.policies))
    assert hpa.decide(0, 1, [frames(10)]) == 1
    assert hpa.decide(10, 1, [frames(60)]) == 1
    assert hpa.decide(29, 1, [frames(40)]) == 1
    assert hpa.decide(30, 1, [frames(80)]) == 4
    assert hpa.decide(41, 4, [frames(80)]) == 4
    assert hpa.decide(60, 4, [frames(80)]) == 8


def test_default_policies_up() -> None:
    """Double, or 4 more, in 15 s: the larger."""
    hpa = autoscaler(maximum=100, up=UP)
    assert hpa.decide(0, 1, [frames(1000)]) == 5
    assert hpa.decide(10, 5, [frames(1000)]) == 5, "used up: there was 1 at the period's start"
    assert hpa.decide(15, 5, [frames(1000)]) == 10
    assert hpa.decide(30, 10, [frames(1000)]) == 20


def test_default_window_down_is_five_minutes() -> None:
    hpa = autoscaler(down=DOWN)
    assert hpa.decide(0, 4, [frames(40)]) == 4
    assert hpa.decide(299, 4, [frames(0)]) == 4
    assert hpa.decide(300, 4, [frames(0)]) == 1


def test_policies_down_and_their_choice() -> None:
    """10 pods, 1 a minute or 25 % a minute: 25 % of 10 leaves 7 (7.5 is cut off)."""
    policies = (Policy("Pods", 1, 60), Policy("Percent", 25, 60))
    for select, expected in (("Max", 7), ("Min", 9), ("Disabled", 10)):
        assert autoscaler(down=Rules(0, policies, select)).decide(0, 10, [frames(10)]) == expected
    hpa = autoscaler(down=Rules(0, policies))
    assert hpa.decide(0, 10, [frames(10)]) == 7
    assert hpa.decide(59, 7, [frames(10)]) == 7
    assert hpa.decide(60, 7, [frames(10)]) == 5


def test_percent_up_is_rounded_up() -> None:
    hpa = autoscaler(up=Rules(0, (Policy("Percent", 10, 60),)))
    assert hpa.decide(0, 3, [frames(1000)]) == 4


def test_what_was_taken_away_in_the_period_may_come_back() -> None:
    hpa = autoscaler(up=Rules(0, (Policy("Pods", 1, 60),)))
    assert hpa.decide(0, 6, [frames(20)]) == 2
    assert hpa.decide(10, 2, [frames(100)]) == 7, "6 at the period's start, and one more"


def test_rules_as_they_are_written() -> None:
    written = {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 2, "periodSeconds": 30}]}
    assert rules_of(written, DOWN) == Rules(0, (Policy("Pods", 2, 30),))
    assert rules_of(None, DOWN) == DOWN
    assert rules_of({"stabilizationWindowSeconds": 3}, UP) == Rules(3, UP.policies)


@pytest.mark.parametrize(
    "written",
    [{"selectPolicy": "Most"}, {"policies": [{"type": "Nodes", "value": 1, "periodSeconds": 1}]}, {"speed": 1}],
)
def test_unknown_rules_are_refused(written: dict[str, object]) -> None:
    with pytest.raises(NotSimulated):
        rules_of(written, UP)
