"""What is said of a set in three words, with reasons and times."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs
from pyroaring import BitMap

from everynode.core.budget import Budget
from everynode.core.conditions import Outlook, conditions
from everynode.core.rollout import Rollout
from everynode.core.values import Condition, Selector, Status, UpdateStrategy

NOW_MS = 5_000_000
ROLLING = UpdateStrategy(type="RollingUpdate", progress_deadline_seconds=600)
REASONS = (
    "OnDelete",
    "ProgressDeadlineExceeded",
    "RolloutComplete",
    "RolloutHeld",
    "RolloutPaused",
    "RolloutProgressing",
)


def rollout(
    *,
    held: int = 0,
    skipped: int = 0,
    unavailable: int = 0,
    surging: int = 0,
    max_unavailable: int = 1,
    max_surge: int = 0,
) -> Rollout:
    """Make a rollout of which only the numbers matter."""
    return Rollout(
        budget=Budget(max_unavailable, max_surge, 0),
        skipped=BitMap(range(skipped)),
        counting=BitMap(),
        unavailable=BitMap(range(unavailable)),
        open=BitMap(),
        room=0,
        held=held,
        surging=BitMap(range(surging)),
    )


def outlook(**changes: Any) -> Outlook:
    """Make an outlook: by default ten nodes are to be done, and nothing is wrong."""
    facts: dict[str, Any] = {
        "strategy": ROLLING,
        "rollout": rollout(),
        "undone": 10,
        "outdated": 10,
        "pods_failing": 0,
        "commands_failing": 0,
        "now_ms": NOW_MS,
    }
    return Outlook(**facts | changes)


def counters(**changes: Any) -> Status:
    """Make the counters of ten nodes, all with an available pod of the old revision."""
    facts: dict[str, Any] = {
        "observed_generation": 2,
        "revision": "m",
        "desired_number_scheduled": 10,
        "number_available": 10,
        "updated_number_scheduled": 3,
    }
    return Status(namespace="default", daemonset="agent", daemonset_uid="u", **facts | changes)


def said_before(
    reason: str,
    *,
    status: str = "True",
    updated_ms: int = NOW_MS,
    turned_ms: int = 0,
    kind: str = "Progressing",
    **changes: Any,
) -> Status:
    """Make an earlier report in which this was said."""
    facts: dict[str, Any] = {"status": status, "message": "as before"}
    condition = Condition(
        type=kind, reason=reason, last_update_ms=updated_ms, last_transition_ms=turned_ms, **facts
    )
    return counters(conditions=(condition,), **changes)


def condition(
    kind: str, status: Status, previous: Status | None = None, **changes: Any
) -> Condition:
    """Return one of the conditions that follow."""
    found = conditions(status, previous, outlook(**changes)).condition(kind)
    assert found is not None
    return found


def progressing(previous: Status | None = None, **changes: Any) -> tuple[str, str]:
    """Return status and reason of Progressing, with the default counters."""
    found = condition("Progressing", counters(), previous, **changes)
    return (found.status, found.reason)


def test_all_three_are_always_there() -> None:
    """They come sorted by type, and the counters stay what they are."""
    found = conditions(counters(), None, outlook())

    assert ["Available", "Degraded", "Progressing"] == [each.type for each in found.conditions]
    assert counters() == structs.replace(found, conditions=())


# Available


@pytest.mark.parametrize(
    ("strategy", "unavailable", "skipped", "wanted"),
    [
        (ROLLING, 0, 0, ("True", "AllPodsAvailable")),
        (ROLLING, 1, 0, ("True", "MinimumPodsAvailable")),
        (ROLLING, 2, 0, ("True", "MinimumPodsAvailable")),
        (ROLLING, 3, 0, ("False", "PodsUnavailable")),
        (ROLLING, 5, 3, ("True", "MinimumPodsAvailable")),
        (ROLLING, 6, 3, ("False", "PodsUnavailable")),
        (UpdateStrategy(), 0, 0, ("True", "AllPodsAvailable")),
        (UpdateStrategy(), 1, 0, ("False", "PodsUnavailable")),
        (UpdateStrategy(), 1, 1, ("True", "MinimumPodsAvailable")),
    ],
)
def test_available(
    strategy: UpdateStrategy, unavailable: int, skipped: int, wanted: tuple[str, str]
) -> None:
    """As many nodes may lack a pod as a rollout may take down; those that it skips do not count. OnDelete: none may."""
    status = counters(number_unavailable=unavailable, number_available=10 - unavailable)
    found = condition(
        "Available", status, strategy=strategy, rollout=rollout(skipped=skipped, max_unavailable=2)
    )

    assert wanted == (found.status, found.reason)
    assert found.message == f"{10 - unavailable} of 10 nodes have an available pod"


# Degraded


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({}, "AsExpected", ""),
        ({"pods_failing": 2}, "PodsFailing", "on 2 nodes pods end, and the next one waits longer each time"),
        ({"commands_failing": 3}, "CommandsFailing", "for 3 nodes commands have failed and are tried again"),
        (
            {"commands_failing": 3, "pods_failing": 1},
            "PodsFailing",
            "on 1 nodes pods end, and the next one waits longer each time",
        ),
    ],
)  # fmt: skip
def test_degraded(changes: dict[str, Any], reason: str, message: str) -> None:
    """Pods that end and commands that fail are told, with the number of nodes; what is well is told, too."""
    found = condition("Degraded", counters(), **changes)

    assert ("False" if reason == "AsExpected" else "True") == found.status
    assert (reason, message) == (found.reason, found.message)


def test_a_rollout_that_is_stalled_degrades_the_set() -> None:
    """Of several reasons that one counts, in the words of Progressing."""
    before = said_before("RolloutProgressing", updated_ms=NOW_MS - 600_000)
    found = conditions(counters(), before, outlook(pods_failing=1))
    degraded, stalled = found.condition("Degraded"), found.condition("Progressing")

    assert degraded is not None
    assert stalled is not None
    assert ("True", "ProgressDeadlineExceeded") == (degraded.status, degraded.reason)
    assert stalled.message == degraded.message


@pytest.mark.parametrize(
    "changes",
    [
        {"undone": 0},
        {"strategy": UpdateStrategy(), "rollout": rollout(held=10)},
        {"strategy": structs.replace(ROLLING, paused=True)},
        {"rollout": rollout(held=10)},
        {},
    ],
    ids=["complete", "OnDelete", "paused", "held", "progressing"],
)
def test_a_rollout_that_is_not_stalled_is_as_expected(changes: dict[str, Any]) -> None:
    """Whatever else Progressing says, by itself it degrades nothing."""
    assert condition("Degraded", counters(), **changes).reason == "AsExpected"


# Progressing


@pytest.mark.parametrize("held", [0, 9, 10, 11])
@pytest.mark.parametrize(
    ("strategy", "holds"),
    [(ROLLING, ("True", "RolloutHeld")), (UpdateStrategy(), ("True", "OnDelete"))],
    ids=["RollingUpdate", "OnDelete"],
)
def test_what_is_held_is_not_waited_for(
    strategy: UpdateStrategy, holds: tuple[str, str], held: int
) -> None:
    """When all nodes that are not done are to stay on an old revision, the rollout has done what it may."""
    found = progressing(strategy=strategy, rollout=rollout(held=held))

    assert (holds if held >= 10 else ("True", "RolloutProgressing")) == found


@pytest.mark.parametrize("strategy", [ROLLING, UpdateStrategy()])
@pytest.mark.parametrize("held", [0, 3])
def test_a_rollout_is_complete(strategy: UpdateStrategy, held: int) -> None:
    """Nothing is left to do: whether it is paused or has run out of time does not matter any more."""
    before = said_before("RolloutProgressing", updated_ms=0)
    paused = structs.replace(strategy, paused=True)

    found = progressing(before, strategy=paused, undone=0, rollout=rollout(held=held))

    assert found == ("True", "RolloutComplete")


def test_a_paused_rollout_is_not_known_to_progress() -> None:
    """As of a Deployment: nobody knows whether it would, and no deadline passes."""
    before = said_before("RolloutProgressing", updated_ms=0)

    found = progressing(before, strategy=structs.replace(ROLLING, paused=True))

    assert found == ("Unknown", "RolloutPaused")


@pytest.mark.parametrize(
    ("waited_ms", "seconds", "wanted"),
    [
        (0, 600, ("True", "RolloutProgressing")),
        (599_999, 600, ("True", "RolloutProgressing")),
        (600_000, 600, ("False", "ProgressDeadlineExceeded")),
        (600_001, 600, ("False", "ProgressDeadlineExceeded")),
        (999, 1, ("True", "RolloutProgressing")),
        (1_000, 1, ("False", "ProgressDeadlineExceeded")),
        (4_000_000, 0, ("True", "RolloutProgressing")),
    ],
)
@pytest.mark.parametrize("reason", ["RolloutProgressing", "ProgressDeadlineExceeded"])
def test_the_deadline(waited_ms: int, seconds: int, wanted: tuple[str, str], reason: str) -> None:
    """A rollout that has not moved for so long is stalled, and stays so; 0 is for ever."""
    strategy = structs.replace(ROLLING, progress_deadline_seconds=seconds)
    before = said_before(reason, updated_ms=NOW_MS - waited_ms)
    found = condition("Progressing", counters(), before, strategy=strategy)

    assert wanted == (found.status, found.reason)
    if wanted[0] == "False":
        assert found.message.startswith(f"no progress for {seconds} s: 3 of 10 nodes have")
    assert found.last_update_ms == NOW_MS - waited_ms


@pytest.mark.parametrize("reason", ["OnDelete", "RolloutHeld", "RolloutPaused", "Unheard"])
def test_the_time_for_which_it_was_held_does_not_count(reason: str) -> None:
    """A rollout that goes on after it was paused or held has its whole time again."""
    found = condition("Progressing", counters(), said_before(reason, updated_ms=7))

    assert ("RolloutProgressing", NOW_MS) == (found.reason, found.last_update_ms)


def test_a_first_report_has_the_whole_time() -> None:
    """Of a set of which nothing is known the time begins now, also if an earlier version reported no conditions."""
    for previous in (None, counters()):
        found = condition("Progressing", counters(), previous)

        assert (NOW_MS, NOW_MS) == (found.last_update_ms, found.last_transition_ms)
        assert found.reason == "RolloutProgressing"


@pytest.mark.parametrize(
    ("changes", "moves"),
    [
        ({"revision": "a"}, True),
        ({"revision": "z"}, True),
        ({"observed_generation": 1}, True),
        ({"observed_generation": 3}, True),
        ({"updated_number_scheduled": 4}, True),
        ({"updated_number_scheduled": 2}, False),
        ({"number_available": 11}, True),
        ({"number_available": 9}, False),
        ({"number_ready": 11}, False),
    ],
)
def test_what_counts_as_progress(changes: dict[str, Any], moves: bool) -> None:
    """More pods of the wanted revision, more available ones, or something else that is wanted; less of them is none."""
    for waited_ms, wanted in (
        (599_999, "RolloutProgressing"),
        (600_000, "ProgressDeadlineExceeded"),
    ):
        before = said_before("RolloutProgressing", updated_ms=NOW_MS - waited_ms)
        found = condition("Progressing", counters(**changes), before)

        assert ("RolloutProgressing" if moves else wanted) == found.reason
        assert (NOW_MS if moves else NOW_MS - waited_ms) == found.last_update_ms


@pytest.mark.parametrize("now", ["RolloutPaused", "RolloutHeld", "OnDelete"])
@pytest.mark.parametrize("before", REASONS)
def test_since_when_it_is_so(now: str, before: str) -> None:
    """As long as the same is said and nothing moves, the time of the last move stays; with a turn it is now."""
    strategy = UpdateStrategy() if now == "OnDelete" else ROLLING
    strategy = structs.replace(strategy, paused=now == "RolloutPaused")
    previous = said_before(before, updated_ms=7)
    found = condition(
        "Progressing", counters(), previous, strategy=strategy, rollout=rollout(held=10)
    )
    goes_on = before in {now, "RolloutProgressing", "ProgressDeadlineExceeded"}

    assert now == found.reason
    assert (7 if goes_on else NOW_MS) == found.last_update_ms


@pytest.mark.parametrize("before", REASONS)
def test_complete_stays_complete(before: str) -> None:
    """A pod that fails or a node that joins after a rollout is no rollout: what was complete is not stalled by it."""
    for outdated, wanted in ((0, "RolloutComplete"), (1, "RolloutProgressing")):
        previous = said_before(before, updated_ms=NOW_MS - 1, turned_ms=3)
        found = condition("Progressing", counters(), previous, undone=1, outdated=outdated)

        assert (wanted if before == "RolloutComplete" else "RolloutProgressing") == found.reason
        if found.reason == "RolloutComplete":
            assert ("True", "3 of 10 nodes have the wanted revision", NOW_MS - 1, 3) == (
                found.status,
                found.message,
                found.last_update_ms,
                found.last_transition_ms,
            )


@pytest.mark.parametrize("revision", ["a", "z"])
def test_another_revision_is_not_complete(revision: str) -> None:
    """What was said of one rollout does not hold for the next, whether or not a pod has its revision."""
    previous = said_before("RolloutComplete", revision=revision)

    assert progressing(previous, undone=1, outdated=0) == ("True", "RolloutProgressing")


CANARIES = Selector(match_labels={"canary": "yes"})
DONE = "3 of 10 nodes have the wanted revision"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"undone": 0}, DONE),
        (
            {"undone": 0, "rollout": rollout(skipped=4)},
            "3 of 10 nodes have the wanted revision; 4 nodes are skipped",
        ),
        (
            {"strategy": UpdateStrategy(), "rollout": rollout(held=10)},
            "3 of 10 nodes have the wanted revision; pods are replaced when somebody deletes them",
        ),
        (
            {"strategy": structs.replace(ROLLING, paused=True), "rollout": rollout(held=7)},
            "3 of 10 nodes have the wanted revision; 7 stay on an old one for now: it is paused",
        ),
        (
            {"rollout": rollout(held=10), "strategy": structs.replace(ROLLING, partition=10)},
            f"{DONE}; 10 stay on an old one for now: held by partition",
        ),
        (
            {"rollout": rollout(held=10), "strategy": structs.replace(ROLLING, selector=CANARIES)},
            f"{DONE}; 10 stay on an old one for now: held by selector",
        ),
        (
            {"rollout": rollout(unavailable=2, max_surge=4), "outdated": 0},
            f"{DONE}; waiting: NotReady 2, Outdated 5",
        ),
        (
            {"rollout": rollout(unavailable=2, max_unavailable=5)},
            f"{DONE}; 2 of at most 5 unavailable; waiting: NotReady 2, Outdated 5",
        ),
        (
            {"rollout": rollout(surging=1, max_unavailable=0, max_surge=4)},
            f"{DONE}; 1 of at most 4 with a second pod; waiting: NotReady 2, Outdated 5",
        ),
    ],
)
def test_the_message_says_how_far_and_why(changes: dict[str, Any], message: str) -> None:
    """People read how many are done, what uses up the budget and what the others wait for."""
    status = counters(waiting_nodes={"NotReady": 2, "Outdated": 5})

    assert message == condition("Progressing", status, **changes).message


# Times


@pytest.mark.parametrize("kind", ["Available", "Degraded"])
def test_times_of_a_condition(kind: str) -> None:
    """A change of status is a turn; a change of words is dated; what stays the same keeps its times."""
    first = condition(kind, counters())
    same = counters(conditions=(structs.replace(first, last_update_ms=2, last_transition_ms=1),))
    assert (2, 1) == _times(condition(kind, counters(), same))

    for changed in (
        structs.replace(first, reason="A", last_update_ms=2, last_transition_ms=1),
        structs.replace(first, reason="Z", last_update_ms=2, last_transition_ms=1),
        structs.replace(first, message=" ", last_update_ms=2, last_transition_ms=1),
        structs.replace(first, message="~", last_update_ms=2, last_transition_ms=1),
    ):
        assert (NOW_MS, 1) == _times(condition(kind, counters(), counters(conditions=(changed,))))

    statuses: tuple[Any, ...] = ("True", "False", "Unknown")
    for status in statuses:
        turned = structs.replace(first, status=status, last_update_ms=2, last_transition_ms=1)
        wanted = (2, 1) if status == first.status else (NOW_MS, NOW_MS)
        assert wanted == _times(condition(kind, counters(), counters(conditions=(turned,))))


def _times(found: Condition) -> tuple[int, int]:
    return (found.last_update_ms, found.last_transition_ms)
