"""How many nodes a rollout may touch: percentages, both limits at zero, and limits that cannot be read."""

from __future__ import annotations

import pytest
from msgspec import structs

from everynode.core.budget import Budget, allows_surge, budget_of, check_strategy
from everynode.core.values import UpdateStrategy
from everynode.errors import InvalidObjectError
from everynode.testing.builders import daemonset

STRATEGY = UpdateStrategy(type="RollingUpdate")


@pytest.mark.parametrize(
    ("limit", "desired", "wanted"),
    [
        pytest.param(3, 2, 3, id="a whole number, whatever there is"),
        pytest.param("0%", 100, 0, id="nothing"),
        pytest.param("1%", 1, 1, id="a part of one node"),
        pytest.param("25%", 10, 3, id="rounded up"),
        pytest.param("30%", 10, 3, id="exactly"),
        pytest.param("100%", 7, 7, id="everything"),
        pytest.param("1%", 100, 1, id="one of a hundred"),
        pytest.param("1%", 101, 2, id="one and a bit"),
        pytest.param("50%", 0, 0, id="of no nodes"),
        pytest.param("0050%", 10, 5, id="with zeros before it"),
    ],
)
def test_percentages_are_rounded_up(limit: int | str, desired: int, wanted: int) -> None:
    """S3: each limit is a whole number, or a percentage of the eligible nodes rounded up."""
    strategy = structs.replace(STRATEGY, max_unavailable=limit, max_surge=limit, partition=limit)
    expected = Budget(wanted, wanted, wanted)
    if desired and not wanted:
        expected = Budget(1, 0, 0)  # else the rollout could never begin

    assert expected == budget_of(strategy, desired)


@pytest.mark.parametrize(
    ("max_unavailable", "max_surge", "desired", "wanted"),
    [
        pytest.param(0, 0, 5, (1, 0), id="both are 0"),
        pytest.param("0%", "0%", 5, (1, 0), id="both come out as 0"),
        pytest.param(0, 0, 0, (0, 0), id="there are no nodes"),
        pytest.param(0, 1, 5, (0, 1), id="it adds first"),
        pytest.param(2, 0, 5, (2, 0), id="it takes down first"),
        pytest.param(2, 3, 5, (2, 3), id="both"),
    ],
)
def test_a_rollout_can_begin(
    max_unavailable: int | str, max_surge: int | str, desired: int, wanted: tuple[int, int]
) -> None:
    """L1, S3: one node may be unavailable if both limits are 0, and only then."""
    strategy = structs.replace(STRATEGY, max_unavailable=max_unavailable, max_surge=max_surge)

    assert (*wanted, 0) == budget_of(strategy, desired)


@pytest.mark.parametrize(
    ("strategy", "wanted"),
    [
        (UpdateStrategy(type="OnDelete", max_surge=1), False),
        (structs.replace(STRATEGY, max_surge=0), False),
        (structs.replace(STRATEGY, max_surge="0%"), False),
        (structs.replace(STRATEGY, max_surge=1), True),
        (structs.replace(STRATEGY, max_surge=2), True),
        (structs.replace(STRATEGY, max_surge="1%"), True),
    ],
)
def test_when_two_pods_may_be_on_a_node(strategy: UpdateStrategy, wanted: bool) -> None:
    """S1: only a rolling update with a surge, however small, has two pods on a node."""
    assert wanted == allows_surge(strategy)


@pytest.mark.parametrize("value", [0, 1, 10**9, "0%", "5%", "99%", "100%", "005%", "00100%"])
def test_limits_that_can_be_read(value: int | str) -> None:
    """A whole number, or a percentage up to 100, is taken."""
    strategy = structs.replace(STRATEGY, max_unavailable=value, max_surge=value, partition=value)

    check_strategy(daemonset(update_strategy=strategy))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(-1, id="less than nothing"),
        pytest.param("101%", id="more than everything"),
        pytest.param("5", id="a number in quotes"),
        pytest.param("%", id="no number"),
        pytest.param("-5%", id="a negative percentage"),
        pytest.param("5 %", id="a space"),
        pytest.param("5%\n", id="a line break"),
        pytest.param("\u0665%", id="digits of another script"),
        pytest.param("0" * 5_000 + "5%", id="thousands of zeros"),
    ],
)
@pytest.mark.parametrize("field", ["max_unavailable", "max_surge", "partition"])
def test_limits_that_cannot_be_read(field: str, value: int | str) -> None:
    """S8: a limit that is no number is refused by name before anything is computed from it."""
    strategy = structs.replace(STRATEGY, **{field: value})
    name = {"max_unavailable": "maxUnavailable", "max_surge": "maxSurge"}.get(field, field)

    with pytest.raises(InvalidObjectError, match="DaemonSet default/agent") as caught:
        check_strategy(daemonset(update_strategy=strategy))

    (problem,) = caught.value.problems
    assert f"spec.updateStrategy.rollingUpdate.{name}" == problem.field
    assert f"is {value!r}: write a whole number, or 0% to 100%" == problem.message
