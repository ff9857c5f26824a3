"""What a plan takes in of a log: what matters of it, whatever the order in which it is told."""

from __future__ import annotations

from tests.unit.test_planning import (
    COMMAND,
    NODES,
    NOW_MS,
    SUBJECTS,
    agent,
    covered,
    fleet,
    hear,
    running,
)

from everynode import wire
from everynode.core.commands import CreatePod, ReleasePod, outcome_of
from everynode.core.events import DaemonSetObserved, NodeObserved
from everynode.ports import Received
from everynode.runtime.ledger import pod_gone


def test_a_pod_that_came_back() -> None:
    """A pod was let go of and is the set's again: that it had gone shows that the release is not on its way."""
    known = covered(agent(), NODES[:1])
    back = running(agent(), NODES[:1])
    release = ReleasePod(**COMMAND, node="a", pod="pod-a", pod_uid="uid-pod-a")
    hear(known, release, pod_gone(back[0].pod, "it was let go of"), *back)

    assert 0 == known.arrive(NOW_MS)
    assert 1 == len(known.state.sets[agent().key].pods)


def test_what_comes_late() -> None:
    """A message about a pod that is older than what is known of it changes nothing."""
    known = fleet(DaemonSetObserved(daemonset=agent()))
    hear(known, *running(agent(), NODES[:1]))
    (late,) = running(agent(), NODES[:1], ready=False)
    known.take(Received(50, NOW_MS, SUBJECTS.of(late), wire.encode(late)))
    known.settle(NOW_MS)

    (found,) = known.state.sets[agent().key].pods.values()
    assert found.pod.ready


def test_what_was_said_of_commands() -> None:
    """It is asked only of those that have not taken effect; one that has failed is not on its way any more."""
    made = CreatePod(**COMMAND, node="a", node_uid="uid-a", pod="pod-a", revision="x")
    asked = {**COMMAND, "id": "other"}
    other = CreatePod(**asked, node="b", node_uid=NODES[1].uid, pod="pod-b", revision="x")
    known = covered(agent(), NODES[:1])
    hear(known, NodeObserved(node=NODES[1]), made, other)

    (subject,) = known.outcome_subjects()
    failed = outcome_of(other, "failed")
    assert subject == SUBJECTS.of(failed)
    known.take(Received(200, NOW_MS, subject, wire.encode(failed)))
    assert 0 == known.arrive(NOW_MS)
