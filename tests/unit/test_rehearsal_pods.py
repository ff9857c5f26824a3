"""The backends of a rehearsal keep an adapter's promises: identity, preconditions, and an outcome for each command."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.unit.support_rehearsal import BEGIN_MS, SET, adopt, create, delete

from everynode.core.commands import Command, Outcome
from everynode.core.events import NodeObserved, PodGone, PodObserved
from everynode.core.values import Owner, Pod
from everynode.replay import durations as usual
from everynode.replay.durations import APPLY_MS, Durations
from everynode.replay.pods import Effect, RehearsedPods
from everynode.testing.builders import node, pod
from everynode_simulated import Behaviour

NODE = node("node-0")
DOWN = replace(NODE, ready=False)
ONE = pod(SET, NODE)
STOP_MS = 500
LEAVING = replace(ONE, ready=False, ready_since_ms=0, deleting=True, deleting_since_ms=BEGIN_MS)


def backend(*there: Pod, durations: Durations | None = None) -> RehearsedPods:
    """A node, and pods on it."""
    made = RehearsedPods(durations or Durations(stop_ms=STOP_MS))
    made.mirror(NodeObserved(node=NODE))
    for each in there:
        made.mirror(PodObserved(pod=each))
    made.begin((), BEGIN_MS)
    return made


def carried_out(pods: RehearsedPods, command: Command) -> list[Effect]:
    """Let a command arrive."""
    pods.send([command], BEGIN_MS)
    return pods.advance(BEGIN_MS + APPLY_MS)


@pytest.mark.parametrize(
    ("there", "result"),
    [
        (ONE, "done"),
        (replace(ONE, owner=None), "refused"),
        (replace(ONE, owner=Owner(name=SET.name, uid="another")), "refused"),
    ],
)
def test_a_name_that_is_taken(there: Pod, result: str) -> None:
    """A pod that is there and ours is success; somebody else's is not."""
    [outcome] = carried_out(backend(there), create(ONE))
    assert isinstance(outcome, Outcome)
    assert result == outcome.result


def test_a_name_that_gets_free() -> None:
    """A create waits until the pod of its name is gone."""
    pods = backend(LEAVING)
    assert [] == carried_out(pods, create(ONE))
    gone, made, outcome = pods.advance(BEGIN_MS + APPLY_MS + STOP_MS)
    assert isinstance(gone, PodGone)
    assert isinstance(made, PodObserved)
    assert isinstance(outcome, Outcome)
    assert gone.uid != made.pod.uid == outcome.pod_uid


def test_a_node_of_another_identity() -> None:
    """Nothing is made on a node that only has the name."""
    [outcome] = carried_out(backend(), replace(create(ONE), node_uid="another"))
    assert isinstance(outcome, Outcome)
    assert "refused" == outcome.result


def test_a_pod_that_starts_at_once() -> None:
    """It is ready when it is first seen."""
    first, *_ = carried_out(backend(durations=Durations(start_ms=0)), create(ONE))
    assert isinstance(first, PodObserved)
    assert first.pod.ready


def test_a_pod_of_which_nothing_is_known() -> None:
    """It takes what the simulated backend takes at most."""
    simulated = Behaviour()
    assert (simulated.start_ms[1], simulated.stop_ms[1]) == (usual.START_MS, usual.STOP_MS)


def test_deleting_a_pod_of_another_identity() -> None:
    """The pod that has the name now stays."""
    pods = backend(ONE)
    [outcome] = carried_out(pods, replace(delete(ONE), pod_uid="another"))
    assert isinstance(outcome, Outcome)
    assert ("done", [ONE]) == (outcome.result, list(pods.pods.values()))


def test_adopting() -> None:
    """A pod changes hands: it is said under its new owner, then ended under the old one."""
    orphan = replace(ONE, owner=None)
    seen, gone, outcome = carried_out(backend(orphan), adopt(orphan))
    assert isinstance(seen, PodObserved)
    assert isinstance(gone, PodGone)
    assert isinstance(outcome, Outcome)
    assert (ONE.owner, None, "done") == (seen.pod.owner, gone.owner, outcome.result)


@pytest.mark.parametrize(
    "there",
    [ONE, replace(ONE, owner=None, uid="another"), replace(LEAVING, owner=None)],
    ids=["owned", "another", "leaving"],
)
def test_what_cannot_be_adopted(there: Pod) -> None:
    """A pod that has an owner, is another one, or is on its way out stays what it is."""
    pods = backend(there)
    [outcome] = carried_out(pods, adopt(ONE))
    assert isinstance(outcome, Outcome)
    assert ("superseded", [there]) == (outcome.result, list(pods.pods.values()))


def test_a_node_leaves_with_what_was_leaving() -> None:
    """Nobody is left there to say that a pod has stopped."""
    [gone] = backend(LEAVING).node_gone(NODE.key)
    assert isinstance(gone, PodGone)


def test_a_pod_on_its_way_out_does_not_get_ready() -> None:
    """Not even when its node does."""
    pods = backend(ONE)
    list(pods.node_observed(DOWN, BEGIN_MS))
    carried_out(pods, delete(ONE))
    assert [] == list(pods.node_observed(NODE, BEGIN_MS + APPLY_MS + 1))
