"""How far a rollout is, in kubectl's words: what `rollout status` says, and whether it is over.

Pure. The sentences are kubectl's (polymorphichelpers/rollout_status.go). What kubectl does not know of sets follows
from the Progressing condition (pause, partition, selector, deadline) and from the nodes by reason.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

from everynode.cli.listing import selector_text
from everynode.cli.objects import status_object
from everynode.core.conditions import (
    PROGRESS_DEADLINE_EXCEEDED,
    ROLLOUT_COMPLETE,
    ROLLOUT_HELD,
    ROLLOUT_PAUSED,
)
from everynode.core.setstate import PROGRESSING
from everynode.core.status import SKIPPED
from everynode.core.values import ROLLING_UPDATE, DaemonSet, Status, UpdateStrategy
from everynode.errors import RefusedError


class Stage(StrEnum):
    """Whether a rollout is over, and how it ended."""

    WAITING = "Waiting"
    PAUSED = "Paused"
    COMPLETE = "Complete"
    HELD = "Held"
    """All that may be updated for now is."""
    STALLED = "Stalled"

    @property
    def over(self) -> bool:
        """There is nothing to wait for."""
        return self not in {Stage.WAITING, Stage.PAUSED}


class Progress(NamedTuple):
    """How far a rollout is.

    Attributes:
        sentence: For people, kubectl's.
        waits_for: Nodes by the reason for which they are not done, most frequent first; empty if nothing is known.
        status: The status that counts; `None` if no worker has looked at the set as it is now.
    """

    stage: Stage
    sentence: str
    waits_for: tuple[tuple[str, int], ...] = ()
    status: Status | None = None

    @property
    def reasons(self) -> str:
        """Read as `3 Outdated, 1 NotReady`."""
        return ", ".join(f"{count} {reason}" for reason, count in self.waits_for)

    @property
    def line(self) -> str:
        """The sentence, and what it waits for."""
        if self.stage.over or not self.waits_for:
            return self.sentence
        return f"{self.sentence} ({self.reasons})"

    def as_document(self, daemonset: DaemonSet) -> dict[str, Any]:
        """Write it for `-o json`."""
        return {
            "namespace": daemonset.namespace,
            "name": daemonset.name,
            "generation": daemonset.generation,
            "stage": self.stage.value,
            "message": self.sentence,
            "status": None if self.status is None else status_object(self.status),
        }


def judge(daemonset: DaemonSet, status: Status | None) -> Progress:
    """Say how far the rollout of a set is.

    Args:
        daemonset: The set as it is wanted.
        status: What was reported last under its name, about whichever set and generation.

    Raises:
        RefusedError: The set has no rollouts.
    """
    strategy = daemonset.update_strategy
    if strategy.type != ROLLING_UPDATE:
        message = (
            f"rollout status is only available for {ROLLING_UPDATE} strategy type; DaemonSet {daemonset.key} has "
            f"{strategy.type}: its pods are replaced when somebody deletes them"
        )
        raise RefusedError(message)
    if (
        status is None
        or status.daemonset_uid != daemonset.uid
        or status.observed_generation < daemonset.generation
    ):
        return Progress(Stage.WAITING, "Waiting for daemon set spec update to be observed...")
    stage = _stage(strategy, status)
    waits_for = sorted(status.waiting_nodes.items(), key=lambda item: (-item[1], item[0]))
    return Progress(stage, _sentence(stage, daemonset, status), tuple(waits_for), status)


def _stage(strategy: UpdateStrategy, status: Status) -> Stage:
    progressing = status.condition(PROGRESSING)
    if progressing is None:  # as kubectl does it
        desired = status.desired_number_scheduled
        if min(status.updated_number_scheduled, status.number_available) >= desired:
            return Stage.COMPLETE
        return Stage.PAUSED if strategy.paused else Stage.WAITING
    if progressing.reason == PROGRESS_DEADLINE_EXCEEDED or progressing.status == "False":
        return Stage.STALLED
    stages = {
        ROLLOUT_COMPLETE: Stage.COMPLETE,
        ROLLOUT_HELD: Stage.HELD,
        ROLLOUT_PAUSED: Stage.PAUSED,
    }
    return stages.get(progressing.reason, Stage.WAITING)


def _sentence(stage: Stage, daemonset: DaemonSet, status: Status) -> str:
    named = f'daemon set "{daemonset.name}"'
    desired, updated = status.desired_number_scheduled, status.updated_number_scheduled
    available = status.number_available
    match stage:
        case Stage.COMPLETE:
            skipped = status.waiting_nodes.get(SKIPPED, 0)
            but = f" ({skipped} nodes that cannot be reached were skipped)" if skipped else ""
            return f"{named} successfully rolled out{but}"
        case Stage.HELD:
            held = describe_hold(daemonset.update_strategy)
            return f"partitioned roll out complete: {updated} new pods have been updated...{held}"
        case Stage.STALLED:
            condition = status.condition(PROGRESSING)
            why = f": {condition.message}" if condition is not None and condition.message else ""
            return f"{named} exceeded its progress deadline{why}"
        case Stage.PAUSED:
            return (
                f"Waiting for {named} rollout to finish: it is paused, {updated} out of {desired} new pods have "
                "been updated, and it goes on after `rollout resume`..."
            )
        case _ if updated < desired:
            done = f"{updated} out of {desired} new pods have been updated..."
        case _:
            done = f"{available} of {desired} updated pods are available..."
    return f"Waiting for {named} rollout to finish: {done}"


def describe_hold(strategy: UpdateStrategy) -> str:
    """Say what keeps the other nodes on their old revision; empty if nothing does."""
    holds = []
    if strategy.partition not in {0, "0%"}:
        holds.append(f"partition {strategy.partition} keeps nodes on their old revision")
    if strategy.selector is not None:
        holds.append(f"selector {selector_text(strategy.selector)} leaves out all other nodes")
    return f" ({', '.join(holds)})" if holds else ""
