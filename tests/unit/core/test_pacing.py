"""Limits, slow start and waiting after a failure."""

from __future__ import annotations

import pytest

from everynode.core.commands import BATCH_MESSAGES_MAX
from everynode.core.pacing import (
    RECORDS_MAX,
    REST_FORGOTTEN_MS,
    RETRY_LAST_MS,
    UNSEEN_MS_MAX,
    Limits,
    SlowStart,
    rest_ms,
    retry_delay_ms,
)
from everynode.errors import ConfigurationError

HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    "limits",
    [
        Limits(),
        Limits(creates_max=1, changes_max=1),
        Limits(creates_max=BATCH_MESSAGES_MAX - RECORDS_MAX - 2, changes_max=1),
        Limits(pending_ms=1, horizon_ms=RETRY_LAST_MS + 1),
    ],
)
def test_limits_in_their_range(limits: Limits) -> None:
    """What fits into a batch and can expire is accepted."""
    limits.check()

    assert limits.creates_max + limits.changes_max <= BATCH_MESSAGES_MAX - RECORDS_MAX - 1


@pytest.mark.parametrize(
    ("limits", "names"),
    [
        (Limits(creates_max=0), "creates_max is 0"),
        (Limits(changes_max=0), "changes_max 0"),
        (Limits(creates_max=BATCH_MESSAGES_MAX - 2, changes_max=1), "together at most 898"),
        (Limits(creates_max=449, changes_max=450), "together at most 898"),
        (Limits(pending_ms=0), "pending_ms is 0"),
        (Limits(pending_ms=300_000, horizon_ms=419_999), "horizon_ms 419999"),
    ],
)
def test_limits_out_of_their_range(limits: Limits, names: str) -> None:
    """B1: a limit that would not hold is refused, with what it is and what it must be."""
    with pytest.raises(ConfigurationError, match=names):
        limits.check()


def test_kubernetes_own_limits_are_the_defaults() -> None:
    """250 at a time, and five minutes for a command."""
    assert Limits()._asdict() == {
        "creates_max": 250,
        "changes_max": 250,
        "pending_ms": 300_000,
        "horizon_ms": 600_000,
    }


@pytest.mark.parametrize(
    ("attempt", "delay_ms"),
    [(1, 1_000), (2, 2_000), (3, 4_000), (7, 64_000), (8, 120_000), (9, 120_000), (10**9, 120_000)],
)
def test_waits_double_up_to_two_minutes(attempt: int, delay_ms: int) -> None:
    """B1: the wait doubles with each failure and has an end."""
    assert delay_ms == retry_delay_ms(attempt)


@pytest.mark.parametrize(
    ("failures", "rest"),
    [(0, 0), (1, 1_000), (2, 2_000), (3, 4_000), (10, 512_000), (11, 900_000), (10**9, 900_000)],
)
def test_rests_double_up_to_a_quarter_of_an_hour(failures: int, rest: int) -> None:
    """B1: the first pod that ends is replaced at once, the next after longer and longer rests, as in Kubernetes."""
    assert rest == rest_ms(failures)


def test_how_long_is_waited_and_remembered() -> None:
    """An effect may take half a minute to be observed; a pod that lasted half an hour begins a new row."""
    assert (30_000, 1_800_000) == (UNSEEN_MS_MAX, REST_FORGOTTEN_MS)


def test_slow_start_begins_with_one() -> None:
    """A set without any decision may have one create pending."""
    assert SlowStart().window(Limits(), 0) == 1


def test_slow_start_doubles_with_each_round() -> None:
    """When all that were allowed went well, twice as many are allowed: 1, 2, 4, ... up to the limit."""
    slow, sequence, windows = SlowStart(), 0, []
    for _ in range(10):
        window = slow.window(Limits(), 0)
        windows.append(window)
        basis, sequence = sequence, sequence + 1
        slow.decided(window, basis, 0)
        for _ in range(window):
            sequence += 1
            slow.heard(sequence, 0, good=True)

    assert windows == [1, 2, 4, 8, 16, 32, 64, 128, 250, 250]


def test_a_failure_takes_it_back_to_one() -> None:
    """After a failure only what went well since then counts."""
    slow = SlowStart()
    slow.decided(100, 10, 0)
    slow.heard(11, 0, good=True)
    slow.heard(12, 0, good=False)
    assert slow.window(Limits(), 0) == 1

    slow.heard(13, 0, good=True)
    slow.heard(14, 0, good=True)

    assert slow.window(Limits(), 0) == 3


def test_outcomes_before_the_basis_are_in_the_window_already() -> None:
    """What the decision's worker had heard is not counted twice."""
    slow = SlowStart()
    slow.heard(5, 0, good=False)
    slow.heard(9, 0, good=True)
    slow.decided(8, 7, 0)
    assert slow.window(Limits(), 0) == 9

    slow.heard(6, 0, good=False)

    assert slow.window(Limits(), 0) == 9


def test_the_outcome_at_the_basis_is_in_the_window_already() -> None:
    """The decision's worker had folded the log up to its basis, that message included."""
    slow = SlowStart()
    slow.decided(8, 7, 0)
    slow.heard(7, 0, good=False)

    assert slow.window(Limits(), 0) == 8


def test_the_first_message_of_a_log_counts() -> None:
    """Before any decision nothing is in the window yet, not even the outcome at the beginning of the log."""
    slow = SlowStart()
    slow.heard(1, 0, good=True)

    assert slow.window(Limits(), 0) == 2


def test_an_outcome_heard_twice_counts_once() -> None:
    """The place in the log says which outcome it is."""
    slow = SlowStart()
    slow.heard(5, 0, good=True)
    slow.heard(5, 0, good=True)

    assert slow.window(Limits(), 0) == 2


def test_silence_takes_it_back_to_one() -> None:
    """A set that has decided nothing for the horizon starts slowly again, whoever asks."""
    slow, limits = SlowStart(), Limits()
    slow.decided(100, 10, 1_000)
    slow.heard(11, 2_000, good=True)

    assert slow.window(limits, 1_000 + limits.horizon_ms) == 101
    assert slow.window(limits, 1_001 + limits.horizon_ms) == 2
    assert slow.window(limits, HOUR_MS) == 1


def test_an_old_failure_is_forgotten() -> None:
    """What happened before the horizon says nothing about now."""
    slow, limits = SlowStart(), Limits()
    slow.heard(4, 0, good=False)
    slow.decided(50, 3, 10)

    assert slow.window(limits, 5) == 1
    assert slow.window(limits, limits.horizon_ms) == 1
    assert slow.window(limits, limits.horizon_ms + 1) == 50


def test_memory_is_what_came_after_the_last_decision() -> None:
    """B1: outcomes are dropped once a decision has counted them."""
    slow = SlowStart()
    for sequence in range(1, 300):
        slow.heard(sequence, 0, good=True)
    slow.decided(250, 298, 0)

    assert list(slow._outcomes) == [299]
