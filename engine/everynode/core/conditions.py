"""What can be said of a set in three words: Available, Progressing, Degraded; each with a reason and a message.

Called by ``status``. A condition's times come from what was reported before, so that a worker that starts goes on where
another one ended. Kubernetes defines no conditions for DaemonSets; words and rules follow those of Deployments
(pkg/controller/deployment/progress.go and util/deployment_util.go).
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import structs

from everynode.core.rollout import Rollout
from everynode.core.setstate import PROGRESSING, ROLLOUT_PROGRESSING
from everynode.core.values import (
    ON_DELETE,
    ROLLING_UPDATE,
    Condition,
    ConditionStatus,
    Status,
    UpdateStrategy,
)

AVAILABLE = "Available"
DEGRADED = "Degraded"

ALL_PODS_AVAILABLE = "AllPodsAvailable"
MINIMUM_PODS_AVAILABLE = "MinimumPodsAvailable"
PODS_UNAVAILABLE = "PodsUnavailable"
ROLLOUT_COMPLETE = "RolloutComplete"
ROLLOUT_HELD = "RolloutHeld"
ROLLOUT_PAUSED = "RolloutPaused"
PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
_UNDER_WAY = frozenset({ROLLOUT_PROGRESSING, PROGRESS_DEADLINE_EXCEEDED})
AS_EXPECTED = "AsExpected"
PODS_FAILING = "PodsFailing"
COMMANDS_FAILING = "CommandsFailing"


class Outlook(NamedTuple):
    """What the conditions follow from, besides the counters; numbers of nodes.

    Attributes:
        undone: Nodes that count and have no available pod of the wanted revision, or still an old one.
        outdated: Nodes that count and have a pod of another revision.
        pods_failing: Nodes on which pods end, one after the other.
        commands_failing: Nodes for which commands have failed lately.
        now_ms: Log time.
    """

    strategy: UpdateStrategy
    rollout: Rollout
    undone: int
    outdated: int
    pods_failing: int
    commands_failing: int
    now_ms: int


class _Said(NamedTuple):
    status: ConditionStatus
    reason: str
    message: str


def conditions(status: Status, previous: Status | None, outlook: Outlook) -> Status:
    """Return the status with its conditions.

    Args:
        status: The counters as they are now.
        previous: What was reported before of the same set; ``None`` if nothing was.
        outlook: What else is to be known.
    """
    standing = None  # what was said of a rollout that has not moved since
    if previous is not None and not _has_moved(status, previous):
        standing = previous.condition(PROGRESSING)
    since_ms = outlook.now_ms  # the time for which it was paused or held does not count
    if standing is not None and standing.reason in _UNDER_WAY:
        since_ms = standing.last_update_ms
    complete = not outlook.undone or _stays_complete(status, previous, outlook)
    progressing = _progressing(status, outlook, since_ms, complete=complete)
    if standing is not None and standing.reason == progressing.reason:
        since_ms = standing.last_update_ms
    degraded = _degraded(outlook, progressing)
    under_way = _condition(PROGRESSING, progressing, previous, outlook.now_ms)
    found = (
        _condition(AVAILABLE, _available(status, outlook), previous, outlook.now_ms),
        _condition(DEGRADED, degraded, previous, outlook.now_ms),
        structs.replace(under_way, last_update_ms=since_ms),
    )
    return structs.replace(status, conditions=found)


def _stays_complete(status: Status, previous: Status | None, outlook: Outlook) -> bool:
    """Say whether a rollout was complete and no node needs it anew: a pod that fails is another matter."""
    before = None if previous is None else previous.condition(PROGRESSING)
    if previous is None or before is None or before.reason != ROLLOUT_COMPLETE:
        return False
    return not outlook.outdated and previous.revision == status.revision


def _has_moved(status: Status, previous: Status) -> bool:
    """Say whether a rollout has come further, or begun anew, since the last report."""
    return (
        status.revision != previous.revision
        or status.observed_generation != previous.observed_generation
        or status.updated_number_scheduled > previous.updated_number_scheduled
        or status.number_available > previous.number_available
    )


def _condition(kind: str, said: _Said, previous: Status | None, now_ms: int) -> Condition:
    before = None if previous is None else previous.condition(kind)
    if before is not None and before.status == said.status:
        since_ms, updated_ms = before.last_transition_ms, before.last_update_ms
        if (before.reason, before.message) != (said.reason, said.message):
            updated_ms = now_ms
    else:
        since_ms = updated_ms = now_ms
    return Condition(
        type=kind,
        status=said.status,
        reason=said.reason,
        message=said.message,
        last_update_ms=updated_ms,
        last_transition_ms=since_ms,
    )


def _available(status: Status, outlook: Outlook) -> _Said:
    text = f"{status.number_available} of {status.desired_number_scheduled} nodes have an available pod"
    if not status.number_unavailable:
        return _Said("True", ALL_PODS_AVAILABLE, text)
    rolling = outlook.strategy.type == ROLLING_UPDATE
    allowed = outlook.rollout.budget.max_unavailable if rolling else 0
    skipped = len(outlook.rollout.skipped)
    if status.number_unavailable - skipped <= allowed:
        return _Said("True", MINIMUM_PODS_AVAILABLE, text)
    return _Said("False", PODS_UNAVAILABLE, text)


def _degraded(outlook: Outlook, progressing: _Said) -> _Said:
    if progressing.reason == PROGRESS_DEADLINE_EXCEEDED:
        return _Said("True", PROGRESS_DEADLINE_EXCEEDED, progressing.message)
    if outlook.pods_failing:
        text = f"on {outlook.pods_failing} nodes pods end, and the next one waits longer each time"
        return _Said("True", PODS_FAILING, text)
    if outlook.commands_failing:
        text = f"for {outlook.commands_failing} nodes commands have failed and are tried again"
        return _Said("True", COMMANDS_FAILING, text)
    return _Said("False", AS_EXPECTED, "")


def _progressing(status: Status, outlook: Outlook, moved_ms: int, *, complete: bool) -> _Said:
    strategy, rollout = outlook.strategy, outlook.rollout
    desired, updated = status.desired_number_scheduled, status.updated_number_scheduled
    skipped = f"; {len(rollout.skipped)} nodes are skipped" if rollout.skipped else ""
    done = f"{updated} of {desired} nodes have the wanted revision{skipped}"
    if complete:
        return _Said("True", ROLLOUT_COMPLETE, done)
    if strategy.type == ON_DELETE and outlook.undone <= rollout.held:
        return _Said("True", ON_DELETE, f"{done}; pods are replaced when somebody deletes them")
    held = f"{done}; {rollout.held} stay on an old one for now"
    if strategy.paused:
        return _Said("Unknown", ROLLOUT_PAUSED, f"{held}: it is paused")
    if outlook.undone <= rollout.held:
        return _Said("True", ROLLOUT_HELD, f"{held}: held by {_holds(strategy)}")
    text = f"{done}; {_obstacles(status, outlook)}"
    deadline_ms = strategy.progress_deadline_seconds * 1_000
    if deadline_ms and outlook.now_ms >= moved_ms + deadline_ms:
        waited = f"no progress for {strategy.progress_deadline_seconds} s"
        return _Said("False", PROGRESS_DEADLINE_EXCEEDED, f"{waited}: {text}")
    return _Said("True", ROLLOUT_PROGRESSING, text)


def _holds(strategy: UpdateStrategy) -> str:
    named = {"partition": strategy.partition, "selector": strategy.selector}
    return " and ".join(name for name, given in named.items() if given)


def _obstacles(status: Status, outlook: Outlook) -> str:
    """Say what uses up the budget, and why the other nodes are not done."""
    budget, rollout = outlook.rollout.budget, outlook.rollout
    used = ""
    if outlook.outdated and budget.max_surge:
        used = f"{len(rollout.surging)} of at most {budget.max_surge} with a second pod; "
    elif outlook.outdated:
        used = f"{len(rollout.unavailable)} of at most {budget.max_unavailable} unavailable; "
    reasons = ", ".join(f"{reason} {count}" for reason, count in status.waiting_nodes.items())
    return f"{used}waiting: {reasons}"
