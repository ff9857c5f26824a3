"""With which message of the log the need for a command arose.

Used by ``explaining``. What a decision knew is folded by the core itself, message by message, as far as one node and
its sets go; after each, the core's own rules are asked whether they would want the command, were it not for limits,
pace and what is under way. The message at which the answer became yes is the cause.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from everynode.core.claims import OUTDATED, claim
from everynode.core.commands import AdoptPod, Command, CreatePod, DeletePod, ReleasePod
from everynode.core.decision import unwanted
from everynode.core.events import PodGone, PodObserved, Tick
from everynode.core.identity import RevisionOf
from everynode.core.pacing import Limits
from everynode.core.setstate import SetState
from everynode.core.state import FleetState, Record
from everynode.core.values import ROLLING_UPDATE, NodeKey
from everynode.errors import RefusedError
from everynode.replay.explaining_facts import Fact, Told, fact_of
from everynode.replay.explaining_history import History, Issued
from everynode.replay.explaining_reasons import NO_LONGER_FOR_THE_NODE


class Situation(NamedTuple):
    """What was known when a command was decided.

    Attributes:
        fleet: The node and the sets, as they were at the decision's basis.
        causes: With what the need arose.
        by_time: The need arose by time alone, some time after that.
    """

    fleet: FleetState
    causes: tuple[Fact, ...]
    by_time: bool


def situation_of(history: History, issued: Issued, naming: RevisionOf) -> Situation:
    """Fold up to what a decision knew, and note with which message the need for its command arose.

    Args:
        history: What happened on the command's node.
        issued: The command; one of the history's.
        naming: Says what a set's template is called.
    """
    command, decision = issued.command, issued.decision
    record = issued.told.record
    basis = record.sequence - 1 if decision is None else decision.basis
    at_ms = record.time_ms if decision is None else decision.at_ms
    fleet = FleetState(Limits(), naming)
    needed = outdated = by_time = False
    arose: Told | None = None
    aged: Told | None = None  # since when the pod is of an old template
    last: Told | None = None  # that time could have done something about
    for told in history.facts:
        if told.record.sequence > basis:
            break
        if not told.is_kept and not needed and last is not None:
            _pass_time(fleet, fleet.sequence, told.record.time_ms)
            if is_needed(fleet, command):
                needed, by_time, arose = True, True, last
        fold_told(fleet, told)
        now_needed, now_outdated = is_needed(fleet, command), _is_outdated(fleet, command)
        if now_needed and not needed:
            arose, by_time = told, False
        if now_outdated and not outdated:
            aged = told
        needed, outdated = now_needed, now_outdated
        if last is None or isinstance(told.record.message, PodObserved):
            last = told
    _pass_time(fleet, basis, at_ms)
    if not needed and is_needed(fleet, command):
        needed, by_time, arose = True, True, last
    causes = [arose] if needed else []
    if outdated and command.reason == OUTDATED:
        causes.append(aged)
    told_of = {each.record.sequence: each for each in causes if each is not None}
    facts = [fact_of(each, history.before(each)) for each in told_of.values()]
    if needed and arose is not None:
        facts += _taken_away(history, arose)
    return Situation(fleet, tuple(facts), by_time)


def _taken_away(history: History, arose: Told) -> Iterator[Fact]:
    """Name the command by which a pod went, if it is a pod that went that left its node without one."""
    message = arose.record.message
    if not isinstance(message, PodGone):
        return
    for issued in reversed(history.issued):
        command = issued.command
        if isinstance(command, DeletePod | ReleasePod) and command.pod_uid == message.uid:
            worker = issued.decision.worker if issued.decision else ""
            fact = fact_of(issued.told, worker=worker)
            yield fact._replace(what=f"{fact.what}: {command.reason}")
            return


def fold_told(fleet: FleetState, told: Told) -> None:
    """Fold a message, as a worker does; one that a worker cannot use changes nothing."""
    with contextlib.suppress(RefusedError):
        (fleet.load if told.is_kept else fleet.fold)(told.record)


def _pass_time(fleet: FleetState, sequence: int, now_ms: int) -> None:
    fleet.fold(Record(sequence, now_ms, Tick(shard=0, due_ms=now_ms)))


def is_needed(fleet: FleetState, command: Command) -> bool:
    """Say whether the core would want this, were it not for its limits, its pace and what is under way."""
    if command.set_key not in fleet.sets:
        return False
    state, key = fleet.refreshed(command.set_key), command.node_key
    if isinstance(command, CreatePod):
        if command.reason == OUTDATED:
            return _is_open(fleet, state, key)
        node_id, nodes = fleet.index.ids.get(key), state.coverage
        return node_id is not None and node_id in nodes.eligible - nodes.obstructed
    if isinstance(command, AdoptPod):
        adopted = claim(state, key, fleet.index.get(key), fleet.now_ms).adopted
        return adopted is not None and adopted.uid == command.pod_uid
    if command.reason == OUTDATED and not state.surges:
        return _is_open(fleet, state, key) and _is_outdated(fleet, command)
    same = NO_LONGER_FOR_THE_NODE if command.reason in NO_LONGER_FOR_THE_NODE else {command.reason}
    return any(
        item.pod.uid == command.pod_uid and item.reason in same
        for item in unwanted(fleet, state, key)
    )


def _is_open(fleet: FleetState, state: SetState, key: NodeKey) -> bool:
    """Say whether a node has an old pod that the rollout may replace, if its budget lets it."""
    node_id, nodes, strategy = fleet.index.ids.get(key), state.coverage, state.strategy
    if strategy.type != ROLLING_UPDATE or strategy.paused:
        return False
    return node_id is not None and node_id in nodes.eligible & nodes.outdated & nodes.chosen


def _is_outdated(fleet: FleetState, command: Command) -> bool:
    state = fleet.sets.get(command.set_key)
    if state is None or state.daemonset is None:
        return False
    pods = (state.pods[key].pod for key in state.pods_on.get(command.node_key, ()))
    return any(
        pod.live and pod.revision != state.revision
        for pod in pods
        if isinstance(command, CreatePod) or pod.uid == command.pod_uid
    )
